"""What the program prints where a table is wider than the place it goes to."""

import io

import pytest
from rich.console import Console as RichConsole

from delrec_lite.console import Console

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
