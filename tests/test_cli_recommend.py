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


def test_what_the_catalogue_lacks_is_left_out_and_named_with_the_nearest_titles(folder):
    lacking = ["--history", "Golden Gardn of Eden", "--history", "id:gone", "--exclude", "id:sold"]
    done = run(folder, "--history", TITLES[3], *lacking, "-k", 4, "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert [(s["given"], s["where"]) for s in answer["skipped"]] == [
        ("Golden Gardn of Eden", "history"),
        ("id:gone", "history"),
        ("id:sold", "exclude"),
    ]
    assert "left out of history: 2, 'Golden Gardn of Eden', 'id:gone'" in done.stderr
    assert "nearest to 'Golden Gardn of Eden': 'Golden Garden (1972)'" in done.stderr
    assert json.loads(run(folder, "--history", TITLES[3], "-k", 4, "--json").stdout)["items"] == answer["items"]
    refused = run(folder, "--history", "Golden Gardn of Eden", "--on-unknown", "refuse")
    assert refused.returncode == 2
    assert "no item is called 'Golden Gardn of Eden'" in refused.stderr
    assert "Golden Garden (1972)" in refused.stderr


def test_without_a_history_the_most_popular_are_shown_and_marked(folder):
    done = run(folder, "-k", 3, "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert (answer["basis"], [item["title"] for item in answer["items"]]) == ("popularity", TITLES[:3])
    assert "the most popular items" in done.stderr


def test_the_history_is_included_where_asked_and_the_excluded_never(folder):
    options = ["--history", TITLES[0], "--candidates", TITLES[0], "--candidates", TITLES[1], "--json"]

    def ranked(*more):
        return {item["title"] for item in json.loads(run(folder, *options, *more).stdout)["items"]}

    assert ranked() == ranked("--include-history") == set(TITLES[:2])
    assert ranked("--exclude-history") == {TITLES[1]}
    assert ranked("--exclude", TITLES[1], "--include-history") == {TITLES[0]}
