"""letter (LlamaRec, arXiv 2311.02089): candidates are lettered in the prompt, and their letters' logits score them."""

from collections.abc import Sequence

from delrec_lite.data.types import Floats
from delrec_lite.errors import ConfigError
from delrec_lite.prompts.verbalizer import Answer, Candidate, Pieces, VerbalizerKind
from delrec_lite.prompts.words import TITLE_PREFIX, Encode

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PIECE = "letters"


class Letter(VerbalizerKind):
    """See ``VerbalizerKind``."""

    def compile(self, encode: Encode) -> Pieces:
        """See ``VerbalizerKind.compile``."""
        return {PIECE: letter_ids(encode)}

    def score(self, answer: Answer, candidates: Sequence[Candidate], pieces: Pieces) -> Floats:
        """See ``VerbalizerKind.score``."""
        return answer.logits[list(pieces[PIECE][: len(candidates)])]

    def ranking(self, listed: bool) -> str:
        """See ``VerbalizerKind.ranking``."""
        return "The candidates are lettered, and the logits of their letters are the ranking."


def letter_ids(encode: Encode) -> tuple[int, ...]:
    """Token ids of the letters, with the space before them, or without it where that is no token.

    Raises:
        ConfigError: A letter is not one token either way.
    """
    for before in (TITLE_PREFIX, ""):
        encoded = [encode(before + letter) for letter in LETTERS]
        if all(len(ids) == 1 for ids in encoded) and len({ids[0] for ids in encoded}) == len(LETTERS):
            return tuple(ids[0] for ids in encoded)
    raise ConfigError(
        "the base model's tokenizer has no single token for each of the letters A to Z",
        "set model.verbalizer to title-mean or likelihood",
    )


KIND = Letter(
    name="letter",
    training="delrec_lite.llm.verbalizers.letter:Letter",
    listed=True,
    pieces=(PIECE,),
    labels=PIECE,
)
