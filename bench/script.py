"""How every script of the bench is called: ``python -m delrec_lite.bench.NAME SUBJECT --out FILE [options]``.

The subject is what is measured: a bundle, a recipe or a model's shape. Every script has ``parser()`` and
``main(arguments)``, so that a notebook and a test call it with the same words as a shell.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from delrec_lite.files import check_file, write_atomic


def script_parser(
    name: str, doc: str | None, output: str = "the report, as JSON; default: standard output", needed: bool = False
) -> argparse.ArgumentParser:
    """A parser with ``--out``.

    Args:
        name: Of the module in ``delrec_lite.bench``.
        doc: The module's docstring; its first line is the description.
        output: What ``--out`` names.
        needed: Whether ``--out`` must be given; then it names something else than a report.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m delrec_lite.bench.{name}", description=(doc or "").partition(": ``")[0]
    )
    parser.add_argument("--out", type=Path if needed else report_path, required=needed, help=output)
    return parser


def report_path(path: str | Path) -> Path:
    """Where a report can go; an error comes before the measurement.

    Raises:
        StorageError: Something else is there.
    """
    return check_file(Path(path), "report", ("commit",))


def add_recipe(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the subject ``recipe`` and the option ``--runs``.

    Args:
        parser: Gets both.
        default: The recipe that is measured if none is named; None: one must be named.
    """
    parser.add_argument("recipe", nargs=None if default is None else "?", default=default, help="a name or a YAML file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")


def write_json(report: Any, out: Path | None, indent: int | None = 1) -> None:
    """Write a report to a file, or print it."""
    text = json.dumps(report, indent=indent)
    if out is None:
        print(text)
    else:
        write_atomic(report_path(out), text + "\n")
