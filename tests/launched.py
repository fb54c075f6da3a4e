"""Runs in several processes: a recipe that makes every random choice of a step, the command, the weights it gives."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file

from delrec_lite.data.store import Settings, make_dataset, save_dataset
from tests.conftest import SECTIONS
from tests.tiny import candidates, dataset

ROOT = Path(__file__).parents[1]
TEACHERS = tuple(f"teacher/{kind}/teacher.safetensors" for kind in ("sasrec", "gru4rec", "caser"))
WEIGHTS = (
    *TEACHERS,
    "distill/soft.safetensors",
    "finetune/items.safetensors",
    "finetune/adapter/adapter_model.safetensors",
)


def write_recipe(base, folder, **changes):
    """A recipe with more windows than processes, in ``folder``; changes of sections by name."""
    data = dataset()
    data = make_dataset("ring", data.catalog, data.user_ids, data.sequences)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, Settings(2, 5, 3), folder / "ring")
    sections = {
        "name": "r",
        "data": {"folder": str(folder / "ring")},
        "model": {**SECTIONS["model"], "base": str(base), "precision": "fp32"},
        "teacher": {
            "kind": ["sasrec", "gru4rec", "caser"],
            "settings": dict.fromkeys(("sasrec", "gru4rec", "caser"), SECTIONS["teacher"]["settings"]),
        },
        "distill": {"epochs": 2, "tokens_per_step": 100, "weighting": "gradient-norm"},
        "finetune": {
            "epochs": 8,
            "tokens_per_step": 80,
            "rank": 2,
            "teacher_weight": 0.5,
            "valid_every": 0.5,
            "patience": 9,
            "average": 0.9,
        },
    }
    for name, change in changes.items():
        sections[name] |= change
    (folder / "r.yaml").write_text(yaml.safe_dump(sections))
    return folder / "r.yaml"


def start(*words, **environment):
    """A Python process in this repository, such as ``-m delrec_lite train ...``."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def weights(runs):
    """All trained tensors of the run ``r``, by file and name."""
    return {f"{name}/{key}": tensor for name in WEIGHTS for key, tensor in load_file(runs / "r" / name).items()}
