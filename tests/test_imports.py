"""What tests share is in helper modules: no module of tests/ imports a test module."""

import ast
from pathlib import Path

import pytest

MODULES = sorted(Path(__file__).parent.glob("*.py"))


def imported_names(source: str) -> set[str]:
    """The last part of every module or name that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            paths = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            names |= {path.rpartition(".")[2] for path in paths}
    return names


@pytest.mark.parametrize(
    "line",
    ["import tests.test_a", "from tests.test_a import x", "from tests import test_a", "def f(): from .test_a import x"],
)
def test_every_way_to_import_a_module_is_noticed(line):
    assert "test_a" in imported_names(line)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_test_module_is_imported(path):
    test_modules = {module.stem for module in MODULES if module.stem.startswith("test_")}
    assert imported_names(path.read_text(encoding="utf-8")) & test_modules == set()
