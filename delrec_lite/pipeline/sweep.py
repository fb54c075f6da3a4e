"""A sweep: a recipe trained with every combination of some keys' values, compared on validation users."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.errors import DataError, DelrecError, OutOfMemoryError
from delrec_lite.evaluation.table import aligned
from delrec_lite.files import write_atomic
from delrec_lite.pipeline.folder import RECIPE, check_study
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.validation import MODELS, deciding, validated
from delrec_lite.processes import current
from delrec_lite.provenance import stamp

REPORT, TABLE = "sweep.json", "sweep.md"
_REPORT_KEYS = ("keys", "stage", "trials")
# Longer names of folders are cut, and end with a digest.
MOST_LETTERS = 120


@dataclass(frozen=True)
class Trial:
    """One combination of a sweep.

    Attributes:
        folder: Its run.
        values: Of the keys with several values.
        figures: On validation users, see ``validation.validated``; empty if the training failed.
        decides: The figure that decides between trials.
        seconds: Training of its stages, those shared with other trials included.
        error: Why its training failed; empty if it did not.
    """

    folder: str
    values: dict[str, Any]
    figures: dict[str, float]
    decides: str = ""
    seconds: float = 0.0
    error: str = ""


# Follows the training of a run, such as a tracker.
Follow = Callable[[Run], AbstractContextManager[None]]


def sweep(
    recipes: Sequence[tuple[Recipe, tuple[str, ...]]],
    runs: Path,
    console: Console,
    stage: str = "finetune",
    fresh: bool = False,
    follow: Follow = lambda _: nullcontext(),
) -> list[Trial]:
    """Train every recipe of a grid up to a stage, and compare them on validation users.

    Each trial is a run below ``<runs>/<recipe name>-sweep``, named by what ``--set`` changed. Finished trials are not
    trained again, and a stage that two of them share is computed once. After each trial the table is written to
    ``sweep.json`` and ``sweep.md`` there.

    Args:
        recipes: Of ``overrides.grid``.
        runs: Folder of all runs.
        console: Shows progress.
        stage: The last stage.
        fresh: Delete earlier results of these trials.
        follow: A context in which each trial is trained.

    Returns:
        The trials, in the order of the grid. One whose training failed has an ``error``.
    """
    folder = runs / f"{recipes[0][0].name}-sweep"
    check_study(folder / REPORT, "sweep", _REPORT_KEYS, folder / TABLE, f"*/{RECIPE}")
    named = [(recipe.model_copy(update={"name": trial_name(recipe)}), keys) for recipe, keys in recipes]
    shared = [runs / recipes[0][0].name, *(folder / recipe.name for recipe, _ in named)]
    # All at once, so that a fresh trial copies no stage of an earlier call.
    made = [Run(recipe, folder, console, fresh, shipped=False, shared=shared) for recipe, _ in named]
    trials: list[Trial] = []
    for number, (run, (recipe, keys)) in enumerate(zip(made, named, strict=True), 1):
        console.heading(f"trial {number} of {len(made)}: {recipe.name}")
        values = {key: recipe.value(key) for key in keys}
        with follow(run):
            trials.append(_tried(run, values, stage, console))
        if current().first:
            _write(folder, recipes[0][0], stage, trials)
    return trials


def trial_name(recipe: Recipe) -> str:
    """The name of a trial's run: every key that was set, with its value: ``finetune.lr-0.0005_finetune.seed-1``."""
    parts = [f"{key}-{_text(value)}" for key, value in recipe.changes.items() if key != "name"]
    exact = "_".join(parts)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", exact).lstrip(".")
    # Other values could have the same letters.
    return name if name == exact and len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}-{_digest(exact)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _tried(run: Run, values: dict[str, Any], stage: str, console: Console) -> Trial:
    """The trial of a run; a training that fails by itself leaves the others alone."""
    try:
        figures = validated(run, stage)
    except DelrecError as error:
        # Weights that are no numbers may appear in the last step, and then in the ranking.
        ranked = isinstance(error, DataError) and stage in run.stages
        if type(error) not in (DelrecError, OutOfMemoryError) and not ranked:
            raise
        console.say(f"  failed: {error.message}")
        return Trial(run.recipe.name, values, {}, error=error.message)
    console.track("validation", 0, {name.replace(" ", "_"): value for name, value in figures.items()})
    seconds = round(sum(run.stages[name].seconds for name in run.stages if name in (*MODELS, "text")), 1)
    return Trial(run.recipe.name, values, figures, deciding(run, figures), seconds)


def _write(folder: Path, recipe: Recipe, stage: str, trials: Sequence[Trial]) -> None:
    report = {
        **stamp(),
        "recipe": recipe.dump(),
        "keys": list(trials[0].values),
        "stage": stage,
        "trials": [asdict(trial) for trial in trials],
    }
    write_atomic(folder / REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    title = f"**{MODELS[stage]}** on validation users; seconds of all stages of a trial, shared ones included"
    write_atomic(
        folder / TABLE, f"{title}\n\n{aligned([header(trials), *(cells(trial, trials) for trial in trials)])}\n"
    )


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest deciding figure; None if all failed."""
    done = [trial for trial in trials if trial.figures]
    return max(done, key=lambda trial: trial.figures[trial.decides]) if done else None


def header(trials: Sequence[Trial]) -> list[str]:
    """The columns of the table."""
    return [*trials[0].values, *_names(trials), "seconds"]


def cells(trial: Trial, trials: Sequence[Trial]) -> list[str]:
    """A row of the table as text."""
    values = ["none" if value is None else str(value) for value in trial.values.values()]
    figures = [f"{trial.figures[name]:.4f}" if trial.figures else "-" for name in _names(trials)]
    return [*values, *figures, "failed" if trial.error else f"{trial.seconds:.0f}"]


def _names(trials: Sequence[Trial]) -> list[str]:
    """The figures shown: expected ones in place of those of one candidate set, where there are any."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.figures))
    if any(name.startswith("expected_sampled") for name in names):
        names = [name for name in names if not name.startswith("sampled")]
    return names
