"""`pull` of public data: MovieLens-1M from GroupLens; others say their page, terms and the command that follows."""

import re
import shlex

import pytest
import typer

from delrec_lite.cli.app import app
from delrec_lite.data.movielens_1m import read_columns, read_genres, read_movielens
from delrec_lite.data.prepare import prepare
from delrec_lite.data.typed_columns import parse_specs
from delrec_lite.errors import FetchError, UsageError
from delrec_lite.hub.by_hand import BY_HAND
from delrec_lite.hub.registry import find
from tests.command import run

MOVIES = """1::Toy Story (1995)::Animation|Children's|Comedy
2::Misérables, Les (1995)::Drama|Musical
3::Heat (1995)::Action
"""


@pytest.fixture
def ml_1m(tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "movies.dat").write_text(MOVIES, encoding="latin-1")
    rows = [f"{user}::{1 + (user + n) % 3}::5::{978300000 + n}" for user in range(1, 5) for n in range(3)]
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n")
    return folder


def test_movielens_1m_is_read_as_grouplens_wrote_it(ml_1m, tmp_path):
    log, titles = read_movielens(ml_1m)
    assert len(log) == 12
    assert titles == {"1": "Toy Story (1995)", "2": "Les Misérables (1995)", "3": "Heat (1995)"}
    assert read_genres(ml_1m, ["genres"])["1"] == "Animation, Children's, Comedy"
    columns = {column.name: column for column in read_columns(ml_1m, parse_specs(("genres", "year"))).columns}
    assert columns["year"].values[0] == 1995
    with pytest.raises(UsageError, match="ml-1m has no item column"):
        read_columns(ml_1m, parse_specs(("price",)))
    data = prepare("ml-1m", ml_1m, tmp_path / "out", k_core=1, m=2, repeats=True)
    assert len(data.user_ids) == 4
    assert find("ml-1m").licence == find("ml-100k").licence


@pytest.mark.parametrize("name", BY_HAND)
def test_what_no_mirror_may_serve_says_page_terms_and_the_command(name, tmp_path):
    done = run("pull", name, cwd=tmp_path, DELREC_CACHE=str(tmp_path / "cache"))
    assert done.returncode == FetchError.exit_code
    record = BY_HAND[name]
    assert all(words in done.stderr for words in (record.page, *record.files, "research use", "cite", record.prepare))
    words = shlex.split(record.prepare)[1:]
    typer.main.get_command(app).commands[words[0]].make_context("delrec-lite", words[1:])
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_own_data_converts_them(tmp_path, monkeypatch):
    """The lines of the page turn files in their owners' form into the ones that the command reads."""
    import gzip
    import json
    import subprocess
    import sys
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n# loose_json\.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "loose_json.py").write_text(script)
    for name, line in (("meta.json.gz", {"asin": "a1", "title": "It's", "price": 3.5}), ("g.json.gz", {"id": "7"})):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(f"{line!r}\n")
    for words, wanted in (
        (("meta.json.gz", "asin=item_id", "title"), {"item_id": "a1", "title": "It's"}),
        (("g.json.gz", "id=item_id", "title"), {"item_id": "7", "title": None}),
    ):
        done = subprocess.run([sys.executable, "loose_json.py", *words], cwd=tmp_path, capture_output=True, check=True)
        assert json.loads(done.stdout) == wanted
