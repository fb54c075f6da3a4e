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
from delrec_lite.training.parts import micro_batches
from delrec_lite.training.windows import StepPlan

SHORTEST_TEMPORAL = 8  # an example of four, then a question of four


def task_losses(context: TrainingContext, recipe: DistillSection, parts: int) -> dict[str, LossOf]:
    """The losses of the tasks that the recipe has, a part of a step at a time.

    Args:
        context: What is trained, and from what; a form that cannot rank the catalogue asks about as many candidates
            as its sets have.
        recipe: Stage 1 of the recipe.
        parts: Into how many a step is divided.

    Returns:
        By name, ``pattern`` before ``temporal``.
    """
    model, prompts, train = context.model, context.prompts, context.dataset.train()
    shared = round(recipe.tokens_per_step * recipe.temporal_share)
    pattern = StepPlan(train, context.max_history, recipe.tokens_per_step - shared, recipe.seed)
    long_enough = [s for s in train if len(s) >= SHORTEST_TEMPORAL]
    temporal = StepPlan(long_enough, context.max_history, shared, recipe.seed + 1)
    sampler = Sampler(len(context.dataset.catalog), context.m, recipe.seed)

    def pattern_windows(step: int) -> list[Ints]:
        return truncate_to_context(prompts, pattern.at(step), context.max_history)

    def pattern_on(batch: Sequence[Ints], _: int) -> tuple[Any, dict[str, float]]:
        return pattern_loss(context, batch, recipe), {}

    def pattern_questions(step: int) -> list[tuple[Example, Floats]]:
        asked, wanted = sampler.pattern(step, pattern.at(step), context.teacher)
        return list(zip(asked.each(), wanted, strict=True))

    def pattern_choices(examples: Sequence[tuple[Example, Floats]], _: int) -> tuple[Any, dict[str, float]]:
        asked = CandidateBatch.of([question for question, _ in examples])
        logits = next_logits(context, asked)
        if recipe.pattern_loss == "top1":
            return cross_entropy(logits, asked), {}
        return divergence(logits, np.stack([wanted for _, wanted in examples]), recipe.temperature), {}

    def temporal_windows(step: int) -> list[Ints]:
        return [window for window in temporal.at(step) if len(window) >= SHORTEST_TEMPORAL]

    def temporal_on(batch: Sequence[Ints], _: int) -> tuple[Any, dict[str, float]]:
        return temporal_loss(context, batch) if batch else model.soft.sum() * 0.0, {}

    def temporal_questions(step: int) -> list[Example]:
        batch = temporal_windows(step)
        return sampler.temporal(step, batch).each() if batch else []

    def temporal_choices(examples: Sequence[Example], _: int) -> tuple[Any, dict[str, float]]:
        if not examples:
            return model.soft.sum() * 0.0, {}
        asked = CandidateBatch.of(examples)
        return cross_entropy(temporal_logits(context, asked), asked), {}

    found: dict[str, LossOf] = {}
    whole = prompts.format.ranks_catalogue
    if shared < recipe.tokens_per_step:
        found["pattern"] = (
            micro_batches(pattern_on, pattern_windows, lambda window: len(window) - 1, parts)
            if whole
            else micro_batches(pattern_choices, pattern_questions, lambda _: 1, parts)
        )
    if shared:
        found["temporal"] = (
            micro_batches(temporal_on, temporal_windows, lambda _: 1, parts)
            if whole
            else micro_batches(temporal_choices, temporal_questions, lambda _: 1, parts)
        )
    return found


def pattern_loss(context: TrainingContext, batch: Sequence[Ints], recipe: DistillSection) -> Any:
    """Over all item boundaries of the windows: mean KL from the teacher's distribution to the model's.

    With the paper's ``top1``: mean cross-entropy of the teacher's first item.
    """
    model, prompts = context.model, context.prompts
    inputs = [window[:-1] for window in truncate_to_context(prompts, batch, context.max_history)]
    wanted = teacher_distribution(context.teacher, inputs, recipe.temperature)
    states = read_states(model, prompts.next_prefix, [window_segment(prompts, window) for window in inputs])
    wanted, scores = wanted.to(states.device), catalogue_scores(model, prompts, states)
    if recipe.pattern_loss == "top1":
        return F.cross_entropy(scores, wanted.argmax(1))
    return F.kl_div(F.log_softmax(scores, 1), wanted, reduction="batchmean", log_target=True)


def truncate_to_context(prompts: Prompts, batch: Sequence[Ints], max_history: int) -> list[Ints]:
    """Windows whose inputs the prompt has room for: long ones lose their oldest items."""
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
