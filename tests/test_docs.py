"""Documentation that is made from code is what the code makes now, and every link leads somewhere."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from delrec_lite import errors

DOCS = Path(__file__).parents[1] / "docs"


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


reference, figures = script("reference"), script("figures")


@pytest.mark.parametrize("page", reference.PAGES)
def test_reference_pages_are_up_to_date(page):
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == reference.PAGES[page](), "run: make docs"


@pytest.mark.parametrize("page", list(figures.PAGES), ids=lambda page: page.name)
def test_tables_of_figures_are_those_of_the_reports(page):
    assert figures.fill(page) == page.read_text(encoding="utf-8"), "run: make docs"


def test_every_report_is_described_and_shown():
    held = {path.name for path in figures.RESULTS.glob("*.json")}
    described = set(re.findall(r"^\| `([\w.-]+\.json)`", (figures.RESULTS / "README.md").read_text(), re.MULTILINE))
    assert held <= described


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (DOCS / target).exists(), f"{page} links to {target}"


def test_exit_codes_are_the_documented_ones():
    rows = re.findall(r"^\| (\d+) \| `(\w+)`", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DelrecError)]
    assert {(int(code), name) for code, name in rows} == {(kind.exit_code, kind.__name__) for kind in kinds}


def test_the_notebook_runs(tiny_bundle, monkeypatch, capsys):
    monkeypatch.setenv("DELREC_BUNDLE", str(tiny_bundle))
    cells = json.loads((DOCS / "first-steps.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["step"].tokens_computed == 1
    assert "1 token computed" in capsys.readouterr().out
