"""Weights that a shipped recipe trained and the package carries, so that a first look does not wait for training.

As a module (``python -m delrec_lite.pipeline.reference RECIPE RUNS TARGET``) it packs a finished run for shipping.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.errors import DataError
from delrec_lite.files import sha256_of, write_whole

SCHEMA = 1
FILE = "reference.json"
ADAPTER = "adapter"
STAGES = ("teacher", "distill", "finetune")
_NOT_SHIPPED = {"done.json", "key.json", "README.md"}  # the last is PEFT's empty form


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
            needed += ["domain", "model", "files", "distill"]
        if stage == "finetune":
            needed += ["finetune"]
        return all(self.made_from[name] == facts[name] for name in needed)

    def copy(self, stage: str, folder: Path) -> dict[str, Any]:
        """Put a stage's files where training would have left them; returns its figures."""
        shutil.copytree(self.folder / stage, folder, dirs_exist_ok=True)
        held = self.stages[stage]
        return {**held["result"], "shipped": held["seconds"]}


def made_from(recipe: Recipe, fingerprint: str, files: Mapping[str, str], code: int) -> dict[str, Any]:
    """All that decides what training makes.

    Args:
        recipe: Of the run.
        fingerprint: Of the prepared data set.
        files: sha256 of the base model's files.
        code: Version of what the stages compute.
    """
    return {
        "code": code,
        "data": fingerprint,
        "domain": recipe.data.domain,
        "files": dict(files),
        **{name: getattr(recipe, name).decides() for name in ("model", *STAGES)},
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


def pack(run: Any, target: Path) -> None:
    """Write the trained stages of a finished ``Run`` to ``target``, matrices in half precision.

    A stage that was itself a copy of shipped weights stays one, with the figures and seconds of its training.

    Raises:
        DataError: All stages are copies: there is nothing new to ship.
    """
    done = {"teacher": run.teacher(), "distill": run.distill(), "finetune": run.finetune()}
    if all("shipped" in stage.result for stage in done.values()):
        raise DataError(f"{run.folder} was copied, not trained", "train it: quickstart --train")
    shutil.rmtree(target, ignore_errors=True)
    for name, stage in done.items():
        skipped = shutil.ignore_patterns(*_NOT_SHIPPED)
        shutil.copytree(stage.folder, target / name, ignore=skipped)
    for path in (target / "finetune").rglob("*.safetensors"):
        _halve(path)
    _name_base(target / "finetune" / ADAPTER / "adapter_config.json", run.recipe.model.base)
    files = {str(p.relative_to(target)): sha256_of(p) for p in sorted(target.rglob("*")) if p.is_file()}
    text = {
        "schema": SCHEMA,
        "recipe": run.recipe.dump(),
        "code": run.code,
        "data": run.prepare().result["fingerprint"],
        "base": run.pulled["model"].files,
        "mirrors": {role: pulled.mirror for role, pulled in run.pulled.items()},
        "stages": {name: _trained(stage) for name, stage in done.items()},
        "files": files,
    }
    write_whole(target / FILE, json.dumps(text, indent=1) + "\n")


def _trained(stage: Any) -> dict[str, Any]:
    """A stage's figures and the seconds that its training took, here or where it was shipped from."""
    result = dict(stage.result)
    return {"seconds": result.pop("shipped", stage.seconds), "result": result}


def _name_base(path: Path, base: str) -> None:
    """The adapter's settings name a folder of the machine that trained it; say which model it was."""
    held = json.loads(path.read_text(encoding="utf-8"))
    write_whole(path, json.dumps({**held, "base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n")


def _halve(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: t.half() if t.dim() > 1 else t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def main(recipe: str, runs: str, target: str) -> None:
    """Pack a run by its recipe."""
    from delrec_lite.config import load_recipe
    from delrec_lite.console import QUIET
    from delrec_lite.pipeline.run import Run

    pack(Run(load_recipe(recipe), Path(runs), QUIET), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
