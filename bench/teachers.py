"""A new teacher against those of a recipe: ``python -m delrec_lite.bench.teachers RECIPE --out FILE``.

Trains a kind of teacher that the recipe does not have with each of a handful of settings, chooses the one whose
validation NDCG@10 (expected, among the recipe's candidates) is highest, and ranks the test users once with it and
with the recipe's teachers, over the same candidate sets. Trained teachers stay in the folder of runs, so that an
interrupted call continues.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.files import CONFIG
from delrec_lite.teachers.fit import CHOOSES, fit
from delrec_lite.teachers.store import load_teacher, save_teacher

KIND = "esasrec"
SETTINGS: tuple[dict[str, int | float], ...] = (
    {},
    {"dropout": 0.5},
    {"layers": 1, "dropout": 0.5},
    {"negatives": 256},
    {"lr": 1e-3},
)


def parser() -> argparse.ArgumentParser:
    """Recipe and runs."""
    options = script_parser("teachers", __doc__)
    add_recipe(options, "ml-100k-cpu")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, choose, rank and write the report."""
    options = parser().parse_args(arguments)
    started, console = stamp(), Console("human")
    words = sys.argv[1:] if arguments is None else arguments
    run = Run(load_recipe(options.recipe), options.runs, console)
    folder = options.runs / f"{options.recipe}-{KIND}"
    trials = [_trained(run, folder, settings, console) for settings in SETTINGS]
    chosen = max(trials, key=lambda trial: float(trial["validation"][CHOOSES]))
    teachers = {TEACHERS[kind].label: teacher for kind, teacher in run.models.teachers().items()}
    teachers[TEACHERS[KIND].label] = load_teacher(Path(chosen["folder"]))
    test, sets = run.dataset.test(), run.candidates["test"]
    expected = run.expected(test)
    ranks = {label: rank_all(t.scores, test, sets, console=console, label=label) for label, t in teachers.items()}
    new = TEACHERS[KIND].label
    report = {
        **started,
        "command": shlex.join(["python", "-m", "delrec_lite.bench.teachers", *words]),
        "recipe": options.recipe,
        "data": run.prepare().result,
        "setting": asdict(run.setting),
        "chosen": chosen["settings"],
        "tried": [{name: value for name, value in trial.items() if name != "folder"} for trial in trials],
        "configs": {label: teacher.config.model_dump() for label, teacher in teachers.items()},
        "training": {label: teacher.metrics for label, teacher in teachers.items()},
        "rows": [asdict(row) for label, ranked in ranks.items() for row in rows_for(label, ranked, expected)],
        "comparisons": compare_all(ranks, [(new, other) for other in ranks if other != new], expected),
        "expected_sampled": expected.dump(),
        "ranks": {label: ranked.dump() for label, ranked in ranks.items()},
    }
    write_json(report, options.out, indent=None)


def _trained(run: Run, folder: Path, settings: dict[str, int | float], console: Console) -> dict[str, Any]:
    """A teacher with these settings, trained or as trained before: its settings, validation figures and folder."""
    trial = folder / ("-".join(f"{name}-{value}" for name, value in settings.items()) or "defaults")
    if not (trial / CONFIG).is_file():
        save_teacher(fit(TEACHERS[KIND].configure(**settings), run.dataset, console, out=trial), trial)
    validation = load_teacher(trial).metrics
    console.say(f"  {trial.name}: {CHOOSES} {validation[CHOOSES]:.4f}, epoch {validation['epoch']:.0f}")
    return {"settings": settings, "validation": validation, "folder": str(trial)}


if __name__ == "__main__":
    main()
