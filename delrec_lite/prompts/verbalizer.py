"""Verbalizers turn the LLM's output into scores of items. A recipe names one (``model.verbalizer``).

A verbalizer has two classes. ``VerbalizerKind`` serves prompts, bundles and serving, without torch; the class that it
names in ``training`` serves training and export, see ``delrec_lite/llm/verbalizer.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delrec_lite.data.types import Floats
from delrec_lite.errors import ConfigError
from delrec_lite.prompts.words import Encode
from delrec_lite.registry import Registry

Pieces = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Candidate:
    """An item to score.

    Attributes:
        row: Token id of its row of the extended vocabulary; None: a new item, or items have no rows.
        title: Token ids of its title, where the verbalizer reads titles; else empty.
    """

    row: int | None
    title: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What an engine provides after it has evaluated a question.

    Attributes:
        logits: At the question's last token, of every token of the bundle's vocabulary, float32 ``[vocabulary]``.
        log_probabilities: Of texts after the question: token ids of each -> float32 ``[texts]``, the sums over their
            tokens, normalised over the text tokens. For a verbalizer that is ``continued``.
    """

    logits: Floats
    log_probabilities: Callable[[Sequence[Sequence[int]]], Floats]


@dataclass(frozen=True)
class VerbalizerKind(ABC):
    """A verbalizer without torch.

    Attributes:
        name: Its name in recipes and bundles.
        training: Its class of ``delrec_lite.llm.verbalizer.Verbalizer``, or ``module:Class``, imported when needed.
        item_rows: Every item is a row of the output head whose logit is its score, so that one evaluation ranks the
            whole catalogue where the prompt lists no candidates; new items cannot be candidates then.
        titles: It needs the token ids of the candidates' titles.
        continued: Candidates' titles are evaluated after the question, for their probability.
        listed: The prompt must list the candidates.
        all_text: It normalises over all text tokens, so export must not remove any.
        pieces: Names of the pieces that it adds to the prompt; see ``compile``.
        labels: The piece whose tokens label the candidates in the list, one each; empty: candidates have no labels.
    """

    name: str
    training: str | type[Any]
    item_rows: bool = False
    titles: bool = False
    continued: bool = False
    listed: bool = False
    all_text: bool = False
    pieces: tuple[str, ...] = ()
    labels: str = ""

    @abstractmethod
    def score(self, answer: Answer, candidates: Sequence[Candidate], pieces: Pieces) -> Floats:
        """Scores of candidates when serving: float32 ``[candidates]``, those of ``Verbalizer.scores`` in training.

        Args:
            answer: The engine's output.
            candidates: At least one.
            pieces: The result of ``compile``, in the bundle's vocabulary.
        """

    def compile(self, encode: Encode) -> Pieces:
        """Token ids of the pieces that it adds to the prompt, by the names in ``pieces``.

        Raises:
            ConfigError: The tokenizer cannot write them.
        """
        return {}

    def ranking(self, listed: bool) -> str:
        """One sentence for a bundle's README: which logits give the ranking.

        Args:
            listed: Whether the prompt lists the candidates.

        Returns:
            Empty where no single token is an answer, so that other runtimes cannot rank with the model.
        """
        return ""


PACKAGE = "delrec_lite.prompts.verbalizers"
VERBALIZERS: Registry[VerbalizerKind] = Registry("verbalizer", VerbalizerKind, PACKAGE, PACKAGE, ConfigError)


def register_verbalizer(kind: VerbalizerKind) -> VerbalizerKind:
    """Register a verbalizer in this process.

    Raises:
        ConfigError: A built-in verbalizer has this name.
    """
    return VERBALIZERS.register(kind)
