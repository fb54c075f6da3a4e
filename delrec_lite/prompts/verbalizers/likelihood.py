"""likelihood: the log-probability of the candidate's title after the question."""

from collections.abc import Sequence

from delrec_lite.data.types import Floats
from delrec_lite.prompts.verbalizer import Answer, Candidate, Pieces, VerbalizerKind


class Likelihood(VerbalizerKind):
    """See ``VerbalizerKind``."""

    def score(self, answer: Answer, candidates: Sequence[Candidate], pieces: Pieces) -> Floats:
        """See ``VerbalizerKind.score``."""
        return answer.log_probabilities([candidate.title for candidate in candidates])


KIND = Likelihood(
    name="likelihood",
    training="delrec_lite.llm.verbalizers.likelihood:Likelihood",
    titles=True,
    continued=True,
    all_text=True,
)
