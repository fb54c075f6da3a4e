"""Pack a finished run's trained weights for shipping: ``python -m delrec_lite.pipeline.pack RECIPE RUNS TARGET``."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.config import load_recipe
from delrec_lite.console import QUIET
from delrec_lite.errors import DataError
from delrec_lite.files import listed_files, put_in_place, sha256_of, write_atomic, writing
from delrec_lite.pipeline.compact import shrink
from delrec_lite.pipeline.reference import FILE, SCHEMA
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import FinishedStage

ADAPTER = "adapter"
_NOT_SHIPPED = {"done.json", "key.json", "README.md"}  # the last is PEFT's empty template


def pack(run: Run, target: Path) -> None:
    """Write the trained stages of a finished ``Run`` to ``target``, matrices in eight bits.

    A stage that is a copy of shipped weights is packed with the figures and seconds of its training.

    Raises:
        DataError: All stages are copies of shipped weights.
        StorageError: ``target`` holds something else than packed weights.
    """
    stages = {"teacher": run.teacher(), "distill": run.distill(), "finetune": run.finetune()}
    if all("shipped" in stage.result for stage in stages.values()):
        raise DataError(f"{run.folder} was copied, not trained", "train it: quickstart --train")
    with writing(target, "folder of trained weights", _packed_files) as (_, staging):
        _pack(run, stages, staging)
        put_in_place(staging, target, "folder of trained weights", _packed_files)


def _packed_files(folder: Path) -> set[str] | None:
    return listed_files(folder, FILE)


def _pack(run: Run, stages: Mapping[str, FinishedStage], target: Path) -> None:
    for name, stage in stages.items():
        skipped = shutil.ignore_patterns(*_NOT_SHIPPED)
        shutil.copytree(stage.folder, target / name, ignore=skipped)
    for path in target.rglob("*.safetensors"):
        shrink(path)
    _name_base(target / "finetune" / ADAPTER / "adapter_config.json", run.recipe.model.base)
    files = {str(p.relative_to(target)): sha256_of(p) for p in sorted(target.rglob("*")) if p.is_file()}
    text = {
        "schema": SCHEMA,
        "recipe": run.recipe.dump(),
        "code": run.code,
        "data": {key: run.prepare().result[key] for key in ("fingerprint", "candidates")},
        "base": run.pulled["model"].files,
        **({"second": run.teaching.training_inputs()} if run.teaching is not None else {}),
        **({"text_sources": sources} if (sources := run.text_sources()) else {}),
        "mirrors": {role: pulled.mirror for role, pulled in run.pulled.items()},
        "stages": {name: _trained(stage) for name, stage in stages.items()},
        "files": files,
    }
    write_atomic(target / FILE, json.dumps(text, indent=1) + "\n")


def _trained(stage: FinishedStage) -> dict[str, Any]:
    """A stage's figures and the seconds of its training, here or before it was shipped."""
    result = dict(stage.result)
    return {"seconds": result.pop("shipped", stage.seconds), "result": result}


def _name_base(path: Path, base: str) -> None:
    """Replace the base model's local folder in the adapter's settings by its name."""
    config = json.loads(path.read_text(encoding="utf-8"))
    write_atomic(path, json.dumps({**config, "base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n")


def main(recipe: str, runs: str, target: str) -> None:
    """Pack a run by its recipe."""
    run = Run(load_recipe(recipe), Path(runs), QUIET)
    with run.locked():
        pack(run, Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
