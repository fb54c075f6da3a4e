"""`report.html`: renders a run's sections by a template that escapes every text, and writes the page."""

from importlib import resources
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.errors import DataError, MissingPackageError, StorageError, install_line
from delrec_lite.evaluation.beyond import BY_KEY
from delrec_lite.files import check_file, write_atomic
from delrec_lite.report.accuracy import accuracy, label, main_model, rows_of, segments, setting_of, verdict
from delrec_lite.report.blocks import Section, Text, number
from delrec_lite.report.curves import curves
from delrec_lite.report.files import REPORT, RunFiles, read_run
from delrec_lite.report.latency import latency
from delrec_lite.report.lists import lists
from delrec_lite.report.origin import origin

PAGE = "report.html"
STALE = "Stages of this run were computed again after this evaluation: its figures are those of before."
# How every page begins, which tells it from a page of the user.
MARK = "<!doctype html>\n<!-- A run's figures, written by delrec-lite. -->\n"


def write_page(folder: Path, out: Path | None = None, bench: Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        folder: Of the run.
        out: The page; None: ``report.html`` in the run.
        bench: A report that `delrec-lite bench --out` wrote.

    Returns:
        Where it was written, links followed.

    Raises:
        UsageError: The folder is no run.
        DataError: A file of the run, or the report of bench, cannot be read.
        StorageError: Something else is at ``out``, or it cannot be written.
        MissingPackageError: jinja2 or matplotlib is not installed.
    """
    target = check_file(folder / PAGE if out is None else out, "page of a run", begins=MARK)
    page = as_html(read_run(folder, bench))
    try:
        write_atomic(target, page)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}", "choose another with --out") from error
    return target


def page_or_reason(folder: Path, console: Console) -> None:
    """Write the page of a run and say where it is; or why it is left out, which is no reason to fail."""
    try:
        console.say(f"  report: {write_page(folder)}")
    except (MissingPackageError, StorageError, DataError) as error:
        console.say(f"  {PAGE} is left out: {error.message}: {error.hint}")


def as_html(files: RunFiles) -> str:
    """The page as text.

    Raises:
        DataError: The report of the run, or of bench, is not as this program writes it.
        MissingPackageError: jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingPackageError("the page needs jinja2, which is not installed", install_line("jinja2")) from error
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    try:
        sections, facts = _sections(files), _facts(files)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        what = f"{REPORT} of {files.name}" + (", or the report of bench," if files.bench else "")
        raise DataError(f"{what} cannot be read: {error!r}", "evaluate again: delrec-lite eval") from error
    static = resources.files("delrec_lite.report").joinpath("static")
    template = environment.from_string(static.joinpath("report.html.jinja").read_text(encoding="utf-8"))
    style = Markup(static.joinpath("report.css").read_text(encoding="utf-8"))  # noqa: S704 - the program's own
    body = template.render(sections=sections, style=style, own=Markup, **facts)
    return f"{MARK}{body}\n"


def _sections(files: RunFiles) -> list[Section]:
    report = files.report
    if not report:
        missing = Section("accuracy", "Accuracy by model", [Text("Not evaluated yet: delrec-lite eval does it.")])
        times = [latency(report, files.bench)] if files.bench else []
        return [missing, *times, curves(files.logs), origin(report, files.recipe)]
    return [
        accuracy(report),
        segments(report),
        lists(report),
        latency(report, files.bench),
        curves(files.logs),
        origin(report, files.recipe),
    ]


def _facts(files: RunFiles) -> dict[str, Any]:
    """The head of the page: title, subtitle, verdict and the most important figures."""
    report = files.report
    if not report:
        return {"title": files.name, "subtitle": "not evaluated yet", "verdict": "", "warning": "", "figures": []}
    prepared, machine = report["stages"].get("prepare", {}), report["machine"]
    counts = [f"{prepared[key]:,} {key}" for key in ("users", "items", "interactions") if key in prepared]
    created = str(report["created"]).replace("T", " ").removesuffix("Z")
    subtitle = ", ".join([*counts, f"evaluated {created} UTC", str(machine["cpu"])])
    return {
        "title": report["recipe"]["name"],
        "subtitle": subtitle,
        "verdict": verdict(report),
        "warning": STALE if files.is_stale else "",
        "figures": _figures(report),
    }


def _figures(report: Any) -> list[tuple[str, str, str]]:
    """The figures of the run's model: label, number, interval."""
    main, setting = main_model(report), setting_of(report)
    found = []
    for protocol, metric in (
        ("full", "HR@10"),
        ("full", "NDCG@10"),
        ("expected_sampled", "HR@1"),
        ("full", "coverage@10"),
        ("full", "novelty@10"),
    ):
        row = next((r for r in rows_of(report, protocol) if r["model"] == main and metric in r["metrics"]), None)
        if row:
            low, high = row["intervals"][metric]
            found.append(
                (
                    metric if metric in BY_KEY else label(setting, protocol, metric),
                    number(row["metrics"][metric]),
                    f"{number(low)} to {number(high)}",
                )
            )
    return found
