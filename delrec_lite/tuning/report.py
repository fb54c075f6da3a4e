"""The results of a search: ``tune.json``, ``tune.md``, ``tune.svg`` and the best recipe, written after each trial."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.errors import MissingPackageError, UsageError
from delrec_lite.evaluation.table import aligned
from delrec_lite.files import check_file, write_atomic
from delrec_lite.provenance import stamp
from delrec_lite.tuning.plot import picture
from delrec_lite.tuning.results import TrialResult, TuningReport
from delrec_lite.tuning.space import Dimension

REPORT, TABLE, PICTURE, BEST = "tune.json", "tune.md", "tune.svg", "best.yaml"
_KEYS = ("model", "recipe", "space", "trials")
# Lines of the table on the screen.
MOST_SHOWN = 10


def check_folder(folder: Path) -> None:
    """Check that a folder is absent, empty or a search.

    Raises:
        StorageError: It holds something else.
        UsageError: The same.
    """
    check_file(folder / REPORT, "search", _KEYS)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise UsageError(f"{folder} is not empty and no search", "choose another --runs folder")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --runs folder")


def claim(folder: Path, recipe: Recipe, model: str, space: Sequence[Dimension]) -> None:
    """Write the first report, which makes a folder a search."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / REPORT).is_file():
        _write_json(TuningReport(model, recipe, (), None, None, folder), space)


def write_report(report: TuningReport, space: Sequence[Dimension], console: Console) -> None:
    """Write all files of the search."""
    _write_json(report, space)
    if not report.trials:
        return
    lines = aligned([header(report), *(cells(trial, report) for trial in report.ranked())])
    title = f"**{len(report.trials)} trials of {report.recipe.name}, {report.model}**, by {report.decides}"
    write_atomic(report.folder / TABLE, f"{title} on validation users\n\n{lines}\n")
    try:
        write_atomic(report.folder / PICTURE, picture(report, space))
    except MissingPackageError as error:
        console.say(f"  no {PICTURE}: {error.message}; {error.hint}")
    if report.best is not None and report.best_recipe is not None:
        write_atomic(report.folder / BEST, best_yaml(report, report.best, report.best_recipe))


def best_yaml(report: TuningReport, best: TrialResult, recipe: Recipe) -> str:
    """The best recipe as YAML: what the original says, with the best values, under the name ``<name>-tuned``."""
    text = recipe.model_copy(update={"name": f"{report.recipe.name}-tuned"})
    values = text.model_dump(mode="json", exclude_unset=True)
    return (
        f"# The best of {len(report.trials)} trials of {report.recipe.name} by {best.decides} on validation users: "
        f"{best.value:.4f} ({best.folder}).\n# Found by `delrec-lite tune --model {report.model}`, which writes it "
        f"again after each trial: copy it to change it.\n{yaml.safe_dump(values, sort_keys=False)}"
    )


def header(report: TuningReport) -> list[str]:
    """The columns of the table."""
    keys = list(report.trials[0].values) if report.trials else []
    return ["trial", report.decides, "seconds", *keys]


def cells(trial: TrialResult, report: TuningReport) -> list[str]:
    """A row of the table as text."""
    value = trial.state if trial.value is None else f"{trial.value:.4f}"
    values = (trial.values.get(key) for key in header(report)[3:])
    return [trial.folder, value, f"{trial.seconds:.0f}", *("none" if v is None else str(v) for v in values)]


def _write_json(report: TuningReport, space: Sequence[Dimension]) -> None:
    content = {
        **stamp(),
        "model": report.model,
        "recipe": report.recipe.dump(),
        "space": {dimension.key: dimension.dump() for dimension in space},
        "best": report.best.folder if report.best else None,
        "trials": [asdict(trial) for trial in report.trials],
    }
    write_atomic(report.folder / REPORT, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
