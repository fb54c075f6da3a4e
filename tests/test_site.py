"""The site of the docs has every page once, and its links lead somewhere."""

import importlib
import importlib.util
import os
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MKDOCS = ROOT / "build" / "site-tools" / "bin" / "mkdocs"


class Loader(yaml.SafeLoader):
    """Reads the names of Python functions in mkdocs.yml as nothing."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def hooks():
    """The module docs/site.py."""
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(part):
    if isinstance(part, str):
        return [part]
    inner = part.values() if isinstance(part, dict) else part
    return [page for piece in inner for page in pages(piece)]


def test_every_page_is_in_the_site_once():
    config = hooks().on_config({"docs_dir": str(DOCS), "nav": list(CONFIG["nav"])})
    shown = pages(config["nav"])
    excluded = {line.strip() for line in CONFIG["exclude_docs"].splitlines()}
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - excluded
    assert sorted(shown) == sorted(there)


def test_what_the_library_page_shows_exists():
    named = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 8
    for name in named:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize(
    ("folder", "link", "expected"),
    [
        ("", "accuracy.md#x", "accuracy.md#x"),
        ("", "library.md", "api.md"),
        ("", "../bench/results/README.md", "https://r/blob/main/bench/results/README.md"),
        ("", "first-steps.ipynb", "https://r/blob/main/docs/first-steps.ipynb"),
        ("deploy", "../serving.md", "../serving.md"),
        ("deploy", "../library.md#y", "../api.md"),
        ("deploy", "../../Containerfile", "https://r/blob/main/Containerfile"),
        ("deploy", "compose.yaml", "https://r/blob/main/docs/deploy/compose.yaml"),
        ("", "https://x.org/a.md", "https://x.org/a.md"),
    ],
)
def test_links_lead_to_pages_of_the_site_or_to_the_repository(folder, link, expected):
    known = {"accuracy.md", "serving.md", "deploy/README.md"}
    assert hooks().relinked(f"[a]({link})", PurePosixPath(folder), "https://r", known) == f"[a]({expected})"


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="mkdocs is not installed: make site")
def test_the_site_builds_strictly(tmp_path):
    command = [MKDOCS, "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "choosing" / "index.html").is_file()
