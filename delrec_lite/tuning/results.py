"""What a search has found: its trials that came to an end, and the best of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe


@dataclass(frozen=True)
class TrialResult:
    """A trial that came to an end.

    Attributes:
        folder: Its run.
        state: ``complete``, ``pruned`` or ``failed``.
        values: Of the keys of the space.
        value: The figure that decides; None unless complete.
        figures: See ``pipeline.validation.validated``.
        decides: The name of that figure.
        seconds: How long it took, in the call that ended it.
        error: Why it failed.
    """

    folder: str
    state: str
    values: dict[str, Any]
    value: float | None
    figures: dict[str, float]
    decides: str
    seconds: float
    error: str


@dataclass(frozen=True)
class TuningReport:
    """A search so far.

    Attributes:
        model: ``student`` or ``teacher``.
        recipe: That trials change.
        trials: Those that came to an end, in order.
        best: The best complete one, if any.
        best_recipe: Its recipe.
        folder: Of all files.
    """

    model: str
    recipe: Recipe
    trials: tuple[TrialResult, ...]
    best: TrialResult | None
    best_recipe: Recipe | None
    folder: Path

    def ranked(self) -> list[TrialResult]:
        """The best trial first; those without a value last."""
        return sorted(self.trials, key=lambda trial: -1.0 if trial.value is None else trial.value, reverse=True)

    @property
    def decides(self) -> str:
        """The figure that decides."""
        return self.best.decides if self.best else "NDCG@10"
