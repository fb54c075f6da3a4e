"""`RunFolder`: the folder of a run; a lock lets one process at a time work in it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import yaml

from delrec_lite.config import Recipe
from delrec_lite.errors import UsageError
from delrec_lite.files import locked, write_atomic
from delrec_lite.pipeline.stage import FinishedStage, is_done
from delrec_lite.processes import current

RECIPE = "recipe.yaml"
Folder = TypeVar("Folder", bound="RunFolder")
P = ParamSpec("P")
T = TypeVar("T")


def with_lock(method: Callable[Concatenate[Folder, P], T]) -> Callable[Concatenate[Folder, P], T]:
    """Lock the folder while the method runs."""

    @wraps(method)
    def locking(self: Folder, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.locked():
            return method(self, *args, **kwargs)

    return locking


class RunFolder:
    """The folder of one recipe.

    It is locked only while a stage is written or read: in one process two objects can use the folder one after the
    other; two processes cannot use it at once.

    Args:
        folder: Created if it is missing.
        recipe: Written to it as ``recipe.yaml``.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.recipe = recipe
        self.stages: dict[str, FinishedStage] = {}
        self._is_locked = False

    @contextmanager
    def locked(self, fresh: bool = False) -> Iterator[None]:
        """Lock the folder against other processes; a ``with`` inside another one has no effect.

        Stages that another object has overwritten for its recipe are dropped from ``stages``, and computed again when
        they are needed.

        Args:
            fresh: Delete earlier results.

        Raises:
            UsageError: Another process is working on the folder, or it holds something else.
        """
        if self._is_locked:
            yield
            return
        with ExitStack() as stack:
            names = current().from_first(lambda: self._enter(stack, fresh))
            self.stages = {name: self.stages[name] for name in names}
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def _enter(self, stack: ExitStack, fresh: bool) -> list[str]:
        """Lock the folder until ``stack`` ends; the names of the stages that are unchanged."""
        folder = self.folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder.parent / f".{folder.name}.lock", self._refuse))
        if folder.is_dir() and any(folder.iterdir()) and not (folder / RECIPE).is_file():
            raise UsageError(f"{folder} is not empty and not a run", "choose another --runs folder")
        if fresh and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / RECIPE, yaml.safe_dump(self.recipe.dump(), sort_keys=False))
        return [name for name, done in self.stages.items() if is_done(done.folder, done.key)]

    def _refuse(self) -> None:
        """Raise: two processes would overwrite each other's stages."""
        raise UsageError(f"another process is working on {self.folder}", "wait for it, or choose another --runs folder")
