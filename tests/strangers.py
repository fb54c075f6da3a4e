"""Folders of a stranger: files that the program did not make, some named as its own are, and what became of them."""

import json

# Names that the program's own folders have, with what a stranger may have written there.
LOOKALIKES = {
    "manifest.json": json.dumps({"manifest_version": 3, "name": "an extension", "files": ["a.js"]}),
    "dataset.json": json.dumps({"title": "census", "year": 1950}),
    "recipe.yaml": "name: soup\nsteps: [boil, salt]\n",
    "done.json": json.dumps({"todo": []}),
    "catalog.json": "[]",
    "table.md": "| my | table |\n",
    "report.html": "<!doctype html>\n<p>of the board</p>\n",
    "report.json": json.dumps({"commit": "today", "text": "of the board"}),
    "ablation.json": json.dumps({"patients": 3}),
    "tune.json": json.dumps({"model": "T", "trials": 2}),
    "sweep.json": json.dumps({"stage": "left"}),
    "best.yaml": "name: soup\n",
    "pulled.json": json.dumps({"files": "pork"}),
    "reference.json": json.dumps({"files": 3}),
    "model.safetensors": "not one",
    "checkpoint.safetensors": "not one",
    "notes.md": "# Notes\n",
    "ünïcode ☃.txt": "snow",
    ".hidden.part": "half",
}


def snapshot(folder):
    """All below a folder: by path the content of files and the target of links; folders are None."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def write_strangers(folder, names=(), nested=()):
    """Write a thesis, and lookalikes of these names; ``nested`` ones in a folder ``inner``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("ten years of work")
    for name in names:
        (folder / name).write_text(LOOKALIKES[name], encoding="utf-8")
    for name in nested:
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / name).write_text(LOOKALIKES[name], encoding="utf-8")
    return folder
