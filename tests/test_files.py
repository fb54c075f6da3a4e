"""Locks, targets and the cache folder: what a killed process leaves, several processes at once, no home."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from delrec_lite import cache_folder as cache_folder_module
from delrec_lite import files
from delrec_lite.cache_folder import cache_folder, writable_cache
from delrec_lite.errors import StorageError
from delrec_lite.files import check_folder, put_in_place, read_entries, write_atomic, writing

ROOT = str(Path(__file__).parents[1])
GONE = 2**22 - 7  # above the largest process id of most systems


def made(folder):
    return {"text"} if (folder / "text").is_file() else None


def write(target, text):
    with writing(target, "page", made) as (folder, staging):
        staging.mkdir()
        (staging / "text").write_text(text)
        put_in_place(staging, folder, "page", made)


def put_nothing(target):
    with writing(target, "page", made) as (_, staging):
        staging.mkdir()
        raise OSError(28, "no space")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text):
    folder.mkdir()
    (folder / "text").write_text(text)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for text in ("first", "second"):
        write(tmp_path / "page", text)
        assert (tmp_path / "page" / "text").read_text() == text
        assert names(tmp_path) == ["page"]


def test_a_process_killed_while_it_replaced_a_folder_loses_nothing(tmp_path):
    """Where two folders cannot swap their names, there is a moment without the folder."""
    fill(tmp_path / f".page.{GONE}.old", "first")
    fill(tmp_path / f".page.{GONE}.part", "second")
    with writing(tmp_path / "page", "page", made) as (folder, _):
        assert (folder / "text").read_text() == "first"
        assert names(tmp_path) == [".page.lock", "page"]
    assert names(tmp_path) == ["page"]


def test_what_killed_processes_left_is_removed_and_what_looks_alike_stays(tmp_path):
    for name in (".page.12.part", ".page.12.part.trial", f".page.{GONE}.old"):
        fill(tmp_path / name, "half")
    alike = [".page.mine.part", "page.12.party", ".pages.12.part", ".page.12.part.bak"]
    for name in alike:
        fill(tmp_path / name, "mine")
    write(tmp_path / "page", "whole")
    assert names(tmp_path) == sorted([*alike, "page"])


def test_a_file_s_leftovers_are_removed_unless_their_process_runs(tmp_path):
    (tmp_path / f"a.json.{GONE}.part").write_text("half")
    running = tmp_path / f"a.json.{os.getppid()}.part"
    running.write_text("half")
    write_atomic(tmp_path / "a.json", "{}")
    assert names(tmp_path) == ["a.json", running.name]


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    write(tmp_path / "page", "first")
    with pytest.raises(OSError, match="no space"):
        put_nothing(tmp_path / "page")
    assert (names(tmp_path), (tmp_path / "page" / "text").read_text()) == (["page"], "first")


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError):
        check_folder(tmp_path / "loop", "page", made)


CHANGES = """
import os, sys
from pathlib import Path
from delrec_lite.files import add_entry, put_in_place, writing

def made(folder):
    return {"text"} if (folder / "text").is_file() else None

def append(target):
    "Read, change and write a folder, as `catalog add` does."
    with writing(target, "page", made) as (folder, staging):
        before = (folder / "text").read_text() if folder.exists() else ""
        staging.mkdir()
        (staging / "text").write_text(before + "x")
        put_in_place(staging, folder, "page", made)

def add(target):
    add_entry(target, {"n": os.getpid()}, lambda _: False)

for _ in range(10):
    globals()[sys.argv[1]](Path(sys.argv[2]))
"""


@pytest.mark.parametrize("change", ["append", "add"])
def test_no_change_of_several_processes_is_lost(tmp_path, change):
    target, environment = tmp_path / "target", {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-c", CHANGES, change, str(target)]
    processes = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert len((target / "text").read_text() if change == "append" else read_entries(target)) == 40
    assert names(tmp_path) == ["target"]


@pytest.fixture
def temporary(tmp_path, monkeypatch, caplog):
    """The temporary folder; messages are said again."""
    caplog.set_level(logging.WARNING, "delrec_lite")
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(cache_folder_module.tempfile, "tempdir", str(folder))
    cache_folder_module._say_once.cache_clear()
    cache_folder_module._private_folder.cache_clear()
    yield folder
    cache_folder_module._private_folder.cache_clear()


def no_home(monkeypatch):
    import pwd

    for name in ("HOME", "XDG_CACHE_HOME", "DELREC_CACHE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def nobody(user):
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_without_a_home_the_cache_is_in_the_temporary_folder_and_that_is_said_once(temporary, monkeypatch, caplog):
    no_home(monkeypatch)
    folder = temporary / f"delrec-lite-{os.getuid()}"
    assert [cache_folder(), cache_folder()] == [folder, folder]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [record.message for record in caplog.records] == [
        f"there is no home folder: the cache is {folder}; DELREC_CACHE names another folder"
    ]
    cache_folder_module.ensure_home()
    assert os.environ["HOME"] == str(folder)
    assert cache_folder() == folder
    assert len(caplog.records) == 1


def test_a_cache_that_cannot_be_written_is_read_and_another_one_written(temporary, tmp_path, monkeypatch):
    monkeypatch.delenv("DELREC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    folder = temporary / f"delrec-lite-{os.getuid()}"
    assert cache_folder() == folder
    readable = tmp_path / "readable"
    readable.mkdir()
    monkeypatch.setenv("DELREC_CACHE", str(readable))
    monkeypatch.setattr(cache_folder_module, "_can_write", lambda path: path != readable)
    assert cache_folder() == readable
    assert (writable_cache(readable), writable_cache(readable, needed=True)) == (folder, readable)
    assert writable_cache(tmp_path / "of a caller") == tmp_path / "of a caller"


def test_a_temporary_folder_that_another_user_prepared_is_not_used(temporary, monkeypatch):
    no_home(monkeypatch)
    (temporary / f"delrec-lite-{os.getuid()}").symlink_to("/etc")
    folder = cache_folder()
    assert folder.parent == temporary
    assert folder.name.startswith("delrec-lite-")
    assert not folder.is_symlink()


def test_without_any_folder_to_write_nothing_is_cached(tmp_path, monkeypatch, caplog):
    no_home(monkeypatch)
    cache_folder_module._say_once.cache_clear()
    caplog.set_level(logging.WARNING, "delrec_lite")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache_folder_module.tempfile, "tempdir", str(tmp_path / "file"))
    assert not cache_folder().exists()
    assert "nothing is cached" in caplog.text


NO_HOME = """
import pwd, sys
def nobody(user): raise KeyError(user)
pwd.getpwuid = nobody
sys.argv = ["delrec-lite", "doctor", *sys.argv[1:]]
from delrec_lite.cli.app import main
main()
"""


@pytest.mark.parametrize(("options", "lines"), [((), 1), (("-q",), 0)])
def test_a_command_without_a_home_works_and_says_where_the_cache_is(tmp_path, options, lines):
    environment = {key: value for key, value in os.environ.items() if key not in {"HOME", "DELREC_CACHE"}}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONPATH": ROOT}
    command = [sys.executable, "-c", NO_HOME, *options]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.count("there is no home folder") == lines
    assert not (tmp_path / "~").exists()
