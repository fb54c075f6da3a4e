"""A teacher on disk: a folder with its settings as JSON and its weights as safetensors."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from delrec_lite.errors import BundleError, ConfigError, StorageError
from delrec_lite.files import sha256_of
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.files import CONFIG, DIGEST, WEIGHTS

SCHEMA = 1
_REMEDY = "train it again: delrec-lite train --stage teacher"


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """Write ``teacher.json`` and ``teacher.safetensors``; an interrupted write leaves no partial file.

    Raises:
        StorageError: The folder cannot be written.
    """
    text: dict[str, Any] = {
        "schema": SCHEMA,
        "items": teacher.items,
        "config": teacher.config.model_dump(),
        "metrics": teacher.metrics,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in teacher.network.state_dict().items()}
    part: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
        save_file(tensors, part / WEIGHTS)
        # A kill between the two renames leaves new weights beside old settings; the digest shows it.
        text[DIGEST] = sha256_of(part / WEIGHTS)
        (part / CONFIG).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
        (part / WEIGHTS).replace(folder / WEIGHTS)
        (part / CONFIG).replace(folder / CONFIG)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write the teacher to {folder}: {error}", "free space or choose another") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def load_teacher(folder: Path) -> Teacher:
    """Read what ``save_teacher`` wrote; scores are the same to the last bit.

    Raises:
        BundleError: A file is missing, incomplete, of another program or of another schema; names the file.
    """
    text = _settings(folder / CONFIG)
    try:
        if sha256_of(folder / WEIGHTS) != text.get(DIGEST):
            raise BundleError(
                f"{folder / WEIGHTS} is not the file that {CONFIG} beside it names: sha256 differs", _REMEDY
            )
    except OSError as error:
        raise BundleError(f"{folder / WEIGHTS} cannot be read: {error}", _REMEDY) from error
    try:
        settings = dict(text["config"])
        name = str(settings.pop("kind"))
        items, metrics = int(text["items"]), {str(k): float(v) for k, v in text["metrics"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{folder / CONFIG} does not describe a teacher: {error}", _REMEDY) from error
    try:
        kind = TEACHERS[name]
    except ConfigError as error:
        raise BundleError(f"{folder / CONFIG}: {error}", "install or register the kind, or " + _REMEDY) from error
    try:
        config = kind.configure(**settings)
    except ConfigError as error:
        raise BundleError(f"{folder / CONFIG} does not describe a teacher: {error}", _REMEDY) from error
    try:
        with torch.random.fork_rng(devices=[]):
            network = kind.build(config, items)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it", _REMEDY) from error
    return Teacher(network, items, metrics)


def _settings(path: Path) -> dict[str, Any]:
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"no teacher at {path.parent}: {path.name} cannot be read", _REMEDY) from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON", _REMEDY) from error
    if not isinstance(text, dict) or text.get("schema") != SCHEMA:
        raise BundleError(f"{path} is not a teacher of schema {SCHEMA}", _REMEDY)
    return text
