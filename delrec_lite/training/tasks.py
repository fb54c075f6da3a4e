"""The two tasks of stage 1 as losses: pattern simulating (DELRec, section 4.3) and temporal analysis (section 4.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.config import DistillSection
from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.packing import Segment
from delrec_lite.llm.verbalizer import catalogue_scores
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.training.choice import (
    CandidateBatch,
    Example,
    Sampler,
    cross_entropy,
    divergence,
    next_logits,
    temporal_logits,
)
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.loop import LossOf
from delrec_lite.training.micro_batches import micro_batch_losses
from delrec_lite.training.windows import StepPlan

SHORTEST_TEMPORAL = 8  # an example of four, then a question of four


def task_losses(context: TrainingContext, recipe: DistillSection, micro_batch_count: int) -> dict[str, LossOf]:
    """The losses of the recipe's tasks, by micro-batch.

    Args:
        context: Model and data; a form that cannot rank the catalogue gets questions with as many candidates as the
            context's sets have.
        recipe: Stage 1 of the recipe.
        micro_batch_count: Micro-batches of a step.

    Returns:
        By name, ``pattern`` before ``temporal``.
    """
    model, prompts, train = context.model, context.prompts, context.dataset.train()
    temporal_tokens = round(recipe.tokens_per_step * recipe.temporal_share)
    pattern = StepPlan(train, context.max_history, recipe.tokens_per_step - temporal_tokens, recipe.seed)
    long_enough = [s for s in train if len(s) >= SHORTEST_TEMPORAL]
    temporal = StepPlan(long_enough, context.max_history, temporal_tokens, recipe.seed + 1)
    sampler = Sampler(len(context.dataset.catalog), context.m, recipe.seed)

    def pattern_windows(step: int) -> list[Ints]:
        return truncate_to_context(prompts, pattern.at(step), context.max_history)

    def pattern_window_loss(batch: Sequence[Ints], _: int) -> tuple[Any, dict[str, float]]:
        return pattern_loss(context, batch, recipe), {}

    def pattern_questions(step: int) -> list[tuple[Example, Floats]]:
        questions, teacher_scores = sampler.pattern(step, pattern.at(step), context.teacher)
        return list(zip(questions.examples(), teacher_scores, strict=True))

    def pattern_question_loss(examples: Sequence[tuple[Example, Floats]], _: int) -> tuple[Any, dict[str, float]]:
        questions = CandidateBatch.of([question for question, _ in examples])
        logits = next_logits(context, questions)
        if recipe.pattern_loss == "top1":
            return cross_entropy(logits, questions), {}
        return divergence(logits, np.stack([teacher_scores for _, teacher_scores in examples]), recipe.temperature), {}

    def temporal_windows(step: int) -> list[Ints]:
        return [window for window in temporal.at(step) if len(window) >= SHORTEST_TEMPORAL]

    def temporal_window_loss(batch: Sequence[Ints], _: int) -> tuple[Any, dict[str, float]]:
        return temporal_loss(context, batch) if batch else model.soft.sum() * 0.0, {}

    def temporal_questions(step: int) -> list[Example]:
        batch = temporal_windows(step)
        return sampler.temporal(step, batch).examples() if batch else []

    def temporal_question_loss(examples: Sequence[Example], _: int) -> tuple[Any, dict[str, float]]:
        if not examples:
            return model.soft.sum() * 0.0, {}
        questions = CandidateBatch.of(examples)
        return cross_entropy(temporal_logits(context, questions), questions), {}

    losses: dict[str, LossOf] = {}
    ranks_catalogue = prompts.format.ranks_catalogue
    if temporal_tokens < recipe.tokens_per_step:
        losses["pattern"] = (
            micro_batch_losses(pattern_window_loss, pattern_windows, lambda window: len(window) - 1, micro_batch_count)
            if ranks_catalogue
            else micro_batch_losses(pattern_question_loss, pattern_questions, lambda _: 1, micro_batch_count)
        )
    if temporal_tokens:
        losses["temporal"] = (
            micro_batch_losses(temporal_window_loss, temporal_windows, lambda _: 1, micro_batch_count)
            if ranks_catalogue
            else micro_batch_losses(temporal_question_loss, temporal_questions, lambda _: 1, micro_batch_count)
        )
    return losses


def pattern_loss(context: TrainingContext, batch: Sequence[Ints], recipe: DistillSection) -> Any:
    """Mean KL from the teacher's distribution to the model's, over all item boundaries of the windows.

    With ``top1``, as in the paper: mean cross-entropy of the teacher's first item.
    """
    model, prompts = context.model, context.prompts
    inputs = [window[:-1] for window in truncate_to_context(prompts, batch, context.max_history)]
    teacher_log_probs = teacher_distribution(context.teacher, inputs, recipe.temperature)
    states = read_states(model, prompts.next_prefix, [window_segment(prompts, window) for window in inputs])
    teacher_log_probs, scores = teacher_log_probs.to(states.device), catalogue_scores(model, prompts, states)
    if recipe.pattern_loss == "top1":
        return F.cross_entropy(scores, teacher_log_probs.argmax(1))
    return F.kl_div(F.log_softmax(scores, 1), teacher_log_probs, reduction="batchmean", log_target=True)


def truncate_to_context(prompts: Prompts, batch: Sequence[Ints], max_history: int) -> list[Ints]:
    """The windows without the oldest items that do not fit into the prompt."""
    return [window[-len(prompts.newest(window[:-1], max_history)) - 1 :] for window in batch]


def teacher_distribution(teacher: Teacher | Ensemble, inputs: Sequence[Ints], temperature: float) -> Any:
    """Log-probabilities of the whole catalogue after each item of each window: float32 ``[tokens, items]``."""
    scores = np.concatenate(teacher.sequence_scores_many(inputs))
    return F.log_softmax(torch.from_numpy(scores) / temperature, 1)


def temporal_loss(context: TrainingContext, batch: Sequence[Ints]) -> Any:
    """Mean cross-entropy of the hidden items of temporal analysis."""
    model, prompts = context.model, context.prompts
    segments, targets = [], []
    for sequence in batch:
        ids, reads, hidden = prompts.temporal(sequence.tolist())
        segments.append(Segment(ids, reads))
        targets += hidden
    states = read_states(model, prompts.temporal_prefix, segments)
    return F.cross_entropy(catalogue_scores(model, prompts, states), torch.tensor(targets, device=states.device))
