"""The side of a verbalizer that training and export need: scores with gradients, what learns, rows of the head."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delrec_lite.data.types import Ints
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.verbalizer import VerbalizerKind

Tokens = Sequence[int]


@dataclass(frozen=True)
class Question:
    """One question about candidates.

    Attributes:
        ids: Extended token ids behind the prefix; the answer is read at the last.
        candidates: Item indices, ``[m]``.
    """

    ids: list[int]
    candidates: Ints


class Verbalizer(ABC):
    """Scores candidates; whatever learns is reached by gradients through the scores."""

    @abstractmethod
    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """Scores of each question's candidates.

        Args:
            model: The recommender.
            prompts: The compiled tasks.
            prefix: Token ids before every question.
            questions: At least one, all with the same number m of candidates.

        Returns:
            float32 ``[questions, m]``; the softmax over m is the distribution that is trained.
        """

    @abstractmethod
    def head_rows(self, model: ItemLM, prompts: Prompts) -> tuple[Tokens, Any]:
        """What export writes as the output head's rows, so that logits are what serving scores with.

        Returns:
            Extended token ids and their rows, float32 ``[ids, hidden]``; all other tokens are made to be no answer.
        """

    def item_rows(self, model: ItemLM) -> Any:
        """Of a kind with ``item_rows``: the rows that score the catalogue, float32 ``[items, hidden]``."""
        raise NotImplementedError(f"{type(self).__name__} has no row for every item")

    def learned(self, model: ItemLM) -> dict[str, Any]:
        """Parameters of the model, by their names in it, that stage 2 trains for it beside the adapter."""
        return {}

    def calibrate(self, model: ItemLM, prompts: Prompts, windows: Sequence[Ints]) -> None:  # noqa: B027 - may do nothing
        """Called before stage 1 with a few training windows; may change the untrained model in place."""


def training_side(kind: VerbalizerKind) -> Verbalizer:
    """A verbalizer's side that training and export need."""
    made = pkgutil.resolve_name(kind.training) if isinstance(kind.training, str) else kind.training
    verbalizer: Verbalizer = made()
    return verbalizer


def verbalizer_of(prompts: Prompts) -> Verbalizer:
    """The verbalizer of the prompts' form."""
    return training_side(prompts.format.verbalizer_kind)


def catalogue_scores(model: ItemLM, prompts: Prompts, states: Any) -> Any:
    """Scores of the whole catalogue at hidden states, with gradients: float32 ``[states, items]``."""
    return states @ verbalizer_of(prompts).item_rows(model).T
