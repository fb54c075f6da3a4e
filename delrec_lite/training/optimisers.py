"""The optimisers AdamW and paged 8-bit AdamW, and their states by name, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from delrec_lite.errors import ConfigError, MissingPackageError, install_line

BETAS = (0.9, 0.98)


def make_optimiser(name: str, settings: list[dict[str, Any]], device: str) -> Any:
    """AdamW over parameter groups.

    Args:
        name: ``adamw``, or ``paged_adamw_8bit`` (arXiv 2110.02861; states move to the host when the card is full).
        settings: Parameter groups as torch's optimisers take them.
        device: Type of the parameters' device.

    Raises:
        ConfigError: ``paged_adamw_8bit`` without CUDA.
        MissingPackageError: ``paged_adamw_8bit`` without bitsandbytes.
    """
    if name == "adamw":
        return torch.optim.AdamW(settings, betas=BETAS)
    if device != "cuda":
        raise ConfigError("finetune.optimiser: paged_adamw_8bit needs a CUDA card", "set finetune.optimiser: adamw")
    try:
        from bitsandbytes.optim import PagedAdamW8bit
    except ImportError as error:
        raise MissingPackageError(
            "paged_adamw_8bit needs bitsandbytes, which is not installed", install_line("bitsandbytes")
        ) from error
    return PagedAdamW8bit(settings, betas=BETAS, weight_decay=0.0)


def state_tensors(optimiser: Any, named: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """The optimiser's state of each parameter, as ``kind/parameter``, without the count of steps."""
    return {
        f"{kind}/{name}": tensor
        for name, p in named.items()
        for kind, tensor in optimiser.state[p].items()
        if kind != "step" and torch.is_tensor(tensor)
    }


def restore_state(optimiser: Any, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Any], step: int) -> None:
    """Restore what ``state_tensors`` returned after ``step`` steps."""
    places = {p: (g, i) for g, group in enumerate(optimiser.param_groups) for i, p in enumerate(group["params"])}
    for name, p in named.items():
        state = {key.split("/", 1)[0]: t for key, t in tensors.items() if key.split("/", 1)[1] == name}
        if not state:
            continue
        if hasattr(optimiser, "init_state"):  # bitsandbytes lays out its own buffers, some of them paged
            group, index = places[p]
            optimiser.init_state(optimiser.param_groups[group], p, group, index)
            optimiser.state[p]["step"] = step
            for kind, tensor in state.items():
                optimiser.state[p][kind].copy_(tensor)
        else:
            on_device = {kind: tensor.to(p.device) for kind, tensor in state.items()}
            optimiser.state[p] = {"step": torch.tensor(float(step)), **on_device}
