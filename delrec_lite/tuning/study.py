"""The search: Optuna proposes settings, each trial is a run, and its validation curve may end it early."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import Console
from delrec_lite.environment import number
from delrec_lite.errors import (
    ConfigError,
    DataError,
    DelrecError,
    MissingPackageError,
    OutOfMemoryError,
    StorageError,
    UsageError,
    did_you_mean,
    install_line,
)
from delrec_lite.evaluation.choosing import whole_catalogue
from delrec_lite.locks import locked
from delrec_lite.pipeline.prepared import with_dataset_settings
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import key_of
from delrec_lite.pipeline.sweep import Follow
from delrec_lite.pipeline.validation import deciding, validated
from delrec_lite.tuning.budget import Budget
from delrec_lite.tuning.report import check_folder, claim, write_report
from delrec_lite.tuning.results import TrialResult, TuningReport
from delrec_lite.tuning.space import MODELS, Dimension, default_space, read_space

STORAGE = "study.sqlite"
STAGES = {"student": "finetune", "teacher": "teacher"}
# Validations of stage 2 in a trial whose recipe has none: they choose the weights and end hopeless trials.
VALIDATIONS = 8
# Trials without pruning at first, and validations of a trial before it can be pruned.
WARM_TRIALS, WARM_VALIDATIONS = 5, 1
# Failed trials, without any other, that end a search.
MOST_FAILED = 3


class _Pruned(Exception):
    """The validation curve of a trial is below the median of the others."""


@dataclass(frozen=True)
class Tuning:
    """What to search.

    Attributes:
        recipe: Name or path of the recipe that is improved.
        changes: Of ``--set``, by key.
        model: ``student``, or ``teacher`` for the recipe's teachers.
        space: YAML file of ``read_space``; None: ``default_space``.
        budget: When to stop.
    """

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "student"
    space: Path | None = None
    budget: Budget = field(default_factory=lambda: Budget(20))


def tune(tuning: Tuning, runs: Path, console: Console, follow: Follow = lambda _: nullcontext()) -> TuningReport:
    """Search until the budget is spent; a later call goes on where an earlier one ended or was interrupted.

    Trials are compared by NDCG@10 on validation users, the same figure for the student and its teachers; test users
    are never ranked. Everything is below ``<runs>/<recipe name>-tune-<model>``: ``study.sqlite`` (Optuna's), a run a
    trial, ``tune.json``, ``tune.md``, ``tune.svg``, and ``best.yaml``, a recipe that ``train`` takes.

    Args:
        tuning: What to search.
        runs: Folder of all runs.
        console: Shows progress.
        follow: A context in which each trial is trained, such as a tracker's.

    Raises:
        UsageError: An unknown model, several processes, or the folder has another search.
        ConfigError: A wrong recipe or space.
        MissingPackageError: Optuna is not installed.
    """
    if tuning.model not in MODELS:
        raise UsageError(f"--model has no value {tuning.model!r}", did_you_mean(tuning.model, MODELS))
    if number("WORLD_SIZE", 1) > 1:
        raise UsageError("tune runs in one process", "start it without accelerate launch or torchrun")
    optuna = _optuna()
    recipe, fixed = _recipe(tuning)

    def changed(values: Mapping[str, Any]) -> Recipe:
        return load_recipe(tuning.recipe, {**fixed, **values})

    space = read_space(tuning.space, changed) if tuning.space else default_space(recipe, tuning.model)
    if not space:
        raise UsageError("the recipe has nothing to tune: both stages have no epochs", "give a space with --space")
    with_dataset_settings(recipe)  # a data set that is missing leaves no folder behind
    folder = runs / f"{recipe.name}-tune-{tuning.model}"
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)

    def refuse() -> None:
        raise UsageError(f"another process is tuning in {folder}", "wait for it, or choose another --runs folder")

    with locked(folder.parent / f".{folder.name}.lock", refuse):
        check_folder(folder)
        claim(folder, recipe, tuning.model, space)
        study = _open(optuna, folder / STORAGE, recipe, tuning.model, space)
        search = _Search(optuna, study, tuning, space, changed, runs, folder, console, follow)
        return search.run(recipe)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingPackageError("tune needs Optuna, which is not installed", install_line("optuna")) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _recipe(tuning: Tuning) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that trials change, and the changes that all of them have."""
    fixed = dict(tuning.changes)
    recipe = load_recipe(tuning.recipe, fixed)
    if tuning.model == "student" and recipe.finetune.epochs and not recipe.finetune.valid_every:
        fixed["finetune.valid_every"] = float(f"{recipe.finetune.epochs / VALIDATIONS:.3g}")
        recipe = load_recipe(tuning.recipe, fixed)
    return recipe, fixed


def _open(optuna: Any, path: Path, recipe: Recipe, model: str, space: Sequence[Dimension]) -> Any:
    """The study in a file, new or with the trials of earlier calls.

    Raises:
        StorageError: The file is damaged.
        UsageError: It is of another recipe or space.
    """
    from sqlalchemy.exc import SQLAlchemyError

    inputs = key_of({**recipe.dump(), "name": ""}, model, [[dimension.key, dimension.dump()] for dimension in space])
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name=recipe.name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(WARM_TRIALS, WARM_VALIDATIONS),
            load_if_exists=True,
        )
        # A sampler with the same seed would propose the same trials again after each interruption.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials) + 1)
        known = study.user_attrs.get("inputs") if study.trials else None
        study.set_user_attr("inputs", known or inputs)
    except (OSError, optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{path} cannot be read: {reason}", "move it away to begin a new search") from error
    if known not in (None, inputs):
        raise UsageError(
            f"{path.parent} has a search with another recipe, other --set or another space",
            "use those again, or choose another --runs folder",
        )
    return study


@dataclass
class _Search:
    optuna: Any
    study: Any
    tuning: Tuning
    space: Sequence[Dimension]
    changed: Callable[[Mapping[str, Any]], Recipe]
    runs: Path
    folder: Path
    console: Console
    follow: Follow

    def run(self, recipe: Recipe) -> TuningReport:
        """Trials until the budget is spent, with a report after each."""
        self._requeue()
        while True:
            results = self._results()
            best = max((r for r in results if r.state == "complete"), key=lambda r: r.value or 0.0, default=None)
            best_recipe = None if best is None else self.changed(best.values)
            report = TuningReport(self.tuning.model, recipe, tuple(results), best, best_recipe, self.folder)
            write_report(report, self.space, self.console)
            if len(results) >= MOST_FAILED and all(result.state == "failed" for result in results):
                raise DelrecError(
                    f"the first {len(results)} trials all failed, the last one: {results[-1].error}",
                    f"correct the recipe or the space, and remove {self.folder}",
                )
            if self.tuning.budget.is_spent(len(results), sum(result.seconds for result in results)):
                return report
            self._try()

    def _requeue(self) -> None:
        """Trials that an interruption left are begun again, in their folders, where training continues."""
        states = self.optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            name = trial.user_attrs.get("folder", _name(trial.number))
            self.study.tell(trial.number, state=states.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs={"folder": name})

    def _results(self) -> list[TrialResult]:
        """The trials that came to an end."""
        states = self.optuna.trial.TrialState
        ended = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.FAIL: "failed"}
        return [
            TrialResult(
                folder=trial.user_attrs["folder"],
                state=ended[trial.state],
                values=trial.user_attrs["values"],
                value=trial.value if trial.state == states.COMPLETE else None,
                figures=trial.user_attrs.get("figures", {}),
                decides=trial.user_attrs.get("decides", ""),
                seconds=trial.user_attrs["seconds"],
                error=trial.user_attrs.get("error", ""),
            )
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state in ended and "seconds" in trial.user_attrs
        ]

    def _try(self) -> None:
        trial, start, states = self.study.ask(), time.monotonic(), self.optuna.trial.TrialState
        name = trial.user_attrs.get("folder", _name(trial.number))
        trial.set_user_attr("folder", name)
        values = {dimension.key: dimension.suggest(trial) for dimension in self.space}
        trial.set_user_attr("values", values)
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        self.console.heading(f"{name}: {shown}")
        state, told = states.COMPLETE, dict[str, Any]()
        try:
            told = self._trained(trial, name, values)
        except _Pruned:
            state = states.PRUNED
            _remove_checkpoints(self.folder / name)
            self.console.say("  pruned: its validation is below the median of the other trials")
        except DelrecError as error:
            if type(error) not in (DelrecError, ConfigError, DataError, OutOfMemoryError):
                raise
            state, told = states.FAIL, {"error": error.message}
            self.console.say(f"  failed: {error.message}")
        # The seconds, last, are what makes a trial one that ended.
        for attribute, content in {**told, "seconds": round(time.monotonic() - start, 1)}.items():
            trial.set_user_attr(attribute, content)
        self.study.tell(trial, told["figures"][told["decides"]] if state == states.COMPLETE else None, state)

    def _trained(self, trial: Any, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The figures of a trial, and which of them decides."""
        recipe, stage = self.changed(values), STAGES[self.tuning.model]
        others = sorted(path for path in self.folder.glob("trial-*") if path.is_dir())
        run = Run(
            recipe.model_copy(update={"name": name}),
            self.folder,
            self.console,
            shipped=False,
            shared=[self.runs / recipe.name, *others],
        )
        run.prepare()
        chooses = "ndcg@10" if whole_catalogue(len(run.dataset.valid())) else "expected_ndcg@10"
        with self.follow(run), self.console.followed(_Curve(trial, stage, chooses)):
            figures = validated(run, stage)
        decides = deciding(run, figures)
        self.console.say(f"  {decides} on validation users {figures[decides]:.4f}")
        return {"figures": figures, "decides": decides}


class _Curve:
    """Follows a trial's validation curve, and ends the trial when Optuna says so."""

    def __init__(self, trial: Any, stage: str, chooses: str) -> None:
        self._trial, self._stage, self._chooses, self._count = trial, stage, chooses, 0

    def __call__(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        value = self._value(stage, figures)
        if value is None or not math.isfinite(value):
            return
        self._count += 1
        self._trial.report(value, self._count)
        if self._trial.should_prune():
            raise _Pruned

    def _value(self, stage: str, figures: Mapping[str, float]) -> float | None:
        if self._stage == "teacher":
            return figures.get(self._chooses) if stage.startswith("teacher/") else None
        if stage != self._stage:
            return None
        return next((value for name, value in figures.items() if name.startswith("valid_")), None)


def _remove_checkpoints(run: Path) -> None:
    """Remove the weights that a pruned training would continue from; its curve stays."""
    from delrec_lite.training.loop import BEST, CHECKPOINT

    for name in (CHECKPOINT, BEST):
        for path in run.glob(f"*/{name}"):
            path.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"trial-{number:03d}"
