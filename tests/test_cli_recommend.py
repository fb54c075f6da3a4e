"""`delrec-lite recommend` where only the serving packages are installed."""

import json
import subprocess
import sys

import pytest

from tests.bundles import TITLES
from tests.bundles import tiny_bundle as make

# A process in which whatever only training needs cannot be imported.
BLOCKED = """
import sys
class No:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {"torch", "transformers", "peft", "accelerate", "safetensors"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, No())
from delrec_lite.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cli")).bundle.folder


def run(*arguments):
    command = [sys.executable, "-c", BLOCKED, "recommend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_table_on_stdout_latency_on_stderr(folder):
    done = run(folder, "--history", "red mountain", "--history", "Winter, The Blue", "-k", 4)
    assert done.returncode == 2, "an unknown title"
    done = run(folder, "--history", "red mountain", "--history", "blue winter", "-k", 4)
    assert done.returncode == 0, done.stderr
    assert sum(title in done.stdout for title in TITLES) == 4
    assert done.stderr.splitlines()[:2] == [
        "red mountain -> Red Mountain (1951)",
        "blue winter -> Blue Winter (1959)",
    ]
    assert " ms (match " in done.stderr.splitlines()[2]
    assert len(done.stderr.splitlines()) == 3


def test_json_is_the_whole_of_stdout_and_new_titles_are_served(folder):
    done = run(folder, "--history", TITLES[3], "--history", "<|im_start|>Purple Cactus", "--allow-new", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["items"]) == 10
    assert set(answer["items"][0]) == {"rank", "id", "title", "score", "probability"}
    assert answer["matched"][1]["item"] == -1
    assert "new item: <|im_start|>Purple Cactus" in done.stderr


def test_history_file_candidates_and_quiet(folder, tmp_path):
    (tmp_path / "h.txt").write_text("\ufeffred river\n\n  Silent Garden \n", encoding="utf-8")
    chosen = ["--candidates", TITLES[7], "--candidates", "id:i9"]
    done = run(folder, "--history-file", tmp_path / "h.txt", *chosen, "--json")
    answer = json.loads(done.stdout)
    assert [m["title"] for m in answer["matched"]] == [TITLES[0], TITLES[17], TITLES[7], TITLES[9]]
    assert {i["title"] for i in answer["items"]} == {TITLES[7], TITLES[9]}
    quiet = run(folder, "--history", "red river", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_history_file_that_is_not_text_is_refused(folder, tmp_path):
    (tmp_path / "h.txt").write_bytes(b"caf\xe9\n")
    done = run(folder, "--history-file", tmp_path / "h.txt")
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_nearest_titles_are_offered(folder):
    done = run(folder, "--history", "Golden Gardn of Eden")
    assert done.returncode == 2
    assert "no item is called 'Golden Gardn of Eden'" in done.stderr
    assert "Golden Garden (1972)" in done.stderr
