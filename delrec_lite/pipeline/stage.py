"""A stage of a run: a folder that is made once for a key, and made again only when the key changes."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE = "done.json"
KEY = "key.json"


@dataclass(frozen=True)
class Done:
    """A finished stage.

    Attributes:
        name: Of the stage.
        folder: Where its files are.
        key: What it was made from.
        result: Its figures, as JSON.
        seconds: How long it took when it was made.
        again: False if it was found finished.
    """

    name: str
    folder: Path
    key: str
    result: dict[str, Any]
    seconds: float
    again: bool


def key_of(*parts: Any) -> str:
    """sha256 over JSON values: settings, and the keys of the stages that a stage reads."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_stage(folder: Path, key: str, make: Callable[[Path], dict[str, Any]]) -> Done:
    """The stage in ``folder``: as found if it is finished for ``key``, else made.

    A stage that was cut short for the same key keeps its files, so that training goes on from its checkpoint.

    Args:
        folder: The stage's own folder; its name is the stage's.
        key: From ``key_of``.
        make: Fills the folder and returns the stage's figures.
    """
    done = folder / DONE
    if done.is_file():
        held = json.loads(done.read_text(encoding="utf-8"))
        if held["key"] == key:
            return Done(folder.name, folder, key, held["result"], held["seconds"], again=False)
    spent = 0.0
    begun = folder / KEY
    held = json.loads(begun.read_text(encoding="utf-8")) if begun.is_file() else {}
    if held.get("key") != key or done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(begun, {"key": key})
    start = time.monotonic()
    result = make(folder)
    spent += time.monotonic() - start
    _write(done, {"key": key, "seconds": round(spent, 1), "result": result})
    return Done(folder.name, folder, key, result, round(spent, 1), again=True)


def _write(path: Path, data: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
