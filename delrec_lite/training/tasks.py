"""The two tasks of stage 1 as losses: pattern simulating (DELRec, section 4.3) and temporal analysis (section 4.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from delrec_lite.config import DistillSection
from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.packing import Segment
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.training.catalogue_loss import CatalogueLoss, Term
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
    catalogue_loss = CatalogueLoss(context, recipe.tokens_per_step, recipe.seed)

    def pattern_windows(step: int) -> list[Ints]:
        return truncate_to_context(prompts, pattern.at(step), context.max_history)

    def pattern_window_loss(batch: Sequence[Ints], step: int) -> tuple[Any, dict[str, float]]:
        return pattern_loss(context, catalogue_loss, batch, step, recipe), {}

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

    def temporal_window_loss(batch: Sequence[Ints], step: int) -> tuple[Any, dict[str, float]]:
        return temporal_loss(context, catalogue_loss, batch, step) if batch else model.soft.sum() * 0.0, {}

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


def pattern_loss(
    context: TrainingContext, catalogue_loss: CatalogueLoss, batch: Sequence[Ints], step: int, recipe: DistillSection
) -> Any:
    """Mean KL from the teacher's distribution to the model's, over all item boundaries of the windows.

    With ``top1``, as in the paper: mean cross-entropy of the teacher's first item.
    """
    model, prompts = context.model, context.prompts
    windows = truncate_to_context(prompts, batch, context.max_history)
    inputs = [window[:-1] for window in windows]
    states = read_states(model, prompts.next_prefix, [window_segment(prompts, window) for window in inputs])
    targets = torch.from_numpy(np.concatenate([window[1:] for window in windows])).to(states.device)
    term: Term = "first" if recipe.pattern_loss == "top1" else "teacher"
    return catalogue_loss.terms([term], states, targets, step, inputs, recipe.temperature)[term]


def truncate_to_context(prompts: Prompts, batch: Sequence[Ints], max_history: int) -> list[Ints]:
    """The windows without the oldest items that do not fit into the prompt."""
    return [window[-len(prompts.newest(window[:-1], max_history)) - 1 :] for window in batch]


def temporal_loss(context: TrainingContext, catalogue_loss: CatalogueLoss, batch: Sequence[Ints], step: int) -> Any:
    """Mean cross-entropy of the hidden items of temporal analysis."""
    model, prompts = context.model, context.prompts
    segments, targets = [], []
    for sequence in batch:
        ids, reads, hidden = prompts.temporal(sequence.tolist())
        segments.append(Segment(ids, reads))
        targets += hidden
    states = read_states(model, prompts.temporal_prefix, segments)
    truth = torch.tensor(targets, device=states.device)
    return catalogue_loss.terms(["next_item"], states, truth, step)["next_item"]
