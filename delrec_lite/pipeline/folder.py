"""`RunFolder`: the folder of a run; a lock lets one process at a time work in it."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import yaml

from delrec_lite.config import Recipe
from delrec_lite.errors import UsageError
from delrec_lite.files import check_file, remove_files, write_atomic
from delrec_lite.locks import locked
from delrec_lite.pipeline.generations import clear_updates
from delrec_lite.pipeline.stage import KEY, FinishedStage, clear_stage, is_done
from delrec_lite.processes import current
from delrec_lite.runtime.manifest import bundle_files

RECIPE = "recipe.yaml"
# First line of that file, which tells it from a recipe of the user.
_MARK = "# The resolved recipe of this run, written by delrec-lite at every call.\n"
# Tables, and reports with their ranks, which commands write into a run.
_REPORTS = (
    "table.json",
    "table.md",
    "ranks.json",
    "comparisons.json",
    "report.json",
    "report.html",
    "quantisations.json",
)
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


def check_study(report: Path, kind: str, keys: Sequence[str], table: Path, member: str) -> None:
    """Check that a folder is absent, empty or what several runs and a report of them make it.

    Args:
        report: Its JSON file.
        kind: What it is, for errors: ``sweep``.
        keys: Of the report.
        table: Its Markdown file.
        member: A file that it has before there is a report, as a pattern in the folder.

    Raises:
        StorageError: It holds something else.
        UsageError: The same.
    """
    check_file(report, kind, keys)
    if not report.exists():
        check_file(table, f"table of {'an' if kind[0] in 'aeiou' else 'a'} {kind}")
        if not any(path.is_file() for path in report.parent.glob(member)):
            check_run(report.parent)


def check_run(folder: Path) -> None:
    """Check that a folder is absent, empty or a run.

    Raises:
        UsageError: It holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose another --runs folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_run(folder):
        raise UsageError(f"{folder} is not empty and not a run", "choose another --runs folder")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    recipe = folder / RECIPE
    if not recipe.is_file() or recipe.is_symlink():
        return False
    # Versions that wrote no mark wrote stages.
    return recipe.read_bytes().startswith(_MARK.encode()) or any(folder.glob(f"*/{KEY}"))


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write a run's recipe, which makes a folder a run."""
    changed = "".join(
        f"# Set on the command line: {key}={json.dumps(value)}\n" for key, value in recipe.changes.items()
    )
    write_atomic(folder / RECIPE, _MARK + changed + yaml.safe_dump(recipe.dump(), sort_keys=False))


def clear_run(folder: Path) -> None:
    """Remove what the commands wrote into a run; files of others stay."""
    clear_updates(folder)
    for path in (*folder.glob("*/"), *folder.glob("evaluate/*/"), *folder.glob("*/*.delrec/")):
        if path.is_symlink():
            continue
        clear_stage(path)
        remove_files(path, bundle_files(path) or ())
    remove_files(folder, _REPORTS)


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
        check_run(folder)
        if fresh:
            clear_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_recipe(folder, self.recipe)
        return [name for name, done in self.stages.items() if is_done(done.folder, done.key)]

    def _refuse(self) -> None:
        """Raise: two processes would overwrite each other's stages."""
        raise UsageError(f"another process is working on {self.folder}", "wait for it, or choose another --runs folder")
