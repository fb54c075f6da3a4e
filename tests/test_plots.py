"""Pictures are reproducible, leave the settings of matplotlib alone, and are left out with a message without it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from delrec_lite.bench.page import as_html
from delrec_lite.bench.report import read_report
from delrec_lite.console import QUIET, Console
from delrec_lite.evaluation.setting import Setting
from delrec_lite.export.pareto import write_quants
from delrec_lite.plots import svg
from delrec_lite.training.curves import draw_curves
from tests.pictures import quant_row

ROOT = Path(__file__).parents[1]
INSTALL = 'pip install "delrec-lite[plots]"'


@pytest.fixture
def stage(tmp_path):
    lines = [{"step": n, "loss": 5.0 - n, "seconds": 1.0} for n in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def report():
    return read_report(ROOT / "bench" / "results" / "latency-titles-epyc-2-cores.json")


def test_a_picture_does_not_depend_on_the_settings_of_the_user(stage, monkeypatch):
    import matplotlib

    first = draw_curves(stage).read_bytes()
    for name, value in {"axes.facecolor": "red", "svg.hashsalt": "other", "axes.linewidth": 9.0}.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    before = dict(matplotlib.rcParams)
    assert draw_curves(stage).read_bytes() == first
    assert dict(matplotlib.rcParams) == before


def test_no_display_and_no_pyplot_is_needed(stage):
    code = (
        "import sys; from pathlib import Path; from delrec_lite.training.curves import draw_curves; "
        f"draw_curves(Path({str(stage)!r})); print('matplotlib.pyplot' in sys.modules)"
    )
    environment = {"PATH": "/nowhere", "MPLBACKEND": "tkagg", "MPLCONFIGDIR": str(stage / "mpl")}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "False", process.stderr


def test_two_pictures_of_one_page_share_no_marks(report):
    """A mark is defined once by its id; two of one id would show the first one's in both."""

    def draw(figure):
        figure.add_subplot().scatter([1, 2], [1, 2])

    def marks(picture):
        return {part.partition('"')[0] for part in picture.split('xlink:href="#')[1:]}

    first, second = svg("first", 100, 100, draw), svg("second", 100, 100, draw)
    assert marks(first)
    assert not marks(first) & marks(second)


@pytest.fixture
def without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_without_matplotlib_a_stage_ends_without_its_curves(stage, without_matplotlib, capsys):
    assert draw_curves(stage, console=QUIET) is None
    assert draw_curves(stage, console=Console()) is None
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "curves.svg is left out" in message
    assert INSTALL in message
    assert not (stage / "curves.svg").exists()


def test_without_matplotlib_a_bundle_has_the_table_alone(tmp_path, without_matplotlib, capsys):
    section = write_quants(tmp_path, [quant_row("bf16", 9.0, 0.0)], "bf16", Setting(15), Console())
    assert "**bf16**" in section
    assert "![" not in section
    assert INSTALL in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_page_has_the_table_and_names_what_is_missing(report, without_matplotlib):
    page = as_html(report)
    assert "<svg" not in page
    assert "<table>" in page
    assert page.count("The pictures are left out") == 1
    assert "delrec-lite[plots]" in page
