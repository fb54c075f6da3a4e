"""Generated pages are up to date, every link has a target, and the examples run."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from delrec_lite import errors
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.retriever import Retriever
from delrec_lite.teacher_kinds.registry import TEACHERS

DOCS = Path(__file__).parents[1] / "docs"


sys.path.append(str(DOCS))  # one script imports another


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, figures = script("reference"), script("figures")


@pytest.mark.parametrize("page", reference.PAGES)
def test_reference_pages_are_up_to_date(page):
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == reference.PAGES[page](), "run: make docs"


@pytest.mark.parametrize("page", list(figures.PAGES), ids=lambda page: page.name)
def test_tables_of_figures_are_those_of_the_reports(page):
    assert figures.fill(page) == page.read_text(encoding="utf-8"), "run: make docs"


def test_every_report_is_described_and_shown():
    reports = {path.name for path in figures.RESULTS.glob("*.json")}
    described = set(re.findall(r"^\| `([\w.-]+\.json)`", (figures.RESULTS / "README.md").read_text(), re.MULTILINE))
    assert reports <= described


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_have_targets(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (DOCS / target).exists(), f"{page} links to {target}"


def test_exit_codes_are_the_documented_ones():
    rows = re.findall(r"^\| (\d+) \| `(\w+)`", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DelrecError)]
    assert {(int(code), name) for code, name in rows} == {(kind.exit_code, kind.__name__) for kind in kinds}


def test_a_teacher_is_added_as_the_page_says(tiny_run, tmp_path, monkeypatch):
    page = (DOCS / "teachers.md").read_text(encoding="utf-8").split("\n## Add a teacher\n")[1]
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "toml", "yaml")}
    module, call = blocks["python"]
    (tmp_path / "shop_teachers.py").write_text(module, encoding="utf-8")
    about = tmp_path / "shop_teachers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-teachers\nVersion: 1.0\n", encoding="utf-8")
    points = tomllib.loads(blocks["toml"][0])["project"]["entry-points"]["delrec_lite.teachers"]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[delrec_lite.teachers]", *lines]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    teacher = yaml.safe_load(blocks["yaml"][0])["teacher"]
    tiny = {"epochs": 1, "hidden": 8, "max_length": 8}
    teacher["settings"] = {kind: tiny | teacher["settings"].get(kind, {}) for kind in teacher["kind"]}
    run = tiny_run(teacher=teacher)
    rows = evaluate(run)
    assert {"SASRec", "Markov chain"} < {row.model for row in rows}
    assert Retriever(Bundle.open(run.bundle)).kinds == ("sasrec", "markov")
    names = {"KIND": importlib.import_module("shop_teachers").KIND}
    exec(call, names)
    assert TEACHERS["markov"] is names["KIND"]
