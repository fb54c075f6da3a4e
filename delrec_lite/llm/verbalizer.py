"""The interface of a verbalizer for training and export: scores with gradients, parameters, rows of the head."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from delrec_lite.data.types import Ints
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.verbalizer import VerbalizerKind
from delrec_lite.softmax.parts import block_ends

Tokens = Sequence[int]


@dataclass(frozen=True)
class Question:
    """One question about candidates.

    Attributes:
        ids: Extended token ids after the prefix; the answer is read at the last one.
        candidates: Item indices, ``[m]``.
    """

    ids: list[int]
    candidates: Ints


class Verbalizer(ABC):
    """Scores candidates; gradients flow through the scores to all trained parameters."""

    @abstractmethod
    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """Scores of each question's candidates.

        Args:
            model: The recommender.
            prompts: The compiled tasks.
            prefix: Token ids before every question.
            questions: At least one, all with the same number m of candidates.

        Returns:
            float32 ``[questions, m]``; their softmax over m is the distribution that is trained.
        """

    @abstractmethod
    def head_rows(self, model: ItemLM, prompts: Prompts) -> tuple[Tokens, Any]:
        """The rows of the output head that export writes; serving scores with their logits.

        Returns:
            Extended token ids and their rows, float32 ``[ids, hidden]``; export excludes all other tokens from answers.
        """

    def item_rows(self, model: ItemLM) -> Any:
        """The rows that score the catalogue, float32 ``[items, hidden]``, of a kind with ``item_rows``."""
        raise NotImplementedError(f"{type(self).__name__} has no rows for items")

    def rows_of(self, model: ItemLM, items: Any) -> Any:
        """``item_rows`` of items, int64 ``[k]`` or a slice: float32 ``[k, hidden]``; override it if all take long."""
        return self.item_rows(model)[items]

    def learned(self, model: ItemLM) -> dict[str, Any]:
        """Parameters of the model, by name, that stage 2 trains for this verbalizer in addition to the adapter."""
        return {}

    def calibrate(self, model: ItemLM, prompts: Prompts, windows: Sequence[Ints]) -> None:  # noqa: B027 - may do nothing
        """Called before stage 1 with a few training windows; may change the untrained model in place."""


def training_side(kind: VerbalizerKind) -> Verbalizer:
    """The training interface of a verbalizer."""
    factory = pkgutil.resolve_name(kind.training) if isinstance(kind.training, str) else kind.training
    verbalizer: Verbalizer = factory()
    return verbalizer


def verbalizer_of(prompts: Prompts) -> Verbalizer:
    """The verbalizer of the prompts' format."""
    return training_side(prompts.format.verbalizer_kind)


def catalogue_scores(model: ItemLM, prompts: Prompts, states: Any) -> Any:
    """Scores of the whole catalogue at hidden states, with gradients: float32 ``[states, items]``."""
    verbalizer = verbalizer_of(prompts)
    if not model.by_rows:
        return states @ verbalizer.item_rows(model).T
    blocks = (slice(*ends) for ends in block_ends(model.vocabulary.items))
    return torch.cat([states @ verbalizer.rows_of(model, items).T for items in blocks], 1)
