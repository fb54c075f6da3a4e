"""Stage 1 (DELRec, section 4): the LLM is frozen; a soft prompt learns to speak for the sequential recommender."""

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
from delrec_lite.training.loop import Group, Schedule, finished, train
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.tasks import task_losses, truncate_to_context
from delrec_lite.training.weighting import TaskWeights
from delrec_lite.training.windows import steps, steps_for

SOFT = "soft.safetensors"
LLM = "llm"  # the adapter, as PEFT saves it, where the LLM learned too
ASKED_USERS = 314  # validation users that training asks: 943 would take a minute each time


@dataclass(frozen=True)
class RankAgreement:
    """How near a ranking is to the teacher's, means over users.

    A model that cannot rank the whole catalogue is compared over the candidates in its place.

    Attributes:
        agreement: Share of users whose first among the candidates is the teacher's.
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
    """What stage 1 shows: how near the frozen LLM's ranking is to the teacher's, by the prompt it is given.

    Attributes:
        trained: With the soft prompt as learned.
        untrained: With the soft prompt as it was drawn.
        written: With a sentence that a person wrote in its place.
        users: Validation users asked.
        candidates: Size of a user's candidate set; choosing blindly agrees in one of so many.
        steps: Optimiser steps made.
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
    are asked at one place of a window, about candidates.

    Args:
        context: Its model's ``soft`` is changed in place, and lands in ``soft.safetensors``.
        recipe: Stage 1 of the recipe.
        written: The prompts with words in the soft prompt's place, for the report.
        adapter: Of the LLM, which learns too and goes on learning in stage 2; None: the LLM is frozen.

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
    agree = Agreement(context)
    by_words, untrained = (current().from_first(partial(agree, p)) for p in (written, prompts))
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
    parts = current().count
    tasks = task_losses(context, recipe, parts)
    weights = TaskWeights(len(tasks), recipe.weighting)
    weights.to(model.soft.device)

    def loss_of(part: int) -> tuple[Any, dict[str, float]]:
        losses = {name: task(part)[0] for name, task in tasks.items()}
        return weights(list(losses.values()), model.soft), {name: loss.item() for name, loss in losses.items()}

    groups = [Group(soft, recipe.lr)]
    if recipe.weighting == "uncertainty":
        groups.append(Group({"log_variance": weights.log_variance}, 1e-2))
    if adapter is not None:
        groups.append(Group(learned, adapter.lr))
    if plan:
        train(groups, loss_of, Schedule(plan, recipe.warmup), out, context.console, "stage 1", recipe.seed, parts=parts)
    model.eval().requires_grad_(False)
    trained = current().from_first(partial(agree, prompts))
    report = Distilled(trained, untrained, by_words, agree.users, context.m, plan)
    if current().first:
        if adapter is not None:
            model.lm.save_pretrained(str(out / LLM), save_embedding_layers=False)
        held = {**soft, "log_scale": model.log_scale}
        save_file({name: p.detach().clone() for name, p in held.items()}, out / SOFT)
        (out / "agreement.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        finished(out, context.console)
    return report


def some_users(users: int) -> range:
    """Every so manyth user, about ``ASKED_USERS`` of them."""
    return subsample(users, ASKED_USERS)


class Agreement:
    """How near the model's choices are to the teacher's, on some validation users."""

    def __init__(self, context: TrainingContext) -> None:
        valid = context.dataset.valid()
        some = some_users(len(valid))
        self._model, self._max_history = context.model, context.max_history
        self._histories = valid.take(some).histories
        self._candidates = context.candidates.take(some).items
        self._wanted = context.teacher.scores(self._histories)
        self.users = len(self._histories)

    def __call__(self, prompts: Prompts) -> RankAgreement:
        """Means over the users asked, with these prompts."""
        model, max_history = self._model, self._max_history
        theirs = self._wanted
        wanted = np.take_along_axis(theirs, self._candidates, 1)
        if prompts.format.ranks_catalogue:
            scores = score_all(model, prompts, self._histories, max_history)
            mine = np.take_along_axis(scores, self._candidates, 1)
        else:
            scores = mine = score_candidates(model, prompts, self._histories, self._candidates, max_history)
            theirs = wanted
        log_p, log_q = (F.log_softmax(torch.from_numpy(s), 1) for s in (theirs, scores))
        divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return RankAgreement(
            float((mine.argmax(1) == wanted.argmax(1)).mean()),
            float(np.mean([np.corrcoef(_ranks(a), _ranks(b))[0, 1] for a, b in zip(mine, wanted, strict=True)])),
            float(np.mean([_list_ndcg(a, b) for a, b in zip(scores, theirs, strict=True)])),
            divergence.item(),
        )


def _ranks(scores: Floats) -> Ints:
    return scores.argsort().argsort()


def _list_ndcg(scores: Floats, wanted: Floats, k: int = 10) -> float:
    """NDCG@k of one ranking against the first k of another, gains k, k - 1, ... 1."""
    gains = np.zeros(len(scores))
    gains[np.argsort(-wanted)[:k]] = np.arange(k, 0, -1)[: len(scores)]
    discounts = 1 / np.log2(np.arange(2, k + 2))[: len(scores)]
    return float((gains[np.argsort(-scores)[:k]] * discounts).sum() / (np.sort(gains)[::-1][:k] * discounts).sum())


def load_soft(model: ItemLM, folder: Path) -> None:
    """Put the soft prompt that stage 1 wrote into ``model``."""
    held = load_file(folder / SOFT)
    with torch.no_grad():
        for name, p in {**model.soft_prompt(), "log_scale": model.log_scale}.items():
            p.copy_(held[name])


def load_llm(model: ItemLM, folder: Path) -> None:
    """Wrap the LLM in the adapter that stage 1 trained, so that stage 2 goes on from it."""
    from peft import PeftModel

    model.lm = PeftModel.from_pretrained(model.lm, str(folder / LLM), is_trainable=True)
