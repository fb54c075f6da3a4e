"""Stage 2 (DELRec, section 5): the soft prompt is frozen; an adapter and the item vectors learn the next item."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from delrec_lite.config import FinetuneSection
from delrec_lite.data.types import Ints, subsample
from delrec_lite.evaluation.choosing import RANKED_USERS, whole_catalogue
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.table import protocols_of, values_of
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.verbalizer import verbalizer_of
from delrec_lite.processes import current
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.training.adapters import ITEMS, RankAllocation, add_adapter, orthogonality, save_adapter, unfreeze
from delrec_lite.training.catalogue_loss import Term
from delrec_lite.training.choice import CandidateBatch, Example, Sampler, next_item_loss
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.distill import validation_subsample
from delrec_lite.training.loop import Group, LossOf, Schedule, Validation, finish_stage, train
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.micro_batches import micro_batch_losses
from delrec_lite.training.ranking import ranked
from delrec_lite.training.step_items import StepItems, trained_rows
from delrec_lite.training.windows import steps_for

# Share of the items that a step represents by their text alone, where the recipe does not say.
OFFSET_DROPOUT = 0.2


@dataclass(frozen=True)
class Finetuned:
    """The report of stage 2.

    Attributes:
        loss: Mean over the last tenth of the steps, nats an item.
        steps: Optimiser steps planned.
        best_step: Steps after which the saved weights were reached; 0: no validation, the last weights are saved.
        valid_ndcg: NDCG@10 of the saved weights among m candidates, expected over all candidate sets, or over the
            sampled sets where the prompt format cannot rank the catalogue; on a part of the validation users; 0
            without validation.
        valid_hr1: HR@1, the same.
    """

    loss: float
    steps: int
    best_step: int = 0
    valid_ndcg: float = 0.0
    valid_hr1: float = 0.0


def finetune(context: TrainingContext, recipe: FinetuneSection) -> Finetuned:
    """Learn LoRA matrices and item vectors on the next item at every item boundary, over the whole catalogue.

    The target is the next item, mixed with the teacher's distribution if the recipe sets ``teacher_weight``.

    Args:
        context: Its model has the soft prompt of stage 1, and its LLM gets the adapter in place; the teacher is used
            only with ``teacher_inside``, or if ``teacher_weight`` is above 0.
        recipe: Stage 2 of the recipe.
    """
    model, prompts, out = context.model, context.prompts, context.out
    out.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(False)
    plan = context.steps(recipe)
    if hasattr(model.lm, "peft_config"):  # stage 1 has trained it
        for name, p in model.lm.named_parameters():
            p.requires_grad_("lora_" in name)
    elif recipe.adapter == "full":
        unfreeze(model, rows=prompts.format.history_format.titles)
    else:
        add_adapter(model, recipe, plan)
    if recipe.checkpointing:
        enable_gradient_checkpointing(model)
    learned = {name: p for name, p in model.lm.named_parameters() if p.requires_grad}
    items = learned_vectors(model, prompts)
    text = {name: p for name, p in model.text_maps().items() if name.replace("text", "offset") in items}
    if recipe.train_soft:
        items |= model.soft_prompt()
    data = StepItems(context, recipe)
    rows, whole = trained_rows(data, items, recipe)
    for p in (*whole.values(), *text.values()):
        p.requires_grad_(True)
    rates = ((learned, recipe.lr), (whole, recipe.item_lr), (text, recipe.text_lr))
    groups = [Group(parameters, lr) for parameters, lr in rates if parameters or parameters is learned]
    model.train()
    model.item_dropout, model.state_dropout = recipe.item_dropout, recipe.state_dropout
    validation = None
    if recipe.valid_every:
        interval = steps_for(recipe.valid_every, context.dataset.train(), recipe.tokens_per_step)
        validation = Validation(partial(_validation_metrics, context, recipe.teacher_inside), interval, recipe.patience)
    if rows is not None:
        model.tables = rows.tables
    means = {"next_item": 0.0}
    micro_batch_count = recipe.gradient_accumulation_steps * current().count
    if plan:
        means = train(
            groups,
            losses(context, recipe, micro_batch_count, data),
            Schedule(plan, recipe.warmup),
            out,
            context.console,
            "stage 2",
            recipe.seed,
            validation,
            micro_batch_count=micro_batch_count,
            after_step=RankAllocation(model.lm) if recipe.adapter == "adalora" else None,
            optimiser_name=recipe.optimiser,
            average=recipe.average,
            rows=rows,
        )
    model.tables = {}
    model.item_dropout = model.state_dropout = 0.0
    model.drop_offsets(0.0, recipe.seed)
    model.eval().requires_grad_(False)
    chosen = (int(means["best_step"]), means["valid_ndcg@10"], means["valid_hr@1"]) if "best_step" in means else ()
    report = Finetuned(means["next_item"], plan, *chosen)
    if current().first:
        save_adapter(model.lm, learned, out)
        save_file({name: p.detach().contiguous() for name, p in (items | text).items()}, out / ITEMS)
        (out / "finetune.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        finish_stage(out, context.console)
    return report


def losses(
    context: TrainingContext, recipe: FinetuneSection, micro_batch_count: int, data: StepItems | None = None
) -> LossOf:
    """The loss of stage 2 by micro-batch; the mean over a step's micro-batches does not depend on their number.

    Args:
        context: Its model has the adapter.
        recipe: Stage 2 of the recipe.
        micro_batch_count: Micro-batches of a step.
        data: Windows of the steps, and the loss over the catalogue; default: those of the recipe.
    """
    model, prompts = context.model, context.prompts
    plan = context.steps(recipe)
    data = StepItems(context, recipe) if data is None else data
    batches, catalogue_loss = data.plan, data.loss
    sampler = Sampler(len(context.dataset.catalog), context.m, recipe.seed)
    optional: dict[Term, bool] = {"teacher": recipe.teacher_weight > 0, "together": recipe.teacher_inside}
    wanted: list[Term] = ["next_item", *(term for term, asked in optional.items() if asked)]
    share = offset_dropout(model, recipe)

    def window_loss(examples: Sequence[Ints], step: int) -> tuple[Any, dict[str, float]]:
        model.drop_offsets(share, (recipe.seed << 24) + step)
        inputs = [window[:-1] for window in examples]
        segments = [window_segment(prompts, window) for window in inputs]
        states = read_states(model, prompts.next_prefix, segments)
        truth = torch.from_numpy(np.concatenate([window[1:] for window in examples])).to(states.device)
        terms = catalogue_loss.terms(wanted, states, truth, step, inputs)
        loss = terms["next_item"]
        if "teacher" in terms:
            weight = teacher_weight(recipe, step / plan)
            loss = (1 - weight) * loss + weight * terms["teacher"]
        if "together" in terms:
            loss = (loss + terms["together"]) / 2
        return loss, {name: term.item() for name, term in terms.items()}

    def questions(step: int) -> list[Example]:
        return sampler.next_item(step, batches.at(step)).examples()

    def question_loss(examples: Sequence[Example], step: int) -> tuple[Any, dict[str, float]]:
        model.drop_offsets(share, (recipe.seed << 24) + step)
        weight = teacher_weight(recipe, step / plan)
        return next_item_loss(context, CandidateBatch.of(examples), weight)

    if prompts.format.ranks_catalogue:
        loss_of = micro_batch_losses(window_loss, data.windows, lambda window: len(window) - 1, micro_batch_count)
    else:
        loss_of = micro_batch_losses(question_loss, questions, lambda _: 1, micro_batch_count)
    if recipe.adapter != "adalora":
        return loss_of

    def regularised(index: int) -> tuple[Any, dict[str, float]]:
        loss, figures = loss_of(index)
        return loss + orthogonality(model.lm), figures

    return regularised


def offset_dropout(model: ItemLM, recipe: FinetuneSection) -> float:
    """The share of the items whose offsets a step leaves out."""
    if recipe.offset_dropout is not None:
        return recipe.offset_dropout
    return 0.0 if model.text is None else OFFSET_DROPOUT


def teacher_weight(recipe: FinetuneSection, progress: float) -> float:
    """The teacher's share of the target after the share ``progress`` of the steps."""
    if progress <= recipe.teacher_until:
        return recipe.teacher_weight
    return recipe.teacher_weight * (1 - progress) / (1 - recipe.teacher_until)


