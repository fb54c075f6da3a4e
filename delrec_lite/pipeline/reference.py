"""Trained weights of shipped recipes in the package, so that a first try needs no training."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.errors import DataError
from delrec_lite.files import sha256_of
from delrec_lite.llm.precision_choice import possible_precisions
from delrec_lite.pipeline.compact import expand
from delrec_lite.teachers.files import name_weights

SCHEMA = 1
FILE = "reference.json"
STAGES = ("teacher", "distill", "finetune")


@dataclass(frozen=True)
class Reference:
    """Trained weights of one recipe.

    Attributes:
        folder: Has a folder for each stage, like a run.
        training_inputs: See the function ``training_inputs``.
        stages: Figures and seconds of each stage's training.
        mirrors: Where base model and data set were pulled from, by role.
    """

    folder: Path
    training_inputs: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    mirrors: dict[str, str]

    def fits(self, stage: str, facts: Mapping[str, Any]) -> bool:
        """Whether training ``stage`` from ``facts`` would repeat the training of these weights."""
        needed = ["code", "data", "teacher"]
        if stage != "teacher":
            needed += ["candidates", "domain", "model", "files", "distill"]
        if stage != "teacher" or facts["teacher"].get("text"):
            needed += ["text"]
        if stage == "finetune":
            needed += ["finetune", "second"]
        if "model" in needed and self.precision(stage) not in possible_precisions(facts["model"]["precision"]):
            return False
        return all(_without_precision(self.training_inputs[name]) == _without_precision(facts[name]) for name in needed)

    def precision(self, stage: str) -> str:
        """The precision of training ``distill`` or ``finetune``; older references have it in the recipe only."""
        precision: str = self.stages[stage]["result"].get("precision", self.training_inputs["model"]["precision"])
        return precision

    def copy(self, stage: str, folder: Path) -> dict[str, Any]:
        """Copy a stage's files to the folder of the run's stage; returns its figures."""
        shutil.copytree(self.folder / stage, folder, dirs_exist_ok=True)
        for path in folder.rglob("*.safetensors"):
            if expand(path) and stage == "teacher":
                name_weights(path.parent)
        shipped_stage = self.stages[stage]
        trained = {} if stage == "teacher" else {"precision": self.precision(stage)}
        return {**shipped_stage["result"], **trained, "shipped": shipped_stage["seconds"]}


def _without_precision(facts: Any) -> Any:
    return {k: v for k, v in facts.items() if k != "precision"} if isinstance(facts, dict) else facts


def training_inputs(
    recipe: Recipe,
    prepared: Mapping[str, Any],
    files: Mapping[str, str],
    code: int,
    text_sources: Sequence[Any] = (),
    second: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the result of training depends on.

    Args:
        recipe: Of the run.
        prepared: The result of the stage ``prepare``.
        files: sha256 of the base model's files.
        code: Version of the stages' code.
        text_sources: Inputs of text features outside the base model and the data set.
        second: The same of the run of ``finetune.teacher_recipe``.
    """
    return {
        "code": code,
        "data": prepared["fingerprint"],
        "candidates": prepared["candidates"]["valid"],
        "domain": recipe.data.words_key,
        "files": dict(files),
        "text": [recipe.text_features, dict(files), *text_sources] if recipe.text_features else None,
        **{name: getattr(recipe, name).cache_key_fields() for name in ("model", *STAGES)},
        "second": second,
    }


def reference_for(name: str) -> Reference | None:
    """The weights shipped for a recipe of this name, or None."""
    folder = Path(str(resources.files("delrec_lite.recipes"))) / "weights" / name
    return read_reference(folder) if (folder / FILE).is_file() else None


def read_reference(folder: Path) -> Reference:
    """Read what ``pack`` wrote.

    Raises:
        DataError: A file is missing or differs from the packed one.
    """
    manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
    # The recipe is parsed, so that keys added later get their defaults, which change nothing.
    recipe = Recipe.model_validate(manifest["recipe"])
    text_sources = manifest.get("text_sources", [])
    base, code, second = manifest["base"], manifest["code"], manifest.get("second")
    facts = training_inputs(recipe, manifest["data"], base, code, text_sources, second)
    for name, digest in manifest["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise DataError(f"{folder / name} is not the shipped file", "install the package again, or use --train")
    return Reference(folder, facts, manifest["stages"], manifest["mirrors"])
