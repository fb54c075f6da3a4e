"""A stage of a run: a folder that is made once for a key, and made again only when the key changes."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.files import write_whole
from delrec_lite.hub.cache import Pulled
from delrec_lite.processes import current

DONE = "done.json"
KEY = "key.json"
SHARED_STAGES = ("distill", "finetune")  # stages whose steps several processes share


@dataclass(frozen=True)
class Done:
    """A finished stage.

    Attributes:
        name: Of the stage.
        folder: Where its files are.
        key: What it was made from.
        result: Its figures, as JSON.
        seconds: How long the call that finished it took; one cut short before is not counted.
        again: False if it was found finished.
    """

    name: str
    folder: Path
    key: str
    result: dict[str, Any]
    seconds: float
    again: bool


class Stages(Protocol):
    """The stages of a recipe and what they are made from, as `Run` has them."""

    recipe: Recipe
    console: Console
    stages: dict[str, Done]

    def locked(self) -> AbstractContextManager[None]:
        """See ``RunFolder.locked``."""

    @property
    def pulled(self) -> dict[str, Pulled]:
        """See ``Run.pulled``."""

    @property
    def dataset(self) -> Dataset:
        """See ``Run.dataset``."""

    @property
    def candidates(self) -> dict[str, CandidateSets]:
        """See ``Run.candidates``."""

    def teacher(self) -> Done:
        """See ``Run.teacher``."""

    def distill(self) -> Done:
        """See ``Run.distill``."""

    def finetune(self) -> Done:
        """See ``Run.finetune``."""


def key_of(*parts: Any) -> str:
    """sha256 over JSON values: settings, and the keys of the stages that a stage reads."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def begun(folder: Path, key: str) -> bool:
    """Whether the stage in ``folder`` was begun, or finished, for ``key``."""
    path = folder / KEY
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key


def is_done(folder: Path, key: str) -> bool:
    """Whether the stage in ``folder`` was finished for ``key``."""
    path = folder / DONE
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key


def run_stage(folder: Path, key: str, make: Callable[[Path], dict[str, Any]], together: bool = False) -> Done:
    """The stage in ``folder``: as found if it is finished for ``key``, else made.

    A stage that was cut short for the same key keeps its files, so that training goes on from its checkpoint.

    Args:
        folder: The stage's own folder; its name is the stage's.
        key: From ``key_of``.
        make: Fills the folder and returns the stage's figures.
        together: Where several processes work on the run, all of them make it; else the first does, and the others
            wait.
    """
    everyone = current()
    done = everyone.from_first(lambda: _opened(folder, key))
    if done is not None:
        return done
    start = time.monotonic()
    result = make(folder) if together else everyone.from_first(lambda: make(folder))
    return everyone.from_first(lambda: _closed(folder, key, result, round(time.monotonic() - start, 1)))


def _opened(folder: Path, key: str) -> Done | None:
    """The finished stage, or nothing and a folder to make it in."""
    done = folder / DONE
    if done.is_file():
        held = json.loads(done.read_text(encoding="utf-8"))
        if held["key"] == key:
            return Done(folder.name, folder, key, held["result"], held["seconds"], again=False)
    if done.is_file() or not begun(folder, key):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_whole(folder / KEY, json.dumps({"key": key}) + "\n")
    return None


def _closed(folder: Path, key: str, result: dict[str, Any], seconds: float) -> Done:
    text = json.dumps({"key": key, "seconds": seconds, "result": result}, indent=2)
    write_whole(folder / DONE, text + "\n")
    return Done(folder.name, folder, key, result, seconds, again=True)
