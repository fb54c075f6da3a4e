"""Stage 2 (DELRec, section 5): the soft prompt is frozen; an adapter and the item vectors learn the next item."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from delrec_lite.config import FinetuneSection
from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.llm.forward import read_states, window_segment
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.teachers.contract import Teacher
from delrec_lite.training.choice import Sampler, truth_loss
from delrec_lite.training.distill import fitted, some_users, teacher_distribution
from delrec_lite.training.loop import Group, Schedule, Validation, finished, train
from delrec_lite.training.ranking import ranked
from delrec_lite.training.windows import StepPlan, steps_for

ADAPTER = "adapter"
ITEMS = "items.safetensors"
# Attention alone: a step of 800 items takes 2.3 s instead of 3.1 s on 2 cores, and learns no worse an epoch.
MODULES: dict[str, list[str] | str] = {
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all": "all-linear",
}


@dataclass(frozen=True)
class Finetuned:
    """What stage 2 shows.

    Attributes:
        loss: Mean over the last tenth of the steps, nats an item.
        steps: Optimiser steps planned.
        best_step: After how many steps the weights that are kept stood; 0: no validation, the last are kept.
        valid_ndcg: NDCG@10 of those over the whole catalogue, or among the candidates where the form knows no other,
            some validation users; 0 without validation.
        valid_hr1: HR@1 among their candidates.
    """

    loss: float
    steps: int
    best_step: int = 0
    valid_ndcg: float = 0.0
    valid_hr1: float = 0.0


def finetune(
    model: ItemLM,
    prompts: Prompts,
    teacher: Teacher,
    dataset: Dataset,
    candidates: CandidateSets,
    recipe: FinetuneSection,
    max_history: int,
    out: Path,
    console: Console,
) -> Finetuned:
    """Learn LoRA matrices and item vectors on the next item at every item boundary, over the whole catalogue.

    The target is the item that came, mixed with the teacher's distribution where the recipe says so
    (``teacher_weight``).

    Args:
        model: With the soft prompt of stage 1; its LLM gets the adapter in place.
        prompts: The compiled tasks.
        teacher: Fitted on the same data set; asked only if ``teacher_weight`` is above 0.
        dataset: Only its training part is learned from; some validation users choose the weights.
        candidates: Of the validation users.
        recipe: Stage 2 of the recipe.
        max_history: Inputs of a training window.
        out: Folder for checkpoint, metrics, adapter and item vectors.
        console: Shows progress.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(False)
    if hasattr(model.lm, "peft_config"):  # stage 1 has trained it already
        for name, p in model.lm.named_parameters():
            p.requires_grad_("lora_" in name)
    else:
        add_adapter(model, recipe)
    lora = {name: p for name, p in model.lm.named_parameters() if p.requires_grad}
    items = learned_vectors(model, prompts)
    if recipe.train_soft:
        items["soft"] = model.soft
    for p in items.values():
        p.requires_grad_(True)
    groups = [Group(lora, recipe.lr), *([Group(items, recipe.item_lr)] if items else [])]
    plan = steps_for(recipe.epochs, dataset.train(), recipe.tokens_per_step)
    batches = StepPlan(dataset.train(), max_history, recipe.tokens_per_step, recipe.seed)

    sampler = Sampler(len(dataset.catalog), candidates.items.shape[1], recipe.seed)

    def loss_of(step: int) -> tuple[Any, dict[str, float]]:
        batch = batches.at(step)
        if not prompts.form.ranks_catalogue:
            weight = teacher_weight(recipe, step / plan)
            return truth_loss(model, prompts, teacher, sampler.truth(step, batch), max_history, weight)
        batch = fitted(prompts, batch, max_history)
        inputs = [window[:-1] for window in batch]
        segments = [window_segment(prompts, window) for window in inputs]
        scores = model.scores(read_states(model, prompts.next_prefix, segments))
        truth = torch.from_numpy(np.concatenate([window[1:] for window in batch]))
        loss = F.cross_entropy(scores, truth)
        figures = {"next_item": loss.item()}
        if recipe.teacher_weight > 0:
            wanted = teacher_distribution(teacher, inputs, 1.0)
            kl = F.kl_div(F.log_softmax(scores, 1), wanted, reduction="batchmean", log_target=True)
            figures["teacher"] = kl.item()
            weight = teacher_weight(recipe, step / plan)
            loss = (1 - weight) * loss + weight * kl
        return loss, figures

    model.train()
    validation = None
    if recipe.valid_every:
        every = steps_for(recipe.valid_every, dataset.train(), recipe.tokens_per_step)
        validation = Validation(
            partial(_measure, model, prompts, dataset, candidates, max_history), every, recipe.patience
        )
    means = {"next_item": 0.0}
    if plan:
        means = train(groups, loss_of, Schedule(plan, recipe.warmup), out, console, "stage 2", recipe.seed, validation)
    model.eval().requires_grad_(False)
    model.lm.save_pretrained(str(out / ADAPTER))
    save_file({name: p.detach().clone() for name, p in items.items()}, out / ITEMS)
    chosen = (int(means["best_step"]), means["valid_ndcg@10"], means["valid_hr@1"]) if "best_step" in means else ()
    report = Finetuned(means["next_item"], plan, *chosen)
    (out / "finetune.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    finished(out)
    return report


def teacher_weight(recipe: FinetuneSection, done: float) -> float:
    """The teacher's share of the target when the share ``done`` of the steps is made."""
    if done <= recipe.teacher_until:
        return recipe.teacher_weight
    return recipe.teacher_weight * (1 - done) / (1 - recipe.teacher_until)


def _measure(
    model: ItemLM, prompts: Prompts, dataset: Dataset, candidates: CandidateSets, max_history: int
) -> dict[str, float]:
    """NDCG@10 over the whole catalogue and HR@1 among the candidates, of some validation users.

    Both among the candidates for a model that cannot rank the catalogue.
    """
    some = some_users(len(dataset.sequences))
    split, sets = dataset.valid().take(some), candidates.take(some)
    model.eval()
    ranks = ranked(model, prompts, split, sets, max_history)
    model.train()
    return {
        "valid_ndcg@10": float(per_user(ranks.of(ranks.protocols[-1]), "NDCG@10").mean()),
        "valid_hr@1": float(per_user(ranks.m15, "HR@1").mean()),
    }


def learned_vectors(model: ItemLM, prompts: Prompts) -> dict[str, torch.nn.Parameter]:
    """What learns beside the adapter: of the item vectors those that this form of prompt and answer reads."""
    items = {} if prompts.form.history == "titles" else {"offset_in": model.offset_in}
    if prompts.form.verbalizer == "title-mean":
        items |= {"offset_out": model.offset_out, "log_scale": model.log_scale}
    return items


def add_adapter(model: ItemLM, recipe: FinetuneSection) -> None:
    """Wrap the LLM in a fresh LoRA adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=recipe.dropout, target_modules=MODULES[recipe.modules]
    )
    model.lm = get_peft_model(model.lm, config)


def load_finetuned(model: ItemLM, folder: Path) -> None:
    """Put the adapter and item vectors that stage 2 wrote into ``model``."""
    from peft import PeftModel

    model.lm = PeftModel.from_pretrained(model.lm, str(folder / ADAPTER)).eval()
    held = load_file(folder / ITEMS)
    with torch.no_grad():
        for name, tensor in held.items():
            getattr(model, name).copy_(tensor)
    model.requires_grad_(False)
