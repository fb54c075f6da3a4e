"""The one training loop: AdamW, warm-up and cosine, metrics as JSON lines, checkpoints that resume exactly."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from delrec_lite.console import Console
from delrec_lite.errors import DelrecError
from delrec_lite.processes import current
from delrec_lite.training.curves import draw_curves
from delrec_lite.training.ema import ExponentialMovingAverage
from delrec_lite.training.memory import memory_advice
from delrec_lite.training.optimisers import make_optimiser, put_back, state_tensors

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
VALID = "valid_"  # figures of a validation begin so in the log
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


@dataclass(frozen=True)
class Validation:
    """Asks now and then how good the weights are, keeps the best, and stops when they get no better.

    Attributes:
        measure: Figures to log; the first one decides, higher is better.
        every: Steps between two; the last step is always asked.
        patience: How many without a better one end training.
    """

    measure: Callable[[], dict[str, float]]
    every: int
    patience: int


class AfterStep(Protocol):
    """What is done after each step of the optimiser, and what it remembers between two."""

    def __call__(self, step: int) -> None:
        """After ``step``, from 0; the gradients are still there."""

    def state(self) -> dict[str, Any]:
        """Tensors that a checkpoint must hold."""

    def load(self, held: Mapping[str, Any]) -> None:
        """Put back what ``state`` gave."""


LossOf = Callable[[int], tuple[Any, dict[str, float]]]


def train(
    groups: list[Group],
    loss_of: LossOf,
    schedule: Schedule,
    out: Path,
    console: Console,
    label: str,
    seed: int,
    validation: Validation | None = None,
    parts: int = 1,
    after_step: AfterStep | None = None,
    optimiser_name: str = "adamw",
    average: float = 0.0,
) -> dict[str, float]:
    """Minimise ``loss_of``; called again after a kill, it goes on from the last checkpoint in ``out``.

    The random state is set from ``seed`` and the step, so a resumed run computes what an unbroken one would. Where
    several processes work on the run, each calls this with the same arguments and computes its share of each step's
    parts; all hold the same weights after each step, and the first one validates and writes.

    Args:
        groups: What learns.
        loss_of: The loss of a step (from 0) and figures to log; must depend on the step alone.
        schedule: Length and learning rate.
        out: Folder for the checkpoint and ``metrics.jsonl``.
        console: Shows the bar.
        label: Before the bar.
        seed: For dropout.
        validation: Decides which step's weights are left at the end; without one, the last.
        parts: In how many parts a step is computed, by all processes together; ``loss_of`` is then asked for part 0,
            1, 2 ... of all steps, and the mean of a step's parts is its loss.
        after_step: Called after each step.
        optimiser_name: See ``make_optimiser``.
        average: Decay of a running mean of the weights, which is what is validated and left at the end; 0: none.

    Returns:
        The means of the logged figures over the last tenth of the steps; with ``validation`` also what it measured
        of the weights that are left, and ``best_step``, how many steps they took.

    Raises:
        DelrecError: The loss is not a number.
        OutOfMemoryError: Says what to change.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {name: p for group in groups for name, p in group.parameters.items()}
    optimiser = make_optimiser(
        optimiser_name,
        [{"params": list(g.parameters.values()), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
        next(iter(named.values())).device.type,
    )
    means = ExponentialMovingAverage(named, average)
    start = _resume(out, named, optimiser, means, after_step)
    everyone = current()
    # The same lines in all processes, so that all stop at the same step.
    kept = everyone.from_first(lambda: _kept_lines(out / METRICS, start))
    everyone.broadcast([p.detach() for p in named.values()])
    everyone.wait()  # all have read the checkpoint before the first one writes another
    saved = time.monotonic()
    with (
        memory_advice(label),
        (out / METRICS if everyone.first else Path(os.devnull)).open("a", encoding="utf-8") as log,
        console.progress(label, schedule.steps) as tick,
    ):
        tick(start)
        for step in range(start, schedule.steps):
            if validation is not None and _tired(kept, validation):
                break
            torch.manual_seed((everyone.index << 48) + (seed << 24) + step)
            began = time.monotonic()
            for settings, group in zip(optimiser.param_groups, groups, strict=True):
                settings["lr"] = group.lr * schedule.factor(step)
            optimiser.zero_grad(set_to_none=True)
            value, figures = _backward(named, loss_of, step, parts)
            nn.utils.clip_grad_norm_(named.values(), 1.0)
            optimiser.step()
            if after_step is not None:
                after_step(step)
            means.update(step)
            line = {
                "step": step,
                "loss": value,
                **figures,
                "seconds": round(time.monotonic() - began, 3),
            }
            asked = validation is not None and ((step + 1) % validation.every == 0 or step + 1 == schedule.steps)
            if validation is not None and asked:
                with means.in_place():
                    line |= everyone.from_first(validation.measure)
            kept.append(line)
            log.write(json.dumps(line) + "\n")
            log.flush()
            tick(1, f"loss {value:.3f}")
            if not everyone.first:
                continue
            # The best weights before the checkpoint: a resumed run never finds them missing.
            if asked and _best(kept)["step"] == step:
                chosen = {name: p.detach() for name, p in named.items()} | means.values
                _write(out / BEST, {f"value/{name}": t for name, t in chosen.items()}, step + 1)
            if asked or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                _save(out, named, optimiser, means, step + 1, after_step)
                saved = time.monotonic()
    tail = kept[-max(1, len(kept) // 10) :]
    common = set(tail[0]).intersection(*tail) - {"step", "seconds"}
    figures = {key: sum(line[key] for line in tail) / len(tail) for key in tail[0] if key in common}
    if validation is None:
        means.put(means.values)
        return figures
    best = _best(kept)
    everyone.wait()
    _restore(out / BEST, named)
    everyone.wait()  # all have read it before the stage is finished and it goes
    return figures | {key: v for key, v in best.items() if key.startswith(VALID)} | {"best_step": best["step"] + 1}


def _backward(
    named: Mapping[str, nn.Parameter], loss_of: LossOf, step: int, parts: int
) -> tuple[float, dict[str, float]]:
    """Gradients of a step, left in the parameters; its loss and figures. Of all processes together."""
    everyone = current()
    total, sums = 0.0, dict[str, float]()
    for part in range(step * parts + everyone.index, (step + 1) * parts, everyone.count):
        loss, figures = loss_of(part)
        if not torch.isfinite(loss):
            raise DelrecError(f"the loss of step {step} is not a number", "lower the learning rate in the recipe")
        (loss / parts).backward()
        total += loss.item() / parts
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value / parts
    return _added(named, {"loss": total, **sums})


def _added(named: Mapping[str, nn.Parameter], figures: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Gradients and figures, each process's share added up; the loss apart."""
    everyone = current()
    if everyone.count > 1:
        for p in named.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        values = torch.tensor(list(figures.values()), device=next(iter(named.values())).device)
        everyone.all_reduce([*(p.grad for p in named.values()), values])
        figures = dict(zip(figures, values.tolist(), strict=True))
    return figures.pop("loss"), figures


def _tired(lines: Sequence[Mapping[str, float]], validation: Validation) -> bool:
    """Whether the best is too long ago."""
    if not any(key.startswith(VALID) for line in lines for key in line):
        return False
    return lines[-1]["step"] - _best(lines)["step"] >= validation.patience * validation.every


def _best(lines: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The validated line whose first figure is highest; of equals, the first."""
    asked = [line for line in lines if any(key.startswith(VALID) for key in line)]
    return max(asked, key=lambda line: next(v for key, v in line.items() if key.startswith(VALID)))


def _restore(path: Path, named: Mapping[str, nn.Parameter]) -> None:
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, p in named.items():
            p.copy_(file.get_tensor(f"value/{name}"))


def finished(out: Path, console: Console) -> None:
    """The stage has written its result: its curves are drawn, its checkpoints are not needed any more."""
    draw_curves(out, console=console)
    for name in (CHECKPOINT, BEST):
        (out / name).unlink(missing_ok=True)


def _kept_lines(path: Path, start: int) -> list[dict[str, float]]:
    """Log lines before step ``start``; those after it were computed but never saved, and will be again."""
    lines = path.read_text(encoding="utf-8").splitlines()[:start] if start and path.is_file() else []
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def _save(
    out: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: Any,
    means: ExponentialMovingAverage,
    step: int,
    after_step: AfterStep | None = None,
) -> None:
    tensors = {f"value/{name}": p.detach() for name, p in named.items()} | state_tensors(optimiser, named)
    tensors |= {f"mean/{name}": t for name, t in means.values.items()}
    if after_step is not None:
        tensors |= {f"after/{name}": t for name, t in after_step.state().items()}
    _write(out / CHECKPOINT, tensors, step)


def _write(path: Path, tensors: Mapping[str, Any], step: int) -> None:
    part = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"step": str(step)})
    part.rename(path)


def _resume(
    out: Path,
    named: Mapping[str, nn.Parameter],
    optimiser: Any,
    means: ExponentialMovingAverage,
    after_step: AfterStep | None = None,
) -> int:
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(held.pop(f"value/{name}"))
        for name, mean in means.values.items():
            mean.copy_(held.pop(f"mean/{name}"))
    if after_step is not None:
        after_step.load({key.removeprefix("after/"): t for key, t in held.items() if key.startswith("after/")})
    put_back(optimiser, named, held, step)
    return step
