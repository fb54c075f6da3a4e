"""The inputs of both training stages: the model, its prompts, the teacher, the data and the output folder."""

from dataclasses import dataclass
from pathlib import Path

from delrec_lite.config import OptimSection
from delrec_lite.console import Console
from delrec_lite.data.types import CandidateSets, Dataset
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.softmax.choice import NEGATIVES, Softmax
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Mixture
from delrec_lite.training.windows import steps_for


@dataclass(frozen=True)
class TrainingContext:
    """The inputs of a stage, without its section of the recipe.

    Attributes:
        model: Trained in place.
        prompts: The compiled tasks.
        teacher: Fitted on the same data set; in stage 2 perhaps with a trained model beside it.
        dataset: Stages train on its training part; a part of its validation users chooses weights and gives the report.
        candidates: Of the validation users.
        max_history: Items of a history that the prompt holds, and inputs of a training window.
        out: The stage's folder, for checkpoint, metrics and results.
        console: Shows progress.
        softmax: Over the catalogue, see ``softmax.choice``.
        negatives: Items that each step of a sampled softmax draws.
    """

    model: ItemLM
    prompts: Prompts
    teacher: Teacher | Mixture
    dataset: Dataset
    candidates: CandidateSets
    max_history: int
    out: Path
    console: Console
    softmax: Softmax = "auto"
    negatives: int = NEGATIVES

    @property
    def m(self) -> int:
        """Candidates of a question."""
        count: int = self.candidates.items.shape[1]
        return count

    def steps(self, recipe: OptimSection) -> int:
        """Optimiser steps of a stage with this section of the recipe, unless it stops early."""
        return steps_for(recipe.epochs, self.dataset.train(), recipe.tokens_per_step)
