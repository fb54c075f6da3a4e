"""The files of a run that its page is made from, read without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.errors import DataError, UsageError

REPORT, RECIPE, LOG = "report.json", "recipe.yaml", "metrics.jsonl"
# Stages with a log, by folder.
STAGES = {"distill": "Stage 1, distil the teacher", "finetune": "Stage 2, fine-tune"}


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder holds.

    Attributes:
        name: Of the folder.
        recipe: Text of ``recipe.yaml``.
        report: ``report.json``; empty before `delrec-lite eval`.
        logs: The lines of each stage's ``metrics.jsonl``, by title.
        bench: A report of `delrec-lite bench`; empty: none was given.
        is_stale: The run was trained or exported again after its evaluation.
    """

    name: str
    recipe: str
    report: Mapping[str, Any]
    logs: Mapping[str, list[dict[str, Any]]]
    bench: Mapping[str, Any]
    is_stale: bool = False


def read_run(folder: Path, bench: Path | None = None) -> RunFiles:
    """Read the files of a run.

    Args:
        folder: Of the run.
        bench: A report that `delrec-lite bench --out` wrote.

    Raises:
        UsageError: The folder is no run.
        DataError: A file cannot be read.
    """
    recipe = folder / RECIPE
    if not recipe.is_file():
        raise UsageError(f"{folder} is no folder of a run", "give RUNS/NAME, or a recipe whose run is in --runs")
    report = _read_object(folder / REPORT, "evaluate again: delrec-lite eval") if (folder / REPORT).is_file() else {}
    logs = {f"Teacher {path.parent.name}": path for path in sorted(folder.glob(f"teacher/*/{LOG}"))}
    logs |= {title: folder / name / LOG for name, title in STAGES.items()}
    read = {title: _read_log(path) for title, path in logs.items()}
    timed = {} if bench is None else _read_object(bench, "give the JSON file that delrec-lite bench --out wrote")
    if bench is not None and not isinstance(timed.get("results"), list):
        raise DataError(f"{bench} is no report of bench", "give the JSON file that delrec-lite bench --out wrote")
    try:
        text = recipe.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{recipe} cannot be read as text: {error}", "train or evaluate again") from error
    kept = {stage: lines for stage, lines in read.items() if lines}
    return RunFiles(folder.resolve().name, text, report, kept, timed, _is_stale(folder, report))


def _is_stale(folder: Path, report: Mapping[str, Any]) -> bool:
    """Whether a stage has other figures now than in the report, or is not finished."""
    stages = report.get("stages")
    for name, figures in stages.items() if isinstance(stages, dict) else ():
        done = folder / name / "done.json"
        now = _read_object(done, "train again") if done.is_file() else {}
        if not isinstance(now.get("result"), dict) or any(figures.get(k) != v for k, v in now["result"].items()):
            return True
    return False


def _read_object(path: Path, hint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object", hint)
    return content


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; a stage may still be writing."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
