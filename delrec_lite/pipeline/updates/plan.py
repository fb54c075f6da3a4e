"""What an update would do: counts, steps, and minutes by the speed of the run that it goes on from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from delrec_lite.data.extend import Counts
from delrec_lite.pipeline.updates.compare import Newest
from delrec_lite.pipeline.updates.run import UpdateRun
from delrec_lite.teacher_kinds.registry import TEACHERS


@dataclass(frozen=True)
class Plan:
    """An update before it begins.

    Attributes:
        counts: What the new log brings.
        new_steps: Steps to new items in the training part.
        trained_steps: Steps that stage 2 trains, replayed ones among them.
        optimiser_steps: Of stage 2.
        teacher_epochs: Of each teacher.
        questions: That both bundles are asked.
        minutes: Expected; None where the run has no record of its speed.
    """

    counts: Counts
    new_steps: int
    trained_steps: int
    optimiser_steps: int
    teacher_epochs: int
    questions: int
    minutes: float | None

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "counts": self.counts.dump()}


def plan_of(run: UpdateRun, newest: Newest) -> Plan:
    """Count, and estimate the time; nothing is written."""
    from delrec_lite.training.windows import steps_for

    section, mixture = run.finetune_section, run.finetune_mixture
    steps = steps_for(section.epochs, mixture.train(), section.tokens_per_step)
    new = sum(part.new_steps for part in run.parts)
    seconds = _seconds(run, steps, len(newest.questions))
    minutes = None if seconds is None else round(seconds / 60, 1)
    epochs = run.recipe.update.teacher_epochs
    return Plan(run.extended.counts, new, mixture.steps, steps, epochs, len(newest.questions), minutes)


def _seconds(run: UpdateRun, steps: int, questions: int) -> float | None:
    """Of teachers, stage 2, export and comparison, as the run before took them; None: it has no record."""
    before, total = run.before, 0.0
    tuned = [line["seconds"] for line in _lines(before.finetune().folder)]
    if not tuned:
        return None
    trained = sum(max(0, len(sequence) - 1) for sequence in before.dataset.train())
    for kind in before.recipe.teacher.kinds:
        config = TEACHERS[kind].configure(**before.recipe.teacher.settings_of(kind))
        lines = list(_lines(before.teacher().folder / kind))
        if lines and trained:
            share = run.mixture(1.0, config.max_length, config.seed).steps / trained
            total += lines[-1]["seconds"] / len(lines) * run.recipe.update.teacher_epochs * share
    # A question costs each bundle about one evaluation of a history, which training does for many places at once.
    per_question = 2 * median(tuned) * run.recipe.model.max_history / run.recipe.finetune.tokens_per_step
    return total + median(tuned) * steps + before.export().seconds + questions * per_question


def _lines(folder: Path) -> Iterator[dict[str, float]]:
    path = folder / "metrics.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)
