"""Teachers against each other: ``python -m delrec_lite.bench.teachers [RECIPE [RUNS [OUT]]]``.

Trains a kind of teacher that the recipe does not have with each of a handful of settings, keeps the one whose
validation NDCG@10 (expected, among the recipe's candidates) is highest, and ranks the test users once with it and
with the recipe's own teachers, over the same candidate sets. What was trained is kept under RUNS, so that a run cut
short goes on.
"""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.files import write_whole
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.fit import CHOOSES, fit
from delrec_lite.teachers.store import CONFIG, load_teacher, save_teacher

KIND = "esasrec"
SETTINGS: tuple[dict[str, int | float], ...] = (
    {},
    {"dropout": 0.5},
    {"layers": 1, "dropout": 0.5},
    {"negatives": 256},
    {"lr": 1e-3},
)


def main(recipe: str = "ml-100k-cpu", runs: str = "runs", out: str = "bench/results/teachers-ml-100k.json") -> None:
    """Train, choose, rank and write the report."""
    began, console = stamp(), Console("human")
    run = Run(load_recipe(recipe), Path(runs), console)
    tried = [_trained(run, Path(runs) / f"{recipe}-{KIND}", settings, console) for settings in SETTINGS]
    chosen = max(tried, key=lambda trial: float(trial["validation"][CHOOSES]))
    teachers = {TEACHERS[kind].label: teacher for kind, teacher in run.models.teachers().items()}
    teachers[TEACHERS[KIND].label] = load_teacher(Path(chosen["folder"]))
    test, sets = run.dataset.test(), run.candidates["test"]
    expected = run.expected(test)
    ranks = {label: rank_all(t.scores, test, sets, console=console, label=label) for label, t in teachers.items()}
    new = TEACHERS[KIND].label
    report = {
        **began,
        "command": shlex.join(["python", "-m", "delrec_lite.bench.teachers", *sys.argv[1:]]),
        "recipe": recipe,
        "data": run.prepare().result,
        "setting": asdict(run.setting),
        "chosen": chosen["settings"],
        "tried": [{name: value for name, value in trial.items() if name != "folder"} for trial in tried],
        "configs": {label: teacher.config.model_dump() for label, teacher in teachers.items()},
        "training": {label: teacher.metrics for label, teacher in teachers.items()},
        "rows": [asdict(row) for label, of_one in ranks.items() for row in rows_for(label, of_one, expected)],
        "comparisons": compare_all(ranks, [(new, other) for other in ranks if other != new], expected),
        "expected_sampled": expected.dump(),
        "ranks": {label: of_one.dump() for label, of_one in ranks.items()},
    }
    write_whole(Path(out), json.dumps(report) + "\n")


def _trained(run: Run, folder: Path, settings: dict[str, int | float], console: Console) -> dict[str, Any]:
    """A teacher with these settings, trained or as trained before: its settings, validation figures and folder."""
    kept = folder / ("-".join(f"{name}-{value}" for name, value in settings.items()) or "defaults")
    if not (kept / CONFIG).is_file():
        save_teacher(fit(TEACHERS[KIND].configure(**settings), run.dataset, console, out=kept), kept)
    validation = load_teacher(kept).metrics
    console.say(f"  {kept.name}: {CHOOSES} {validation[CHOOSES]:.4f}, epoch {validation['epoch']:.0f}")
    return {"settings": settings, "validation": validation, "folder": str(kept)}


if __name__ == "__main__":
    main(*sys.argv[1:])
