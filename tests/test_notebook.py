"""The notebook of first steps runs to its end, with the real model and data, and shows what the committed one shows."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first-steps.ipynb"
COMMITTED = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
SECONDS = 1800  # of a cell, on a busy machine


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell):
    """The results and pictures of a cell by their types; not what it prints while it works."""
    return [sorted(output["data"]) for output in cell["outputs"] if output["output_type"] == "execute_result"] + [
        "picture" for output in cell["outputs"] if "image/png" in output.get("data", {})
    ]


def test_outputs_and_pictures_are_committed_and_nothing_of_the_machine():
    cells = code_cells(COMMITTED)
    assert all(cell["execution_count"] for cell in cells)
    assert sum("picture" in kinds(cell) for cell in cells) == 2
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "colab-badge.svg" in text
    assert not [words for words in ("/home/", "/root/", str(NOTEBOOK.parents[2]), "Traceback") if words in text]


@pytest.mark.real
def test_no_cell_fails(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    before = [kinds(cell) for cell in code_cells(COMMITTED)]
    client.execute()  # raises where a cell fails
    assert [kinds(cell) for cell in code_cells(notebook)] == before
    assert (tmp_path / "films.delrec" / "manifest.json").is_file()
    trained = json.loads((tmp_path / "runs" / "ml-100k-cpu" / "finetune" / "done.json").read_text(encoding="utf-8"))
    assert "shipped" in trained["result"], "the frames give the data set of the package's weights"
