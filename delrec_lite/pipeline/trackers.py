"""``--log``: training curves, validation figures and hyper-parameters in experiment trackers, through accelerate's."""

import atexit
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.errors import DelrecError, MissingPackageError, UsageError, did_you_mean, install_line
from delrec_lite.processes import current

# Names for `--log`, and the packages that pip installs for them.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
# Their steps must rise through all stages, so each stage's own step is a figure.
_COUNTS_BY_ITSELF = frozenset({"wandb", "trackio"})
TENSORBOARD = "tensorboard"


def parse_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers of ``--log``, each installed.

    Raises:
        UsageError: An unknown name.
        MissingPackageError: A package is not installed; the hint is the command that installs it.
    """
    for name in names:
        if name not in PACKAGES:
            raise UsageError(f"--log: no tracker {name!r}", did_you_mean(name, PACKAGES))
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(
                f"--log {name} needs {name}, which is not installed", f"pip install {PACKAGES[name]}"
            )
    return tuple(dict.fromkeys(names))


@contextmanager
def tracked(recipe: Recipe, runs: Path, names: Sequence[str], console: Console, project: str = "") -> Iterator[None]:
    """Within this context, everything that is trained with ``console`` is logged.

    A tracker starts with the first figure, so a finished run logs nothing. One that fails is named once and left out.

    Args:
        recipe: Its name is the run's, its keys are the hyper-parameters.
        runs: Folder of the run; TensorBoard's logs are in ``<runs>/tensorboard/<recipe name>``.
        names: Of ``parse_trackers``.
        console: Trains, and says what failed.
        project: Groups runs; default: the recipe's name.

    Raises:
        MissingPackageError: accelerate is not installed.
        DelrecError: A tracker cannot start.
    """
    if not names or not current().first:
        yield
        return
    trackers = [_Tracker(name, recipe, runs, project or recipe.name, console) for name in names]

    def follow(stage: str, step: int, figures: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(stage, step, figures)

    with console.followed(follow):
        try:
            yield
        finally:
            for tracker in trackers:
                tracker.finish()


def hyper_parameters(recipe: Recipe) -> dict[str, bool | int | float | str]:
    """Every key of a recipe by its dotted name; values that are no numbers, as text."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value if isinstance(value, bool | int | float | str) else str(value)

    add("", recipe.dump())
    return flat


class _Tracker:
    """One of accelerate's trackers; it starts with the first figure and stops at its first error."""

    def __init__(self, name: str, recipe: Recipe, runs: Path, project: str, console: Console) -> None:
        try:
            from accelerate import PartialState
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS
        except ImportError as error:
            raise MissingPackageError(
                "--log needs accelerate, which is not installed", install_line("accelerate")
            ) from error
        self._name, self._recipe, self._console = name, recipe, console
        settings: dict[str, dict[str, Any]] = {
            TENSORBOARD: {"run_name": recipe.name, "logging_dir": str(runs / TENSORBOARD)},
            "wandb": {"run_name": project, "name": recipe.name, "dir": str(runs)},
            "mlflow": {"experiment_name": project, "run_name": recipe.name},
            "trackio": {"run_name": project, "name": recipe.name},
        }
        PartialState()  # accelerate's logger refuses to work before there is one
        self._tracker: Any = LOGGER_TYPE_TO_CLASS[name](**settings[name])
        self._state = "new"

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of a stage; starts the tracker if it is new."""
        if self._state == "new":
            self._start()
        if self._state != "open":
            return
        values = {f"{stage}/{name}": value for name, value in figures.items() if name not in {"step", "epoch"}}
        if self._name == "mlflow":
            values = {name.replace("@", "_at_"): value for name, value in values.items()}  # it refuses an @
        try:
            with redirect_stdout(sys.stderr):
                if self._name in _COUNTS_BY_ITSELF:
                    self._tracker.log({**values, f"{stage}/step": step})
                else:
                    self._tracker.log(values, step=step)
        except Exception as error:  # a tracker's server may fail in any way, and training goes on
            self._state = "failed"
            self._console.say(f"  {self._name} failed and is left out: {_line(error)}")

    def _start(self) -> None:
        try:
            with redirect_stdout(sys.stderr):  # stdout has the command's result
                self._tracker.start()
                self._tracker.store_init_configuration(hyper_parameters(self._recipe))
        except Exception as error:
            raise DelrecError(
                f"--log {self._name} cannot start: {_line(error)}", f"leave out --log {self._name}"
            ) from error
        self._state = "open"
        atexit.register(_end_of_output)

    def finish(self) -> None:
        """Close the tracker if it is open."""
        if self._state == "open":
            self._state = "closed"
            try:
                with redirect_stdout(sys.stderr):
                    self._tracker.finish()
            except Exception as error:
                self._console.say(f"  {self._name} did not finish: {_line(error)}")


def _end_of_output() -> None:
    """What a tracker prints when the program ends is no result; this is called before the tracker's own functions."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.stdout = sys.stderr


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
