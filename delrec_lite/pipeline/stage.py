"""A stage of a run: a folder that is computed once for a key, and again only when the key changes."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.store import dataset_files
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.files import remove_files, write_atomic
from delrec_lite.hub.cache import Pulled
from delrec_lite.processes import current

DONE = "done.json"
KEY = "key.json"
# What stages write beside safetensors; in a stage's folder everything else is the user's.
_WRITTEN = {
    "agreement.json",
    "finetune.json",
    "ranks.json",
    "lists.npy",
    "teacher.json",
    "metrics.jsonl",
    "curves.svg",
    "adapter_config.json",
}
TRAINED_STAGES = ("distill", "finetune")  # the LLM's
# Stages in which every process works: on its share of each step, or on its teachers.
SHARED_STAGES = ("teacher", *TRAINED_STAGES)


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage.

    Attributes:
        name: Of the stage.
        folder: Of its files.
        key: Hash of its inputs.
        result: Its figures, as JSON.
        seconds: Duration of the call that finished it, without earlier interrupted calls.
        computed: Whether this call computed it; False if it was already finished.
    """

    name: str
    folder: Path
    key: str
    result: dict[str, Any]
    seconds: float
    computed: bool


class Stages(Protocol):
    """The stages of a recipe and their inputs, see `Run`."""

    recipe: Recipe
    console: Console
    stages: dict[str, FinishedStage]

    @property
    def encoder(self) -> Pulled:
        """See ``Run.encoder``."""

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

    def prepare(self) -> FinishedStage:
        """See ``Run.prepare``."""

    def text(self) -> FinishedStage:
        """See ``Run.text``."""

    def teacher(self) -> FinishedStage:
        """See ``Run.teacher``."""

    def distill(self) -> FinishedStage:
        """See ``Run.distill``."""

    def finetune(self) -> FinishedStage:
        """See ``Run.finetune``."""


def key_of(*parts: Any) -> str:
    """sha256 over JSON values: settings, and the keys of the stages that a stage reads."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def was_started(folder: Path, key: str) -> bool:
    """Whether the stage in ``folder`` was started or finished for ``key``."""
    path = folder / KEY
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key


def is_done(folder: Path, key: str) -> bool:
    """Whether the stage in ``folder`` was finished for ``key``."""
    path = folder / DONE
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key


def copy_finished(folder: Path, key: str, runs: Iterable[Path]) -> None:
    """Copy the stage of ``folder`` from the first other run that has finished it for ``key``, if there is one.

    Args:
        folder: The stage's own folder.
        key: From ``key_of``.
        runs: Folders of runs; the own one may be among them.
    """
    if is_done(folder, key):
        return
    for run in runs:
        source = run / folder.name
        if run == folder.parent or not is_done(source, key):
            continue
        clear_stage(folder)
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DONE))
        # Last, so that a copy that is interrupted is made again; and only if the source is still that stage.
        if is_done(source, key):
            write_atomic(folder / DONE, (source / DONE).read_text(encoding="utf-8"))
        return


def run_stage(folder: Path, key: str, make: Callable[[Path], dict[str, Any]], shared: bool = False) -> FinishedStage:
    """The stage in ``folder``: read if it is finished for ``key``, else computed.

    A stage that was interrupted for the same key keeps its files, so that training continues from its checkpoint.

    Args:
        folder: The stage's own folder; its name is the stage's.
        key: From ``key_of``.
        make: Fills the folder and returns the stage's figures.
        shared: If several processes work on the run, all of them call ``make``; else only the first does, and the
            others wait.
    """
    processes = current()
    done = processes.from_first(lambda: _open_stage(folder, key))
    if done is not None:
        return done
    start = time.monotonic()
    result = make(folder) if shared else processes.from_first(lambda: make(folder))
    return processes.from_first(lambda: _close_stage(folder, key, result, round(time.monotonic() - start, 1)))


def _open_stage(folder: Path, key: str) -> FinishedStage | None:
    """The finished stage, or None after preparing the folder for it."""
    finished_path = folder / DONE
    if finished_path.is_file():
        finished = json.loads(finished_path.read_text(encoding="utf-8"))
        if finished["key"] == key:
            return FinishedStage(folder.name, folder, key, finished["result"], finished["seconds"], computed=False)
    if finished_path.is_file() or not was_started(folder, key):
        clear_stage(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / KEY, json.dumps({"key": key}) + "\n")
    return None


def clear_stage(folder: Path) -> None:
    """Remove what a stage wrote into its folder; files of others stay, and all of a folder that is no stage's."""
    if not (folder / KEY).is_file() and not (folder / DONE).is_file():
        return
    _remove_partial(folder)
    for path in list(folder.rglob("*")):
        is_adapter = path.parent.name == "adapter" and path.name == "README.md"
        is_tensors = path.suffix == ".safetensors" or path.stem in {"checkpoint", "best"}
        if is_tensors or is_adapter or path.name in _WRITTEN:
            path.unlink(missing_ok=True)
    if (files := dataset_files(folder / "dataset")) is not None:
        remove_files(folder / "dataset", files)
    for name in (DONE, KEY):  # last, so that a removal that is interrupted goes on at the next call
        (folder / name).unlink(missing_ok=True)
    for path in sorted((folder, *(path for path in folder.rglob("*") if path.is_dir())), reverse=True):
        with suppress(OSError):  # not empty
            path.rmdir()


def _remove_partial(folder: Path) -> None:
    """Remove what killed processes have not finished: checkpoints, teachers, and the temporary files of safetensors."""
    for path in list(folder.rglob("*")):
        if path.name.startswith(".part-"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".part" or re.fullmatch(r"\.tmp\w{6}", path.name):
            path.unlink(missing_ok=True)


def _close_stage(folder: Path, key: str, result: dict[str, Any], seconds: float) -> FinishedStage:
    _remove_partial(folder)
    text = json.dumps({"key": key, "seconds": seconds, "result": result}, indent=2)
    write_atomic(folder / DONE, text + "\n")
    return FinishedStage(folder.name, folder, key, result, seconds, computed=True)
