"""title-mean (DELRec): the logit of the item's row, which starts training as the mean of its title's LM-head rows."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.prompts.verbalizer import Answer, Candidate, Pieces, VerbalizerKind


class TitleMean(VerbalizerKind):
    """See ``VerbalizerKind``."""

    def score(self, answer: Answer, candidates: Sequence[Candidate], pieces: Pieces) -> Floats:
        """See ``VerbalizerKind.score``."""
        return answer.logits[np.array([candidate.row for candidate in candidates], np.int64)]

    def ranking(self, listed: bool) -> str:
        """See ``VerbalizerKind.ranking``."""
        if listed:
            return "Every item is one token whose text is its title: the logits of the candidates' are the ranking."
        return (
            "Every item is one token whose text is its title, and its output row is what scores it: the logits behind\n"
            "a prompt that lists titles are the ranking."
        )


KIND = TitleMean(name="title-mean", training="delrec_lite.llm.verbalizers.title_mean:TitleMean", item_rows=True)
