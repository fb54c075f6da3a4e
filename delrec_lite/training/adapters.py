"""The trainable weights of the LLM in stage 2: LoRA, DoRA and AdaLoRA through PEFT, or all; and their files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from delrec_lite.architectures import find_architecture
from delrec_lite.config import FinetuneSection
from delrec_lite.data.types import Ints
from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import Base, load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.precision import merged, plain_copy
from delrec_lite.prompts.tasks import Prompts

ADAPTER = "adapter"
ITEMS = "items.safetensors"
BODY = "body.safetensors"  # instead of the adapter, where all weights are trained
# AdaLoRA (arXiv 2303.10512) begins with half as many directions again and drops the least important ones between
# these shares of the steps; the last steps train the remaining ones.
START_RANK = 1.5
PRUNING = (0.1, 0.7)
ORTHOGONALITY = 0.1
FEWEST_STEPS = 10


def add_adapter(model: ItemLM, recipe: FinetuneSection, steps: int) -> None:
    """Wrap the LLM in a fresh adapter.

    Args:
        model: Its ``lm`` is replaced.
        recipe: Kind, rank, modules.
        steps: Optimiser steps of stage 2, also where stage 1 trains the adapter; AdaLoRA plans its ranks by them.

    Raises:
        ConfigError: Too few steps for AdaLoRA.
    """
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    shared = {
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": list(find_architecture(model.lm.config.model_type).adapted(recipe.modules)),
    }
    if recipe.adapter == "adalora":
        steps = steps or FEWEST_STEPS  # nothing will be trained
        begin, end = (round(share * steps) for share in PRUNING)
        if steps < FEWEST_STEPS:
            raise ConfigError(f"adalora cannot plan its ranks over {steps} steps", "raise finetune.epochs, or use lora")
        config = AdaLoraConfig(
            init_r=round(START_RANK * recipe.rank),
            target_r=recipe.rank,
            total_step=steps,
            tinit=begin,
            tfinal=steps - end,
            deltaT=max(1, (end - begin) // 20),
            orth_reg_weight=ORTHOGONALITY,
            **shared,
        )
    else:
        config = LoraConfig(r=recipe.rank, use_dora=recipe.adapter == "dora", **shared)
    model.lm = get_peft_model(model.lm, config)
    # PEFT divides by the rank, a constant that it does not save; with a bf16 base it becomes trainable by mistake
    # (0.21: moved to the base's dtype as a new parameter), and the weights as read back would score otherwise.
    for name, p in model.lm.named_parameters():
        if ".ranknum." in name:
            p.requires_grad_(False)


def unfreeze(model: ItemLM, rows: bool) -> None:
    """Make all weights of the network trainable, in float32: a step is smaller than the resolution of bf16.

    Args:
        model: Not quantised, without adapter.
        rows: The token embeddings too. Not needed where each item is one token: then a prompt has few text tokens.
    """
    frozen = set() if rows else {id(p) for p in model.body.embed_tokens.parameters()}
    for p in model.body.parameters():
        if id(p) not in frozen:
            p.data = p.data.float()
            p.requires_grad_(True)


def orthogonality(lm: Any) -> Any:
    """How far AdaLoRA's factors are from orthogonal: mean Frobenius norm of ``P^T P - I`` (its equation 4)."""
    norms = []
    for name, p in lm.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            square = p @ p.T if ".lora_A." in name else p.T @ p
            norms.append(torch.linalg.norm(square - torch.eye(len(square), device=p.device)))
    return ORTHOGONALITY * torch.stack(norms).mean()


