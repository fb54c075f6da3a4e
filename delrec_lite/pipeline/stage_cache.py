"""`StageCache`: the stages of a run, each read from its folder, copied from the package, or computed now."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.llm.precision_choice import possible_precisions
from delrec_lite.pipeline.folder import RunFolder
from delrec_lite.pipeline.reference import STAGES, Reference
from delrec_lite.pipeline.stage import (
    DONE,
    SHARED_STAGES,
    FinishedStage,
    copy_finished,
    key_of,
    run_stage,
    was_started,
)
from delrec_lite.pipeline.summary import TITLES, summarise
from delrec_lite.processes import current

Make = Callable[[Path], dict[str, Any]]


class StageCache(RunFolder):
    """A run's folder with its stages.

    Args:
        folder: Of the run.
        recipe: Of the run.
        console: Shows each stage.
        reference: Trained weights in the package, used if training from the same inputs gave them.
        shared: Folders of other runs, whose finished stages are copied where they have the same key.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        console: Console,
        reference: Reference | None,
        shared: Sequence[Path] = (),
    ) -> None:
        super().__init__(folder, recipe)
        self.console = console
        self.reference = reference
        self._shared = shared

    def training_inputs(self) -> dict[str, Any]:
        """The inputs of the trained stages, see ``reference.training_inputs``."""
        raise NotImplementedError

    def _machine_precision(self) -> str:
        """The precision of new stages on this machine."""
        raise NotImplementedError

    def _stage_folder(self, name: str) -> Path:
        """Where a stage's files are."""
        return self.folder / name

    def _training_stage(
        self, name: str, key_for: Callable[[str], str], make: Callable[[Path, str], dict[str, Any]]
    ) -> FinishedStage:
        """A stage in the precision in which it was started or shipped; otherwise in this machine's.

        Args:
            name: Of the stage.
            key_for: Its key by precision.
            make: Computes it in a folder and a precision.
        """
        if name not in self.stages:
            precision = current().from_first(lambda: self._precision_of(name, key_for))
            stage = self._stage(
                name, key_for(precision), lambda folder: {**make(folder, precision), "precision": precision}
            )
            # Results of older versions do not have the precision; it is only in the key.
            self.stages[name] = replace(stage, result={**stage.result, "precision": precision})
        return self.stages[name]

    def _precision_of(self, name: str, key_for: Callable[[str], str]) -> str:
        for precision in possible_precisions(self.recipe.model.precision):
            if was_started(self._stage_folder(name), key_for(precision)):
                self._say_if_slower(name, precision)
                return precision
        if self._is_shipped(name):
            return self.reference.precision(name)  # type: ignore[union-attr]
        return self._machine_precision()

    def _say_if_slower(self, name: str, precision: str) -> None:
        folder = self._stage_folder(name)
        if not (folder / DONE).is_file() and precision != (faster := self._machine_precision()):
            self.console.say(
                f"  {TITLES[name]}: continues in {precision}, in which it was started; {faster} is faster on this "
                f"machine: remove {folder} to start again"
            )

    def _stage(self, name: str, key: str, make: Make) -> FinishedStage:
        if name not in self.stages:
            make, folder = self._with_heading(name, make), self._stage_folder(name)
            if name != "export":  # its result, the bundle, is not in its folder
                current().from_first(lambda: copy_finished(folder, key, self._shared))
            # Shipped weights never replace a finished or started training of this run.
            if name in STAGES and not was_started(folder, key) and self._is_shipped(name):
                key, make = key_of("shipped", key), partial(self.reference.copy, name)  # type: ignore[union-attr]
            self.stages[name] = run_stage(folder, key, make, shared=name in SHARED_STAGES)
            self._show_summary(self.stages[name])
        return self.stages[name]

    def _is_shipped(self, name: str) -> bool:
        if self.reference is None:
            return False
        # A stage that follows one trained here is trained here too.
        if any("shipped" not in self.stages[earlier].result for earlier in STAGES[: STAGES.index(name)]):
            return False
        return self.reference.fits(name, self.training_inputs())

    def _with_heading(self, name: str, make: Make) -> Make:
        def make_with_heading(folder: Path) -> dict[str, Any]:
            self.console.heading(f"{TITLES.get(name, name)} ...")
            return make(folder)

        return make_with_heading

    def _show_summary(self, stage: FinishedStage) -> None:
        how = f"{stage.seconds:.0f} s" if stage.computed else "cached"
        if "shipped" in stage.result:
            how = f"shipped with the package; training took {stage.result['shipped']:.0f} s"
        self.console.say(f"  {TITLES.get(stage.name, stage.name)}: {summarise(stage)} ({how})")
