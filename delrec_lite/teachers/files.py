"""The files of a teacher's folder, and the digest that ties them together."""

import json
from pathlib import Path

from delrec_lite.files import sha256_of, write_atomic

CONFIG = "teacher.json"
WEIGHTS = "teacher.safetensors"
DIGEST = "sha256"  # the key of CONFIG with that of WEIGHTS


def name_weights(folder: Path) -> None:
    """Make the settings name the weights that lie beside them now."""
    text = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_atomic(folder / CONFIG, json.dumps(text | {DIGEST: sha256_of(folder / WEIGHTS)}, indent=2) + "\n")
