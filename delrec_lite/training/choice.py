"""Training on candidate sets: each window gives one question, at a random place that the seed decides."""

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
from delrec_lite.teachers.ensemble import Mixture
from delrec_lite.training.context import TrainingContext

TOP = 10  # h: how many of the teacher's first items are candidates in pattern simulating (section 5.1)


@dataclass(frozen=True)
class CandidateBatch:
    """Questions of one step.

    Attributes:
        histories: Item indices, oldest first.
        candidates: int64 ``[questions, m]``.
        places: Index of the answer among each question's candidates, int64 ``[questions]``.
    """

    histories: list[Ints]
    candidates: Ints
    places: Ints

    def examples(self) -> list["Example"]:
        """The questions one by one."""
        return list(zip(self.histories, self.candidates, self.places.tolist(), strict=True))

    @staticmethod
    def of(questions: Sequence["Example"]) -> "CandidateBatch":
        """A batch of these questions."""
        return _candidate_batch([history for history, _, _ in questions], [(c, place) for _, c, place in questions])


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
        """The next item at a random place of each window; the negatives are items that the window does not hold."""
        rng = np.random.default_rng([self.seed, step, 0])
        cuts = [int(rng.integers(1, len(window))) for window in batch]
        sets = [self._with_negatives(rng, int(w[cut]), w) for w, cut in zip(batch, cuts, strict=True)]
        return _candidate_batch([w[:cut] for w, cut in zip(batch, cuts, strict=True)], sets)

    def pattern(self, step: int, batch: Sequence[Ints], teacher: Teacher | Mixture) -> tuple[CandidateBatch, Floats]:
        """The teacher's first items after a random place of each window, and random negatives; its first is the answer.

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
            negatives = rng.choice(order[top:], self.m - top, replace=False)
            sets.append(_shuffled(rng, int(order[0]), np.concatenate([order[1:top], negatives])))
        questions = _candidate_batch(histories, sets)
        return questions, np.take_along_axis(scores, questions.candidates, 1)

    def temporal(self, step: int, batch: Sequence[Ints]) -> CandidateBatch:
        """The hidden item of temporal analysis, the last but one of each window; ``histories`` are the full windows."""
        rng = np.random.default_rng([self.seed, step, 2])
        return _candidate_batch(list(batch), [self._with_negatives(rng, int(window[-2]), window) for window in batch])

    def _with_negatives(self, rng: Any, target: int, seen: Ints) -> tuple[Ints, int]:
        pool = np.setdiff1d(np.arange(self.items), seen)
        if len(pool) < self.m - 1:  # a user who had nearly every item must not stop the training of all others
            pool = np.setdiff1d(np.arange(self.items), [target])
        if len(pool) < self.m - 1:
            raise DataError(
                f"the catalogue has {self.items} items, {self.m} candidates are needed",
                "ask for fewer candidates (data.candidates)",
            )
        return _shuffled(rng, target, rng.choice(pool, self.m - 1, replace=False))


def _shuffled(rng: Any, target: int, negatives: Ints) -> tuple[Ints, int]:
    """The candidate set with its target at a random place, and that place."""
    place = int(rng.integers(len(negatives) + 1))
    return np.insert(rng.permutation(negatives), place, target), place


def _candidate_batch(histories: list[Ints], sets: Sequence[tuple[Ints, int]]) -> CandidateBatch:
    return CandidateBatch(histories, np.stack([s for s, _ in sets]), np.array([place for _, place in sets]))


def next_logits(context: TrainingContext, questions: CandidateBatch) -> Any:
    """Scores of the candidates for the next item: float32 ``[questions, m]``, with gradients."""
    prompts, pairs = context.prompts, zip(questions.histories, questions.candidates, strict=True)
    return next_scores(context.model, prompts, [next_question(prompts, h, c, context.max_history) for h, c in pairs])


def temporal_logits(context: TrainingContext, questions: CandidateBatch) -> Any:
    """Scores of the candidates of temporal analysis: float32 ``[questions, m]``, with gradients."""
    prompts, pairs = context.prompts, zip(questions.histories, questions.candidates, strict=True)
    return temporal_scores(context.model, prompts, [temporal_question(prompts, w, c) for w, c in pairs])


def cross_entropy(logits: Any, questions: CandidateBatch) -> Any:
    """Mean cross-entropy of the answers, nats a question."""
    return F.cross_entropy(logits, torch.from_numpy(questions.places).to(logits.device))


def divergence(logits: Any, teacher_scores: Floats, temperature: float = 1.0) -> Any:
    """Mean KL from the teacher's distribution over the candidates to the model's, nats a question."""
    target = F.log_softmax(torch.from_numpy(teacher_scores).to(logits.device) / temperature, 1)
    return F.kl_div(F.log_softmax(logits, 1), target, reduction="batchmean", log_target=True)


def next_item_loss(
    context: TrainingContext, questions: CandidateBatch, teacher_weight: float
) -> tuple[Any, dict[str, float]]:
    """Stage 2 on candidates: cross-entropy of the next item, mixed with the divergence from the teacher.

    Args:
        context: Its teacher is used only if ``teacher_weight`` is above 0.
        questions: From ``Sampler.next_item``.
        teacher_weight: The teacher's share of the target.

    Returns:
        The loss, nats a question, and its terms by name.
    """
    logits = next_logits(context, questions)
    loss = cross_entropy(logits, questions)
    figures = {"next_item": loss.item()}
    if teacher_weight > 0:
        teacher_scores = context.teacher.scores(questions.histories)
        kl = divergence(logits, np.take_along_axis(teacher_scores, questions.candidates, 1))
        figures["teacher"] = kl.item()
        loss = (1 - teacher_weight) * loss + teacher_weight * kl
    return loss, figures
