"""`StageCache`: the stages of a run, each found as made before, taken as shipped with the package, or made now."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.llm.precision_choice import possible_precisions
from delrec_lite.pipeline.folder import RunFolder
from delrec_lite.pipeline.reference import STAGES, Reference
from delrec_lite.pipeline.stage import DONE, SHARED_STAGES, Done, begun, key_of, run_stage
from delrec_lite.pipeline.summary import TITLES, summarise
from delrec_lite.processes import current

Make = Callable[[Path], dict[str, Any]]


class StageCache(RunFolder):
    """A run's folder with its stages.

    Args:
        folder: Of the run.
        recipe: What to make.
        console: Shows each stage.
        reference: Trained weights that the package carries, taken where they are what training would make.
    """

    def __init__(self, folder: Path, recipe: Recipe, console: Console, reference: Reference | None) -> None:
        super().__init__(folder, recipe)
        self.console = console
        self.reference = reference

    def _made_from(self) -> dict[str, Any]:
        """What decides on the trained stages, see ``reference.made_from``."""
        raise NotImplementedError

    def _here(self) -> str:
        """What a stage that is not begun is computed in on this machine."""
        raise NotImplementedError

    def _training_stage(
        self, name: str, key_in: Callable[[str], str], make: Callable[[Path, str], dict[str, Any]]
    ) -> Done:
        """A stage in the precision that it was begun in or shipped in; otherwise in this machine's.

        Args:
            name: Of the stage.
            key_in: Its key by precision.
            make: Makes it in a folder and a precision.
        """
        if name not in self.stages:
            precision = current().from_first(lambda: self._precision_of(name, key_in))
            done = self._stage(
                name, key_in(precision), lambda folder: {**make(folder, precision), "precision": precision}
            )
            # Finished before stages named their precision: then it stands in the key alone.
            self.stages[name] = replace(done, result={**done.result, "precision": precision})
        return self.stages[name]

    def _precision_of(self, name: str, key_in: Callable[[str], str]) -> str:
        for precision in possible_precisions(self.recipe.model.precision):
            if begun(self.folder / name, key_in(precision)):
                self._say_if_slower(name, precision)
                return precision
        if self._is_shipped(name):
            return self.reference.precision(name)  # type: ignore[union-attr]
        return self._here()

    def _say_if_slower(self, name: str, precision: str) -> None:
        if not (self.folder / name / DONE).is_file() and precision != (here := self._here()):
            self.console.say(
                f"  {TITLES[name]}: goes on in {precision}, as it was begun; {here} is faster on this machine: "
                f"remove {self.folder / name} to begin anew"
            )

    def _stage(self, name: str, key: str, make: Make) -> Done:
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
