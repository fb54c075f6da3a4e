"""The table of a run: every model ranks the same test users over the same candidate sets."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import LIST_LENGTH, Ranks
from delrec_lite.evaluation.segments import by_segment
from delrec_lite.evaluation.segments import markdown as segments_markdown
from delrec_lite.evaluation.setting import PROTOCOLS
from delrec_lite.evaluation.table import Row, screen, screen_lists, write_table
from delrec_lite.files import write_atomic
from delrec_lite.pipeline.lists import describe_lists
from delrec_lite.pipeline.own_rows import own_ranks
from delrec_lite.pipeline.rows import (
    ALL_TEACHERS,
    FIXED_ROWS,
    FUSED,
    TRAINED,
    bundle_row,
    cached_ranks,
    fused_row,
    row_factories,
    teacher_labels,
)
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.report.page import page_or_reason

# Parts of the report that `write_table` wrote to separate files.
REPORT_FILES = ("comparisons", "ranks")


def evaluate(
    run: Run,
    fused: bool = False,
    zero_shot: bool = False,
    bundle: bool = True,
    own: Mapping[str, Path] | None = None,
    missing: str = "refuse",
) -> list[Row]:
    """Rank the test users with every model and write ``table.json``, ``table.md``, ``ranks.json``.

    Also ``report.json``, all of it with recipe, stages, machine and versions, and ``report.html``, a page of it. Each
    model's ranks are cached like a stage, so an interrupted evaluation continues with the next model.

    Args:
        run: Missing stages are computed first.
        fused: Add rows for the trained model and its teachers together.
        zero_shot: Add a row of the untrained LLM, which takes longest.
        bundle: Include the rows of the exported bundle.
        own: Files with the ranked lists of other models, by the name of their row; see ``own_rows``.
        missing: Test users without a list there: ``refuse`` or ``count``.

    Raises:
        UsageError: A name of ``own`` is that of another row.
        DataError: One of its files cannot be used.
    """
    with run.locked():
        # Before hours of training, not after.
        _check_names(own or {}, [*FIXED_ROWS, *teacher_labels(run)])
        own_rows = {
            name: own_ranks(path, run.dataset, run.candidates["test"], run.console, missing)
            for name, path in (own or {}).items()
        }
        entries = {
            name: cached_ranks(run, name, *factory)
            for name, factory in row_factories(run, fused, zero_shot, bundle).items()
        }
        _check_names(own_rows, list(entries))
        entries |= own_rows
        expected = run.expected(run.dataset.test())
        exported = (bundle_row(run), fused_row(run)) if bundle else ()
        pairs = _pairs(list(entries), [*teacher_labels(run), *own_rows], exported)
        of_lists, lists = describe_lists(run, entries)
        rows = write_table(run.folder, entries, pairs, run.setting, expected, of_lists)
        segments = by_segment(entries, run.dataset)
        with (run.folder / "table.md").open("a", encoding="utf-8") as file:
            file.write("\n" + segments_markdown(segments, run.setting))
            file.write("\n" + _precisions(run, entries))
        _write_report(run, rows, segments, expected, {"main": exported[0] if exported else TRAINED, "lists": lists})
        page_or_reason(run.folder, run.console)
        return rows


def _check_names(own: Collection[str], others: Collection[str]) -> None:
    """Refuse a row of the user's own that has the name of another row."""
    for name in own:
        if name in others:
            raise UsageError(f"--row {name} is the name of another row", f"name it otherwise: --row 'my {name}=...'")


def _precisions(run: Run, entries: Mapping[str, Ranks]) -> str:
    """The precision of training and of the rows of a torch LLM."""
    trained = run.models.precisions()
    computed = ", ".join(f"{name}: {ranks.precision}" for name, ranks in entries.items() if ranks.precision)
    return (
        f"Stage 1 trained in {trained['distill']}, stage 2 in {trained['finetune']}. Scores computed in {computed}.\n"
    )


def _pairs(names: Sequence[str], labels: Sequence[str], exported: Sequence[str]) -> list[tuple[str, str]]:
    """The compared pairs: the bundle with every row, training precision and fusion with each teacher.

    Args:
        names: The table's rows.
        labels: Of the run's teachers, and of the user's own rows.
        exported: Names of the bundle's rows: alone, and fused with the teachers.
    """
    teachers = [name for name in names if name in {*labels, ALL_TEACHERS}]
    pairs = [(exported[0], other) for other in names if other != exported[0]] if exported else []
    compared = (name for name in (TRAINED, FUSED, *exported[1:]) if name in names)
    return pairs + [(name, teacher) for name in compared for teacher in teachers]


def _write_report(
    run: Run,
    rows: Sequence[Row],
    segments: Sequence[dict[str, Any]],
    expected: ExpectedSampledMetrics,
    more: Mapping[str, Any],
) -> None:
    """``report.json``: the table with everything needed to check and reproduce its figures."""
    report = {
        **stamp(),
        "recipe": run.recipe.dump(),
        **({"set": run.recipe.changes} if run.recipe.changes else {}),
        "precision": run.models.precisions(),
        "sources": {p.name: {"mirror": p.mirror, "sha256": p.files} for p in run.pulled.values()},
        "stages": {name: {"seconds": done.seconds, **done.result} for name, done in run.stages.items()},
        "rows": [asdict(row) for row in rows],
        "segments": segments,
        "setting": asdict(run.setting),
        "expected_sampled": expected.dump(),
        **more,
        **{part: json.loads((run.folder / f"{part}.json").read_text(encoding="utf-8")) for part in REPORT_FILES},
    }
    write_atomic(run.folder / "report.json", json.dumps(report, ensure_ascii=False) + "\n")


def show(run: Run, rows: Sequence[Row], console: Console) -> None:
    """Print the table of ``evaluate``: every protocol."""
    if console.mode == "json":
        console.result([asdict(row) for row in rows])
        return
    for protocol in PROTOCOLS:
        lines, header = screen(rows, protocol)
        console.result(
            None, lines, header, title=f"{run.setting.title(protocol)}, {rows[0].users} {run.setting.questions()}"
        )
    lines, header = screen_lists(rows)
    if lines:
        console.result(None, lines, header, title=f"the first {LIST_LENGTH} of the whole catalogue")