def _validation_metrics(context: TrainingContext, teacher_inside: bool) -> dict[str, float]:
    """NDCG@10 and HR@1 among candidates and NDCG@10 of the whole catalogue, on a part of the validation users.

    The first figure chooses the weights, see ``evaluation.choosing``.
    """
    valid = context.dataset.valid()
    by_catalogue = whole_catalogue(len(valid)) and context.prompts.format.ranks_catalogue
    users = subsample(len(valid), RANKED_USERS) if by_catalogue else validation_subsample(len(valid))
    split, sets = valid.take(users), context.candidates.take(users)
    context.model.eval()
    teacher = context.teacher if teacher_inside else None
    ranks = ranked(context.model, context.prompts, split, sets, context.max_history, teacher=teacher)
    context.model.train()
    expected = ExpectedSampledMetrics.of(split, len(context.dataset.catalog), context.m)
    protocols = protocols_of(ranks, expected)
    figures = [
        ("valid_", "expected_sampled" if "expected_sampled" in protocols else "sampled", name)
        for name in ("NDCG@10", "HR@1")
    ]
    if "full" in protocols:
        figures.insert(0 if by_catalogue else len(figures), ("valid_full_", "full", "NDCG@10"))
    return {
        head + name.lower(): float(values_of(ranks, protocol, name, expected).mean())
        for head, protocol, name in figures
    }


def learned_vectors(model: ItemLM, prompts: Prompts) -> dict[str, torch.nn.Parameter]:
    """What is trained beside the adapter: the item vectors that this form of prompt and answer uses."""
    items = {"offset_in": model.offset_in} if prompts.format.history_format.item_rows else {}
    return items | verbalizer_of(prompts).learned(model)
