"""Runs the notebooks and keeps their outputs and pictures: `python docs/notebook.py`, or `make notebook`.

Each runs in a folder of its own, with the model and the data of the cache. Warnings of the kernel are left out.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOKS = Path(__file__).parent / "notebooks"
# Seconds of a cell, on a busy machine.
TIMEOUT = 3600


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells in ``folder``; raises where one fails."""
    client = nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()


def clean(notebook: Any) -> None:
    """Leave out what differs from run to run or belongs to the machine: times of cells, versions, warnings."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output)]


def _is_noise(output: Any) -> bool:
    """A warning, or a line of progress, which rich shows as a picture of text."""
    text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
    return (output.output_type == "stream" and output.name == "stderr" and "Warning" in text) or " s left" in text


def main() -> None:
    """Run and write all notebooks."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook, start = nbformat.read(path, 4), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        clean(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
