"""`RunFolder`: the folder of a run, its lock, its recipe, and its stages, each made once."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.errors import UsageError
from delrec_lite.files import lock
from delrec_lite.pipeline.reference import STAGES, Reference
from delrec_lite.pipeline.stage import Done, begun, key_of, run_stage
from delrec_lite.pipeline.summary import TITLES, summarise
from delrec_lite.processes import current

RECIPE = "recipe.yaml"
SHARED_STAGES = ("distill", "finetune")  # stages whose steps several processes share

Make = Callable[[Path], dict[str, Any]]


class RunFolder:
    """One recipe in one folder, ``<runs>/<recipe name>``, for one process at a time.

    Args:
        recipe: What to make.
        runs: Folder of all runs.
        console: Shows each stage.
        fresh: Forget what an earlier call made.
        reference: Trained weights to take where they are what training would make.

    Raises:
        UsageError: The folder holds something else, or another process is working on it.
    """

    def __init__(self, recipe: Recipe, runs: Path, console: Console, fresh: bool, reference: Reference | None) -> None:
        self.recipe = recipe
        self.reference = reference
        self.folder = runs / recipe.name
        self.console = console
        self.stages: dict[str, Done] = {}
        current().from_first(lambda: self._open(fresh))

    def _open(self, fresh: bool) -> None:
        folder, name = self.folder, self.recipe.name
        if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
            raise UsageError(f"{folder} is not empty and not a run", "choose another --runs folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _only_one(folder.parent / f".{name}.lock")
        if fresh and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECIPE).write_text(yaml.safe_dump(self.recipe.dump(), sort_keys=False), encoding="utf-8")

    def _made_from(self) -> dict[str, Any]:
        """What decides on the trained stages, see ``reference.made_from``."""
        raise NotImplementedError

    def _stage(self, name: str, key: str, make: Make) -> Done:
        """A stage as made before for the same key, else made now and announced."""
        if name not in self.stages:
            make = self._announced(name, make)
            # What was trained here, or is being trained, is never replaced by what was shipped.
            if name in STAGES and not begun(self.folder / name, key) and self._is_shipped(name):
                key, make = key_of("shipped", key), partial(self.reference.copy, name)  # type: ignore[union-attr]
            self.stages[name] = run_stage(self.folder / name, key, make, together=name in SHARED_STAGES)
            self._tell(self.stages[name])
        return self.stages[name]

    def _is_shipped(self, name: str) -> bool:
        if self.reference is None:
            return False
        # A stage behind one that was trained here is trained here too.
        if any("shipped" not in self.stages[before].result for before in STAGES[: STAGES.index(name)]):
            return False
        return self.reference.fits(name, self._made_from())

    def _announced(self, name: str, make: Make) -> Make:
        def announced(folder: Path) -> dict[str, Any]:
            self.console.heading(f"{TITLES.get(name, name)} ...")
            return make(folder)

        return announced

    def _tell(self, done: Done) -> None:
        how = f"{done.seconds:.0f} s" if done.again else "as made before"
        if "shipped" in done.result:
            how = f"shipped with the package; training took {done.result['shipped']:.0f} s"
        self.console.say(f"  {TITLES.get(done.name, done.name)}: {summarise(done)} ({how})")


def _only_one(path: Path) -> Any:
    """Hold the run for this process; the lock is the kernel's, so a killed process leaves none behind.

    Raises:
        UsageError: Another process has it: two would write into each other's stages.
    """

    def busy() -> None:
        raise UsageError(
            f"another process is working on {path.parent / path.name[1:-5]}",
            "wait for it, or choose another --runs folder",
        )

    file = path.open("ab")
    lock(file, busy)
    return file