class RankAllocation:
    """AdaLoRA's choice of ranks after each step; its state can be saved in a checkpoint."""

    def __init__(self, lm: Any) -> None:
        self._tuner = lm.base_model
        self._config = lm.peft_config[lm.active_adapter]

    def __call__(self, step: int) -> None:
        """Call it after the optimiser's step ``step``, from 0, before the gradients are cleared."""
        self._tuner.update_and_allocate(step)

    @property
    def _memory(self) -> dict[str, dict[str, Any]]:
        allocator = self._tuner.rankallocator
        return {kind: getattr(allocator, kind) for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")}

    def state(self) -> dict[str, Any]:
        """Tensors by name."""
        statistics = {f"{kind}/{name}": t for kind, tensors in self._memory.items() for name, t in tensors.items()}
        masks = self._config.rank_pattern or {}
        return statistics | {f"kept/{name}": torch.tensor(mask) for name, mask in masks.items()}

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        device = next(self._tuner.parameters()).device
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            if kind == "kept":
                self._config.rank_pattern = {**(self._config.rank_pattern or {}), name: tensor.tolist()}
            else:
                self._memory[kind][name] = tensor.to(device)


def save_adapter(lm: Any, learned: Mapping[str, Any], folder: Path) -> None:
    """Write the adapter, or all trained weights where there is none.

    AdaLoRA's dropped directions are written as zeros: the best weights may be older than the last choice of
    directions, so that choice is not applied to them.

    Args:
        lm: The LLM, with or without adapter.
        learned: Its trained parameters, by name.
        folder: Of the stage.
    """
    if not hasattr(lm, "peft_config"):
        save_file({name: p.detach() for name, p in learned.items()}, folder / BODY)
        return
    config = lm.peft_config[lm.active_adapter]
    if hasattr(config, "rank_pattern") and config.peft_type.value == "ADALORA":
        config.rank_pattern = None
    lm.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)


def load_finetuned(model: ItemLM, folder: Path) -> None:
    """Load the adapter, or all weights, and the item vectors that stage 2 wrote into ``model``."""
    if (folder / BODY).is_file():
        for name, tensor in load_file(folder / BODY).items():
            p = model.lm.get_parameter(name)
            p.data = tensor.to(p.device)
    else:
        from peft import PeftModel

        model.lm = PeftModel.from_pretrained(model.lm, str(folder / ADAPTER)).eval()
    with safe_open(folder / ITEMS, framework="pt") as file, torch.no_grad():
        for name in file.keys():  # noqa: SIM118
            getattr(model, name).copy_(file.get_tensor(name))
    model.requires_grad_(False)


@dataclass(frozen=True)
class MergeDelta:
    """How far the scores of merged weights are from those of the model as trained.

    Attributes:
        mean: Mean absolute difference of a score.
        largest: Largest absolute difference.
        correlation: Over all scores of all requests.
        top10: Share of the first ten that stay among them.
    """

    mean: float
    largest: float
    correlation: float
    top10: float


def merge_deltas(
    model: ItemLM, base: Base, prompts: Prompts, histories: Sequence[Ints], max_history: int
) -> dict[str, MergeDelta]:
    """How merging changes the scores, by the weights that the adapter is merged into; ``model`` is not changed.

    Args:
        model: The trained model, its base quantised or not.
        base: Its base model; ``original`` reads the weights of ``base.folder`` again.
        prompts: The compiled tasks.
        histories: Histories to score.
        max_history: Items that the prompt holds.

    Returns:
        ``dequant``: merged into the weights that training used; ``original``: into the weights as they were pulled.
    """
    trained = score_all(model, prompts, histories, max_history)
    makers: dict[str, Callable[[], Any]] = {
        "dequant": lambda: plain_copy(model.lm),
        "original": lambda: load_base(base.name, base.folder, torch.float32, layers=base.layers).model,
    }
    deltas = {}
    trained_lm = model.lm
    try:
        for name, make in makers.items():
            model.lm = merged(trained_lm, make()).to(model.soft.device).eval()
            scores = score_all(model, prompts, histories, max_history)
            model.lm = trained_lm
            first, second = (np.argsort(-s, axis=1)[:, :10] for s in (trained, scores))
            same = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(first, second, strict=True)])
            differences = np.abs(trained - scores)
            correlation = float(np.corrcoef(trained.ravel(), scores.ravel())[0, 1])
            deltas[name] = MergeDelta(float(differences.mean()), float(differences.max()), correlation, float(same))
    finally:
        model.lm = trained_lm
    return deltas
