"""Training where the answer is one of some candidates: each window asks one question, at a place from the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import DataError
from delrec_lite.llm.questions import next_question, next_scores, temporal_question, temporal_scores
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.training.context import TrainingContext

TOP = 10  # h: how many of the teacher's first stand among the candidates of pattern simulating (section 5.1)


@dataclass(frozen=True)
class CandidateBatch:
    """Questions of one step.

    Attributes:
        histories: Item indices, oldest first.
        candidates: int64 ``[questions, m]``.
        places: Where among its candidates each question's answer is, int64 ``[questions]``.
    """

    histories: list[Ints]
    candidates: Ints
    places: Ints

    def each(self) -> list["Example"]:
        """The questions one by one."""
        return list(zip(self.histories, self.candidates, self.places.tolist(), strict=True))

    @staticmethod
    def of(questions: Sequence["Example"]) -> "CandidateBatch":
        """Questions put together again."""
        return _asked([history for history, _, _ in questions], [(chosen, place) for _, chosen, place in questions])


Example = tuple[Ints, Ints, int]


@dataclass(frozen=True)
class Sampler:
    """Candidate sets for training; the same for the same seed, task and step.

    Attributes:
        items: Size of the catalogue.
        m: Candidates of a question.
        seed: Of the stage.
    """

    items: int
    m: int
    seed: int

    def next_item(self, step: int, batch: Sequence[Ints]) -> CandidateBatch:
        """What came next at a random place of each window; the other candidates are none of the window's items."""
        rng = np.random.default_rng([self.seed, step, 0])
        cuts = [int(rng.integers(1, len(window))) for window in batch]
        sets = [self._around(rng, int(w[cut]), w) for w, cut in zip(batch, cuts, strict=True)]
        return _asked([w[:cut] for w, cut in zip(batch, cuts, strict=True)], sets)

    def pattern(self, step: int, batch: Sequence[Ints], teacher: Teacher | Ensemble) -> tuple[CandidateBatch, Floats]:
        """The teacher's first few after a random place of each window among others; the answer is its very first.

        Returns:
            The questions, and the teacher's scores of their candidates: float32 ``[questions, m]``.
        """
        rng = np.random.default_rng([self.seed, step, 1])
        histories = [window[: int(rng.integers(1, len(window)))] for window in batch]
        scores = teacher.scores(histories)
        sets = []
        for row in scores:
            order = np.argsort(-row, kind="stable")
            top = min(TOP, self.m - 1)
            others = rng.choice(order[top:], self.m - top, replace=False)
            sets.append(_shuffled(rng, int(order[0]), np.concatenate([order[1:top], others])))
        asked = _asked(histories, sets)
        return asked, np.take_along_axis(scores, asked.candidates, 1)

    def temporal(self, step: int, batch: Sequence[Ints]) -> CandidateBatch:
        """The hidden item of temporal analysis, each window's second-last; the ``histories`` are whole windows."""
        rng = np.random.default_rng([self.seed, step, 2])
        return _asked(list(batch), [self._around(rng, int(window[-2]), window) for window in batch])

    def _around(self, rng: Any, target: int, seen: Ints) -> tuple[Ints, int]:
        pool = np.setdiff1d(np.arange(self.items), seen)
        if len(pool) < self.m - 1:
            raise DataError(
                f"a window leaves {len(pool)} items of the catalogue unseen, {self.m - 1} negatives are wanted",
                "ask for fewer candidates (data.candidates) or a shorter model.max_history",
            )
        return _shuffled(rng, target, rng.choice(pool, self.m - 1, replace=False))


def _shuffled(rng: Any, target: int, others: Ints) -> tuple[Ints, int]:
    """A set with its target at a random place, and that place."""
    place = int(rng.integers(len(others) + 1))
    return np.insert(rng.permutation(others), place, target), place


def _asked(histories: list[Ints], sets: Sequence[tuple[Ints, int]]) -> CandidateBatch:
    return CandidateBatch(histories, np.stack([s for s, _ in sets]), np.array([place for _, place in sets]))


def next_logits(context: TrainingContext, asked: CandidateBatch) -> Any:
    """Scores of the candidates of what comes next: float32 ``[questions, m]``, with gradients."""
    prompts, pairs = context.prompts, zip(asked.histories, asked.candidates, strict=True)
    return next_scores(context.model, prompts, [next_question(prompts, h, c, context.max_history) for h, c in pairs])


def temporal_logits(context: TrainingContext, asked: CandidateBatch) -> Any:
    """Scores of the candidates of temporal analysis: float32 ``[questions, m]``, with gradients."""
    prompts, pairs = context.prompts, zip(asked.histories, asked.candidates, strict=True)
    return temporal_scores(context.model, prompts, [temporal_question(prompts, w, c) for w, c in pairs])


def cross_entropy(logits: Any, asked: CandidateBatch) -> Any:
    """Mean cross-entropy of the answers, nats a question."""
    return F.cross_entropy(logits, torch.from_numpy(asked.places).to(logits.device))


def divergence(logits: Any, wanted: Floats, temperature: float = 1.0) -> Any:
    """Mean KL from the teacher's distribution over the candidates to the model's, nats a question."""
    target = F.log_softmax(torch.from_numpy(wanted).to(logits.device) / temperature, 1)
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean", log_target=True)


def next_item_loss(
    context: TrainingContext, asked: CandidateBatch, teacher_weight: float
) -> tuple[Any, dict[str, float]]:
    """Stage 2 among candidates: cross-entropy of what came next, mixed with the divergence from the teacher.

    Args:
        context: Its teacher is asked only where it weighs something.
        asked: From ``Sampler.next_item``.
        teacher_weight: The teacher's share of the target.

    Returns:
        The loss, nats a question, and its parts by name.
    """
    logits = next_logits(context, asked)
    loss = cross_entropy(logits, asked)
    figures = {"next_item": loss.item()}
    if teacher_weight > 0:
        kl = divergence(logits, np.take_along_axis(context.teacher.scores(asked.histories), asked.candidates, 1))
        figures["teacher"] = kl.item()
        loss = (1 - teacher_weight) * loss + teacher_weight * kl
    return loss, figures
