"""Weights that a shipped recipe trained and the package carries, so that a first look does not wait for training."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.errors import DataError
from delrec_lite.files import sha256_of
from delrec_lite.llm.precision_choice import possible_precisions

SCHEMA = 1
FILE = "reference.json"
STAGES = ("teacher", "distill", "finetune")


@dataclass(frozen=True)
class Reference:
    """Trained weights of one recipe.

    Attributes:
        folder: Holds a folder for each stage, as a run has it.
        made_from: What they were trained from; see ``made_from``.
        stages: Figures and seconds of each stage, as its training left them.
        mirrors: Who delivered base model and data set, by role.
    """

    folder: Path
    made_from: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    mirrors: dict[str, str]

    def fits(self, stage: str, facts: Mapping[str, Any]) -> bool:
        """Whether training ``stage`` from ``facts`` would be what was done here."""
        needed = ["code", "data", "teacher"]
        if stage != "teacher":
            needed += ["candidates", "domain", "model", "files", "distill"]
        if stage == "finetune":
            needed += ["finetune"]
        if "model" in needed and self.precision(stage) not in possible_precisions(facts["model"]["precision"]):
            return False
        return all(_without_precision(self.made_from[name]) == _without_precision(facts[name]) for name in needed)

    def precision(self, stage: str) -> str:
        """What ``distill`` or ``finetune`` was trained in; older references name it in the recipe alone."""
        precision: str = self.stages[stage]["result"].get("precision", self.made_from["model"]["precision"])
        return precision

    def copy(self, stage: str, folder: Path) -> dict[str, Any]:
        """Put a stage's files where training would have left them; returns its figures."""
        shutil.copytree(self.folder / stage, folder, dirs_exist_ok=True)
        held = self.stages[stage]
        trained = {} if stage == "teacher" else {"precision": self.precision(stage)}
        return {**held["result"], **trained, "shipped": held["seconds"]}


def _without_precision(facts: Any) -> Any:
    return {k: v for k, v in facts.items() if k != "precision"} if isinstance(facts, dict) else facts


def made_from(recipe: Recipe, prepared: Mapping[str, Any], files: Mapping[str, str], code: int) -> dict[str, Any]:
    """All that decides what training makes.

    Args:
        recipe: Of the run.
        prepared: What the first stage says of the data set.
        files: sha256 of the base model's files.
        code: Version of what the stages compute.
    """
    return {
        "code": code,
        "data": prepared["fingerprint"],
        "candidates": prepared["candidates"]["valid"],
        "domain": recipe.data.domain,
        "files": dict(files),
        **{name: getattr(recipe, name).cache_key_fields() for name in ("model", *STAGES)},
    }


def reference_for(name: str) -> Reference | None:
    """The weights shipped for a recipe of this name, if there are any."""
    folder = Path(str(resources.files("delrec_lite.recipes"))) / "weights" / name
    return read_reference(folder) if (folder / FILE).is_file() else None


def read_reference(folder: Path) -> Reference:
    """What ``pack`` wrote.

    Raises:
        DataError: A file is missing or is not the one that was packed.
    """
    held = json.loads((folder / FILE).read_text(encoding="utf-8"))
    # The recipe is read anew: keys that came later stand at their defaults, which change nothing.
    recipe = Recipe.model_validate(held["recipe"])
    facts = made_from(recipe, held["data"], held["base"], held["code"])
    for name, digest in held["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise DataError(f"{folder / name} is not as it was shipped", "install the package again, or use --train")
    return Reference(folder, facts, held["stages"], held["mirrors"])
