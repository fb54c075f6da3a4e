"""Tables that are wider than the terminal or go to a file; progress lines."""

import io
import os
import re
import threading
import time

import pytest
from rich.console import Console as RichConsole

from delrec_lite import console as console_module
from delrec_lite.console import Console
from delrec_lite.environment import drop_unusable_sizes
from delrec_lite.errors import StorageError
from tests.command import run

HEADER = ("model", "HR@1 of 15, expected", "NDCG@10", "points against bf16")
ROWS = [
    ("DELRec (quantised GGUF) and teachers fused", "0.546 (0.524-0.568)", "0.767", "-0.3 (-0.6 to 0.0)"),
    ("SASRec [unk]", "0.534 (0.513-0.556)", "0.753", ""),
]


def printed(width, terminal):
    console, out = Console(), io.StringIO()
    console._out = RichConsole(file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=True)
    console.result(None, ROWS, HEADER)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_file_or_pipe_gets_each_row_on_one_line(width):
    lines = printed(width, terminal=False).splitlines()
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in lines)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_word_or_number_is_cut_on_a_narrow_screen(width):
    text = printed(width, terminal=True)
    assert "…" not in text
    for cell in (*HEADER, *(cell for row in ROWS for cell in row)):
        for word in cell.split():
            assert word in text
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_progress_without_a_terminal_is_lines_with_share_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(console_module, "LINE_INTERVAL", 0.02)
    with Console().progress("teacher", 4) as tick:
        tick(1, "loss 3.2")
        time.sleep(0.1)
    text = capsys.readouterr().err
    assert re.search(r"teacher: 1 of 4 \(25%\), \d+ s, about \d+ s left, loss 3\.2\n", text)
    with Console("quiet").progress("teacher", 4) as tick:
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_progress_lines_end_with_their_work(monkeypatch):
    monkeypatch.setattr(console_module, "LINE_INTERVAL", 0.02)
    with pytest.raises(KeyError), Console().progress("export", 6):
        raise KeyError("gone")
    assert not [thread for thread in threading.enumerate() if thread.name == "delrec-progress"]


NO_SIZES = ("0", "1", "-1", "19", "wide", "", "\u00b2", "1e3", "8" * 30, "10001")


@pytest.mark.parametrize("size", NO_SIZES)
def test_a_result_is_printed_whatever_the_terminal_says_of_its_size(size, monkeypatch, capsys):
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, size)
    monkeypatch.setenv("TERM", "dumb")
    console = Console()
    console.result(None, ROWS, HEADER)
    console.say("that was all")
    out, err = capsys.readouterr()
    for row in ROWS:
        assert any(all(cell in line for cell in row) for line in out.splitlines())
    assert err == "that was all\n"


def test_a_size_that_is_none_is_dropped_from_the_environment_and_others_stay(monkeypatch):
    for size in (*NO_SIZES, "80", "20"):
        monkeypatch.setenv("COLUMNS", size)
        monkeypatch.setenv("TERMINAL_WIDTH", size)
        monkeypatch.setenv("LINES", "25")
        drop_unusable_sizes()
        kept = size if size not in NO_SIZES else None
        assert (os.environ.get("COLUMNS"), os.environ.get("TERMINAL_WIDTH"), os.environ["LINES"]) == (kept, kept, "25")


def test_help_is_printed_whatever_the_terminal_says_of_its_size():
    done = run("--help", COLUMNS="0", LINES="0", TERMINAL_WIDTH="wide", TERM="dumb")
    assert done.returncode == 0, done.stderr
    assert "recommend" in done.stdout


@pytest.mark.parametrize("mode", ["human", "json"])
def test_a_result_without_a_standard_output_is_an_error(mode, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(StorageError, match="standard output is closed"):
        Console(mode).result({"a": 1})
    Console("quiet").result({"a": 1})


def test_a_title_that_the_encoding_of_the_output_lacks_is_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", out)
    Console("json").result({"title": "Misérables, Les"})
    assert out.buffer.getvalue() == b'{\n  "title": "Mis\\u00e9rables, Les"\n}\n'


def test_a_title_cannot_move_the_cursor_or_turn_the_writing(capsys):
    hostile = "\x1b[2J\x1b]0;x\x07 \x9b31m \u202e \r\b"
    console = Console()
    console.say(f"new item: {hostile}")
    console.heading(hostile)
    console.result(None, [(f"A {hostile}",)], ("title",))
    printed = capsys.readouterr()
    assert not set(printed.out + printed.err) & set("\x1b\x07\x9b\u202e\r\b")
    assert "new item: \N{REPLACEMENT CHARACTER}[2J" in printed.err
