"""The one training loop: AdamW, warm-up and cosine, metrics as JSON lines, checkpoints that resume exactly."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from delrec_lite.console import Console
from delrec_lite.errors import DelrecError

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate, by the name under which a checkpoint holds them."""

    parameters: Mapping[str, nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How many steps, and the share of them in which the learning rate rises; it falls to 0 as a cosine."""

    steps: int
    warmup: float

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at ``step``, from 0."""
        rise = max(1, round(self.steps * self.warmup))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


LossOf = Callable[[int], tuple[Any, dict[str, float]]]


def train(
    groups: list[Group],
    loss_of: LossOf,
    schedule: Schedule,
    out: Path,
    console: Console,
    label: str,
    seed: int,
) -> dict[str, float]:
    """Minimise ``loss_of``; called again after a kill, it goes on from the last checkpoint in ``out``.

    The random state is set from ``seed`` and the step, so a resumed run computes what an unbroken one would.

    Args:
        groups: What learns.
        loss_of: The loss of a step (from 0) and figures to log; must depend on the step alone.
        schedule: Length and learning rate.
        out: Folder for the checkpoint and ``metrics.jsonl``.
        console: Shows the bar.
        label: Before the bar.
        seed: For dropout.

    Returns:
        The means of the logged figures over the last tenth of the steps.

    Raises:
        DelrecError: The loss is not a number.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {name: p for group in groups for name, p in group.parameters.items()}
    optimiser = torch.optim.AdamW(
        [{"params": list(g.parameters.values()), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
        betas=(0.9, 0.98),
    )
    start = _resume(out, named, optimiser)
    kept = _kept_lines(out / METRICS, start)
    saved = time.monotonic()
    with (out / METRICS).open("a", encoding="utf-8") as log, console.progress(label, schedule.steps) as tick:
        tick(start)
        for step in range(start, schedule.steps):
            torch.manual_seed((seed << 24) + step)
            began = time.monotonic()
            for settings, group in zip(optimiser.param_groups, groups, strict=True):
                settings["lr"] = group.lr * schedule.factor(step)
            loss, figures = loss_of(step)
            if not torch.isfinite(loss):
                raise DelrecError(f"the loss of step {step} is not a number", "lower the learning rate in the recipe")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(named.values(), 1.0)
            optimiser.step()
            line = {
                "step": step,
                "loss": loss.item(),
                **figures,
                "seconds": round(time.monotonic() - began, 3),
            }
            kept.append(line)
            log.write(json.dumps(line) + "\n")
            log.flush()
            tick(1, f"loss {loss.item():.3f}")
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(out, named, optimiser, step + 1)
                saved = time.monotonic()
    tail = kept[-max(1, schedule.steps // 10) :]
    return {key: sum(line[key] for line in tail) / len(tail) for key in tail[0] if key not in {"step", "seconds"}}


def finished(out: Path) -> None:
    """The stage has written its result: its checkpoint is not needed any more."""
    (out / CHECKPOINT).unlink(missing_ok=True)


def _kept_lines(path: Path, start: int) -> list[dict[str, float]]:
    """Log lines before step ``start``; those after it were computed but never saved, and will be again."""
    lines = path.read_text(encoding="utf-8").splitlines()[:start] if start and path.is_file() else []
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def _save(out: Path, named: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"value/{name}": p.detach() for name, p in named.items()}
    for name, p in named.items():
        state = optimiser.state[p]
        tensors |= {f"{key}/{name}": state[key] for key in ("exp_avg", "exp_avg_sq") if key in state}
    part = out / (CHECKPOINT + ".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"step": str(step)})
    part.rename(out / CHECKPOINT)


def _resume(out: Path, named: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> int:
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        held = set(file.keys())
        for name, p in named.items():
            p.copy_(file.get_tensor(f"value/{name}"))
            if f"exp_avg/{name}" in held:
                state = {key: file.get_tensor(f"{key}/{name}") for key in ("exp_avg", "exp_avg_sq")}
                optimiser.state[p] = {"step": torch.tensor(float(step)), **state}
    return step
