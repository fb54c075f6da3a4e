"""`RunFolder`: a run's place on the disk, which one process at a time works in."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import yaml

from delrec_lite.config import Recipe
from delrec_lite.errors import UsageError
from delrec_lite.files import locked, write_whole
from delrec_lite.pipeline.stage import Done, is_done
from delrec_lite.processes import current

RECIPE = "recipe.yaml"
Folder = TypeVar("Folder", bound="RunFolder")
P = ParamSpec("P")
T = TypeVar("T")


def holds_folder(method: Callable[Concatenate[Folder, P], T]) -> Callable[Concatenate[Folder, P], T]:
    """Lock the folder while the method works in it."""

    @wraps(method)
    def locking(self: Folder, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.locked():
            return method(self, *args, **kwargs)

    return locking


class RunFolder:
    """The folder of one recipe.

    It is locked only while something is made in it or read from it: two objects of one folder work one after the other
    in one process, and two processes never at once.

    Args:
        folder: Made where it is missing.
        recipe: Stands in it as ``recipe.yaml``.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.stages: dict[str, Done] = {}
        self._is_locked = False

    @contextmanager
    def locked(self, fresh: bool = False) -> Iterator[None]:
        """Keep other processes out of the folder; a ``with`` inside another one changes nothing.

        Stages that another object has made anew for its own recipe since are forgotten, and made again when they are
        asked for.

        Args:
            fresh: Remove what was made before.

        Raises:
            UsageError: Another process is working on the folder, or something else lies in it.
        """
        if self._is_locked:
            yield
            return
        with ExitStack() as stack:
            kept = current().from_first(lambda: self._enter(stack, fresh))
            self.stages = {name: self.stages[name] for name in kept}
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def _enter(self, stack: ExitStack, fresh: bool) -> list[str]:
        """Lock the folder until ``stack`` ends; the names of stages that are still as they were."""
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder.parent / f".{folder.name}.lock", self._refuse))
        if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
            raise UsageError(f"{folder} is not empty and not a run", "choose another --runs folder")
        if fresh and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE, yaml.safe_dump(self.recipe.dump(), sort_keys=False))
        return [name for name, done in self.stages.items() if is_done(done.folder, done.key)]

    def _refuse(self) -> None:
        """Two at once would write into each other's stages."""
        raise UsageError(f"another process is working on {self.folder}", "wait for it, or choose another --runs folder")
