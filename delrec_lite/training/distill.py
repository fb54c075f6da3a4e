"""Stage 1 (DELRec, section 4): the LLM is frozen; a soft prompt learns what the sequential recommender knows."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from delrec_lite.config import DistillSection, FinetuneSection
from delrec_lite.data.types import Floats, Ints, subsample
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import score_candidates
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.processes import current
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.training.adapters import add_adapter
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.loop import Group, Schedule, finish_stage, train
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.tasks import task_losses, truncate_to_context
from delrec_lite.training.weighting import TaskWeights
from delrec_lite.training.windows import steps, steps_for

SOFT = "soft.safetensors"
LLM = "llm"  # the adapter, as PEFT saves it, where the LLM was trained too
SCORES_AT_ONCE = 1 << 24  # of users' catalogues, for the agreement: 67 MB a copy
SUBSAMPLE_USERS = 314  # validation users that training scores: 943 would take a minute each time


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of a ranking with the teacher's, means over users.

    For a model that cannot rank the whole catalogue, the candidates take its place.

    Attributes:
        agreement: Share of users for whom model and teacher rank the same candidate first.
        correlation: Spearman's rank correlation of the candidates' scores with the teacher's.
        ndcg: NDCG@10 over the whole catalogue against the teacher's first ten, gains 10, 9, ... 1.
        divergence: KL from the teacher's distribution over the whole catalogue, nats.
    """

    agreement: float
    correlation: float
    ndcg: float
    divergence: float


@dataclass(frozen=True)
class Distilled:
    """The report of stage 1: agreement of the frozen LLM's ranking with the teacher's, by its prompt.

    Attributes:
        trained: With the learned soft prompt.
        untrained: With the soft prompt before training.
        written: With a written sentence in place of the soft prompt.
        users: Validation users scored.
        candidates: Size of a user's candidate set; a random choice agrees for one user of so many.
        steps: Optimiser steps of the stage.
    """

    trained: RankAgreement
    untrained: RankAgreement
    written: RankAgreement
    users: int
    candidates: int
    steps: int


