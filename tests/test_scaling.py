"""The arithmetic of docs/scaling.md: fields of reports times the factors that its lines state."""

import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS))
figures = __import__("scaling_figures")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of reports."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    return lambda name, report: (tmp_path / name).write_text(json.dumps(report))


def cells(what):
    return next(line for line in figures.LINES if what in line.what).cells()


def test_a_line_is_a_field_times_its_factor(results):
    results("score.json", {"one process": {"users_per_second": 100.0}})
    what, measured, factor, result, price = cells("Lists for all users")
    assert "`one process.users_per_second`: 100 users a second" in measured
    assert (factor, result, price) == ("100,000,000 users", "278 core hours", "13.9")
    results(
        "preparing-large.json",
        {"runs": [{"rows": 10**7}, {"rows": 10**8, "processor_seconds": 360, "peak_bytes": 2e9}]},
    )
    assert cells("Preparing")[3:] == ("5 core hours", "0.25")
    assert cells("its memory")[3:] == ("2 GB", "")
    results(
        "catalogue-size.json", {"rows": [{"items": 10**6, "form": "vocabulary", "bytes": 1.5e9, "ms": {"p50": 100}}]}
    )
    assert cells("Items")[3] == "15 GB"
    assert cells("every item scored")[3] == "55,600 core hours"  # 10^8 * 0.1 s * 2 cores * 10 / 3600


def test_what_is_not_measured_is_said_and_has_no_result(results):
    assert all(line.cells()[3:] == ("-", "-") for line in figures.LINES)
    assert "not measured yet" in cells("by an item index")[1]
    assert "](" not in cells("by an item index")[1]  # no link to a file that is not there


def test_every_file_is_one_that_a_command_writes():
    described = (DOCS.parent / "bench" / "results" / "README.md").read_text()
    files = {field.file for line in figures.LINES for field, _ in line.fields}
    assert {name for name in files if f"| `{name}` |" not in described} <= {
        "ann-index.json",
        "preparing-large.json",
        "score.json",
    }
