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
from delrec_lite.softmax.rows import TrainedRows
from delrec_lite.training.curves import draw_curves
from delrec_lite.training.ema import ExponentialMovingAverage
from delrec_lite.training.memory import memory_advice
from delrec_lite.training.optimisers import make_optimiser, restore_state, state_tensors

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
VALID = "valid_"  # prefix of validation figures in the log
METRICS = "metrics.jsonl"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
WRITING_SHARE = 20  # times as long as a checkpoint takes to write: those of a large catalogue have gigabytes


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate, by their names in a checkpoint."""

    parameters: Mapping[str, nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Number of steps, and the share of them in which the learning rate rises; then it falls to 0 as a cosine."""

    steps: int
    warmup: float

    def factor(self, step: int) -> float:
        """The factor of the learning rate at ``step``, from 0."""
        rise = max(1, round(self.steps * self.warmup))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


@dataclass(frozen=True)
class Validation:
    """Measures the weights at intervals, saves the best, and stops training when they no longer improve.

    Attributes:
        measure: Returns figures to log; the first decides, higher is better.
        every: Steps between two validations; the last step is always validated.
        patience: Validations without improvement after which training stops.
    """

    measure: Callable[[], dict[str, float]]
    every: int
    patience: int


@dataclass(frozen=True)
class Weights:
    """What a stage trains.

    Attributes:
        named: Parameters that AdamW trains.
        tables: Values of tables of which each step trains some rows.
        table_state: Their optimiser's state, by its names in a checkpoint.
    """

    named: Mapping[str, nn.Parameter]
    tables: Mapping[str, Any]
    table_state: Mapping[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """All of it as tensors by name, which share their memory."""
        return {name: p.detach() for name, p in self.named.items()} | dict(self.tables)


class AfterStep(Protocol):
    """Work after each step of the optimiser, with a state between steps."""

    def __call__(self, step: int) -> None:
        """Called after ``step``, from 0, before the gradients are cleared."""

    def state(self) -> dict[str, Any]:
        """Tensors that a checkpoint must hold."""

    def load(self, tensors: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""


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
    micro_batch_count: int = 1,
    after_step: AfterStep | None = None,
    optimiser_name: str = "adamw",
    average: float = 0.0,
    rows: TrainedRows | None = None,
) -> dict[str, float]:
    """Minimise ``loss_of``; called again after an interruption, it continues from the last checkpoint in ``out``.

    The random state is set from ``seed`` and the step, so a resumed run computes the same as an uninterrupted one.
    If several processes share the run, each calls this with the same arguments and computes its share of each step's
    micro-batches; all have the same weights after each step, and the first process validates and writes.

    Args:
        groups: Trained parameters.
        loss_of: The loss of a micro-batch (counted from 0 over all steps) and figures to log; must depend on that
            number alone.
        schedule: Length and learning rate.
        out: Folder for the checkpoint and ``metrics.jsonl``.
        console: Shows the bar.
        label: Before the bar.
        seed: For dropout.
        validation: Decides which step's weights remain at the end; without it, the last.
        micro_batch_count: Micro-batches of a step, of all processes together; the mean of their losses is the step's
            loss.
        after_step: Called after each step.
        optimiser_name: See ``make_optimiser``.
        average: Decay of a running mean of the weights, which is validated and remains at the end; 0: no mean.
        rows: Tables of which each step trains some rows; without ``average``.

    Returns:
        The means of the logged figures over the last tenth of the steps; with ``validation`` also its figures for
        the weights that remain, and ``best_step``, the number of steps after which they were reached.

    Raises:
        DelrecError: The loss is not a number.
        OutOfMemoryError: Says what to change.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = {name: p for group in groups for name, p in group.parameters.items()}
    weights = Weights(named, {} if rows is None else rows.values, {} if rows is None else rows.state)
    optimiser = make_optimiser(
        optimiser_name,
        [{"params": list(g.parameters.values()), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups],
        next(iter(named.values())).device.type,
    )
    means = ExponentialMovingAverage(named, average)
    start = _resume(out, weights, optimiser, means, after_step)
    processes = current()
    # The same lines in all processes, so that all stop at the same step.
    lines = processes.from_first(lambda: _saved_lines(out / METRICS, start))
    processes.broadcast(list(weights.values.values()))
    processes.wait()  # all processes have read the checkpoint before the first one writes another
    last_checkpoint, interval = time.monotonic(), SECONDS_BETWEEN_CHECKPOINTS
    with (
        memory_advice(label),
        (out / METRICS if processes.first else Path(os.devnull)).open("a", encoding="utf-8") as log,
        console.progress(label, schedule.steps) as tick,
    ):
        tick(start)
        for step in range(start, schedule.steps):
            if validation is not None and _patience_exhausted(lines, validation):
                break
            torch.manual_seed((processes.index << 48) + (seed << 24) + step)
            step_start = time.monotonic()
            for settings, group in zip(optimiser.param_groups, groups, strict=True):
                settings["lr"] = group.lr * schedule.factor(step)
            optimiser.zero_grad(set_to_none=True)
            trained = named if rows is None else {**named, **rows.open(step)}
            value, figures = _backward(trained, loss_of, step, micro_batch_count)
            nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimiser.step()
            if rows is not None:
                rows.step(step, schedule.factor(step))
            if after_step is not None:
                after_step(step)
            means.update(step)
            line = {
                "step": step,
                "loss": value,
                **figures,
                "seconds": round(time.monotonic() - step_start, 3),
            }
            validates = validation is not None and ((step + 1) % validation.every == 0 or step + 1 == schedule.steps)
            if validation is not None and validates:
                with means.in_place():
                    line |= processes.from_first(validation.measure)
            lines.append(line)
            log.write(json.dumps(line) + "\n")
            log.flush()
            tick(1, f"loss {value:.3f}")
            console.track(out.name, step, line)
            if not processes.first:
                continue
            # The best weights are written before the checkpoint, so that a resumed run always has them.
            if validates and _best(lines)["step"] == step:
                chosen = weights.values | means.values
                _write(out / BEST, {f"value/{name}": t for name, t in chosen.items()}, step + 1)
            if validates or time.monotonic() - last_checkpoint > interval:
                before = time.monotonic()
                _save(out, weights, optimiser, means, step + 1, after_step)
                last_checkpoint = time.monotonic()
                interval = max(SECONDS_BETWEEN_CHECKPOINTS, WRITING_SHARE * (last_checkpoint - before))
    tail = lines[-max(1, len(lines) // 10) :]
    common = set(tail[0]).intersection(*tail) - {"step", "seconds"}
    figures = {key: sum(line[key] for line in tail) / len(tail) for key in tail[0] if key in common}
    if validation is None:
        means.write(means.values)
        return figures
    best = _best(lines)
    processes.wait()
    _restore(out / BEST, weights)
    processes.wait()  # all processes have read it before it is deleted
    return figures | {key: v for key, v in best.items() if key.startswith(VALID)} | {"best_step": best["step"] + 1}


def _backward(
    named: Mapping[str, nn.Parameter], loss_of: LossOf, step: int, micro_batch_count: int
) -> tuple[float, dict[str, float]]:
    """Compute the gradients of a step, in ``p.grad``; its loss and figures. Summed over all processes."""
    processes = current()
    total, sums = 0.0, dict[str, float]()
    first = step * micro_batch_count
    for micro_batch in range(first + processes.index, first + micro_batch_count, processes.count):
        loss, figures = loss_of(micro_batch)
        if not torch.isfinite(loss):
            raise DelrecError(f"the loss of step {step} is not a number", "lower the learning rate in the recipe")
        (loss / micro_batch_count).backward()
        total += loss.item() / micro_batch_count
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value / micro_batch_count
    return _all_reduced(named, {"loss": total, **sums})


def _all_reduced(named: Mapping[str, nn.Parameter], figures: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Sum gradients and figures over the processes; returns the loss and the other figures."""
    processes = current()
    if processes.count > 1:
        for p in named.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        values = torch.tensor(list(figures.values()), device=next(iter(named.values())).device)
        processes.all_reduce([*(p.grad for p in named.values()), values])
        figures = dict(zip(figures, values.tolist(), strict=True))
    return figures.pop("loss"), figures


def _patience_exhausted(lines: Sequence[Mapping[str, float]], validation: Validation) -> bool:
    """Whether the last ``patience`` validations brought no improvement."""
    if not any(key.startswith(VALID) for line in lines for key in line):
        return False
    return lines[-1]["step"] - _best(lines)["step"] >= validation.patience * validation.every


def _best(lines: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The validated line whose first figure is highest; the earliest of equal ones."""
    validated = [line for line in lines if any(key.startswith(VALID) for key in line)]
    return max(validated, key=lambda line: next(v for key, v in line.items() if key.startswith(VALID)))


def _restore(path: Path, weights: Weights) -> None:
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, value in weights.values.items():
            value.copy_(file.get_tensor(f"value/{name}"))


def finish_stage(out: Path, console: Console) -> None:
    """Draw the curves of a stage that has written its result, and delete its checkpoints."""
    draw_curves(out, console=console)
    for name in (CHECKPOINT, BEST):
        (out / name).unlink(missing_ok=True)


def _saved_lines(path: Path, start: int) -> list[dict[str, float]]:
    """Log lines before step ``start``; the later steps are not in the checkpoint and are computed again."""
    lines = path.read_text(encoding="utf-8").splitlines()[:start] if start and path.is_file() else []
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def _save(
    out: Path,
    weights: Weights,
    optimiser: Any,
    means: ExponentialMovingAverage,
    step: int,
    after_step: AfterStep | None = None,
) -> None:
    tensors = {f"value/{name}": value for name, value in weights.values.items()}
    tensors |= {**state_tensors(optimiser, weights.named), **weights.table_state}
    tensors |= {f"mean/{name}": t for name, t in means.values.items()}
    if after_step is not None:
        tensors |= {f"after/{name}": t for name, t in after_step.state().items()}
    _write(out / CHECKPOINT, tensors, step)


def _write(path: Path, tensors: Mapping[str, Any], step: int) -> None:
    temporary = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"step": str(step)})
    temporary.rename(path)


def _resume(
    out: Path,
    weights: Weights,
    optimiser: Any,
    means: ExponentialMovingAverage,
    after_step: AfterStep | None = None,
) -> int:
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    copied = {f"value/{name}": value for name, value in weights.values.items()}
    copied |= {f"mean/{name}": mean for name, mean in means.values.items()} | dict(weights.table_state)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        for key, value in copied.items():
            value.copy_(file.get_tensor(key))
        tensors = {key: file.get_tensor(key) for key in file.keys() if key not in copied}  # noqa: SIM118
    if after_step is not None:
        after_step.load({key.removeprefix("after/"): t for key, t in tensors.items() if key.startswith("after/")})
    restore_state(optimiser, weights.named, tensors, step)
    return step