def distill(
    context: TrainingContext, recipe: DistillSection, written: Prompts, adapter: FinetuneSection | None = None
) -> Distilled:
    """Learn the soft prompt on recommendation pattern simulating and temporal analysis.

    Pattern simulating: at every item boundary of a history, the divergence (KL) from the teacher's distribution over
    the whole catalogue to the model's: the strong form of the paper's "top-1, then the list" (section 4.3).
    Temporal analysis: cross-entropy on the hidden items (section 4.2). In a form that cannot rank the catalogue, both
    are computed at one place of each window, over candidates.

    Args:
        context: Its model's ``soft`` is changed in place and written to ``soft.safetensors``.
        recipe: Stage 1 of the recipe.
        written: The prompts with words in the soft prompt's place, for the report.
        adapter: Of the LLM, which is trained too, here and in stage 2; None: the LLM is frozen.

    Returns:
        Agreement with the teacher before and after.
    """
    model, prompts, out = context.model, context.prompts, context.out
    out.mkdir(parents=True, exist_ok=True)
    if adapter is not None:
        add_adapter(model, adapter, context.steps(adapter))
    model.requires_grad_(False)
    windows = next(steps(context.dataset.train(), context.max_history, 800, seed=0))
    verbalizer_of(prompts).calibrate(model, prompts, truncate_to_context(prompts, windows, context.max_history))
    agreement = Agreement(context)
    written_agreement, untrained = (current().from_first(partial(agreement, p)) for p in (written, prompts))
    soft = model.soft_prompt()
    for p in soft.values():
        p.requires_grad_(True)
    learned = {name: p for name, p in model.lm.named_parameters() if "lora_" in name}
    for p in learned.values():
        p.requires_grad_(True)
    if recipe.checkpointing:
        enable_gradient_checkpointing(model)
    # A prompt without soft tokens has nothing to learn.
    epochs = recipe.epochs if learned or set(prompts.vocabulary.soft_ids) & set(prompts.next_prefix) else 0.0
    plan = steps_for(epochs, context.dataset.train(), recipe.tokens_per_step)
    micro_batch_count = current().count
    tasks = task_losses(context, recipe, micro_batch_count)
    weights = TaskWeights(len(tasks), recipe.weighting)
    weights.to(model.soft.device)

    def loss_of(index: int) -> tuple[Any, dict[str, float]]:
        losses = {name: task(index)[0] for name, task in tasks.items()}
        return weights(list(losses.values()), model.soft), {name: loss.item() for name, loss in losses.items()}

    groups = [Group(soft, recipe.lr)]
    if recipe.weighting == "uncertainty":
        groups.append(Group({"log_variance": weights.log_variance}, 1e-2))
    if adapter is not None:
        groups.append(Group(learned, adapter.lr))
    if plan:
        train(
            groups,
            loss_of,
            Schedule(plan, recipe.warmup),
            out,
            context.console,
            "stage 1",
            recipe.seed,
            micro_batch_count=micro_batch_count,
        )
    model.eval().requires_grad_(False)
    trained = current().from_first(partial(agreement, prompts))
    report = Distilled(trained, untrained, written_agreement, agreement.users, context.m, plan)
    if current().first:
        if adapter is not None:
            model.lm.save_pretrained(str(out / LLM), save_embedding_layers=False)
        tensors = {**soft, "log_scale": model.log_scale}
        save_file({name: p.detach().clone() for name, p in tensors.items()}, out / SOFT)
        (out / "agreement.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        finish_stage(out, context.console)
    return report


def validation_subsample(users: int) -> range:
    """Evenly spaced users, about ``SUBSAMPLE_USERS`` of them."""
    return subsample(users, SUBSAMPLE_USERS)


class Agreement:
    """Measures how far the model agrees with the teacher, on a part of the validation users."""

    def __init__(self, context: TrainingContext) -> None:
        valid = context.dataset.valid()
        users = validation_subsample(len(valid))
        self._model, self._max_history, self._teacher = context.model, context.max_history, context.teacher
        self._histories = valid.take(users).histories
        self._candidates = context.candidates.take(users).items
        self._at_once = max(1, SCORES_AT_ONCE // len(context.dataset.catalog))
        self.users = len(self._histories)

    def __call__(self, prompts: Prompts) -> RankAgreement:
        """Means over the users, with these prompts."""
        starts = range(0, self.users, self._at_once)
        parts = [self._of(prompts, slice(start, start + self._at_once)) for start in starts]
        same, correlations, ndcg = (np.concatenate(figures) for figures in list(zip(*parts, strict=True))[:3])
        divergence = sum(part[3] * (len(part[0]) / self.users) for part in parts)
        return RankAgreement(float(same.mean()), float(np.mean(correlations)), float(np.mean(ndcg)), divergence)

    def _of(self, prompts: Prompts, users: slice) -> tuple[Any, list[Any], list[float], float]:
        """Of each user the first three figures, and the mean of the fourth."""
        model, max_history = self._model, self._max_history
        histories, candidates = self._histories[users], self._candidates[users]
        teacher_scores = self._teacher.scores(histories)
        teacher_candidate_scores = np.take_along_axis(teacher_scores, candidates, 1)
        if prompts.format.ranks_catalogue:
            scores = score_all(model, prompts, histories, max_history)
            candidate_scores = np.take_along_axis(scores, candidates, 1)
        else:
            scores = candidate_scores = score_candidates(model, prompts, histories, candidates, max_history)
            teacher_scores = teacher_candidate_scores
        log_p, log_q = (F.log_softmax(torch.from_numpy(s), 1) for s in (teacher_scores, scores))
        divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        pairs = zip(candidate_scores, teacher_candidate_scores, strict=True)
        correlations = [np.corrcoef(_ranks(a), _ranks(b))[0, 1] for a, b in pairs]
        same = candidate_scores.argmax(1) == teacher_candidate_scores.argmax(1)
        ndcg = [_list_ndcg(a, b) for a, b in zip(scores, teacher_scores, strict=True)]
        return same, correlations, ndcg, divergence.item()


def _ranks(scores: Floats) -> Ints:
    return scores.argsort().argsort()


def _list_ndcg(scores: Floats, reference: Floats, k: int = 10) -> float:
    """NDCG@k of a ranking against the first k of a reference ranking, gains k, k - 1, ... 1."""
    gains = np.zeros(len(scores))
    gains[_first(reference, k)] = np.arange(k, 0, -1)[: len(scores)]
    discounts = 1 / np.log2(np.arange(2, k + 2))[: len(scores)]
    return float((gains[_first(scores, k)] * discounts).sum() / (np.arange(k, 0, -1)[: len(scores)] * discounts).sum())


def _first(scores: Floats, k: int) -> Ints:
    """The places of the k highest scores, highest first."""
    places = np.argpartition(-scores, k)[:k] if len(scores) > k else np.arange(len(scores))
    first: Ints = places[np.argsort(-scores[places])]
    return first


def load_soft(model: ItemLM, folder: Path) -> None:
    """Load the soft prompt that stage 1 wrote into ``model``."""
    tensors = load_file(folder / SOFT)
    with torch.no_grad():
        for name, p in {**model.soft_prompt(), "log_scale": model.log_scale}.items():
            p.copy_(tensors[name])


def load_llm(model: ItemLM, folder: Path) -> None:
    """Wrap the LLM in the adapter that stage 1 trained, so that stage 2 continues from it."""
    from peft import PeftModel

    model.lm = PeftModel.from_pretrained(model.lm, str(folder / LLM), is_trainable=True)
