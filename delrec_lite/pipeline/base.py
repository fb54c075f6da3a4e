"""Checks, before anything is computed, that a base model can be trained and exported; reads small files only."""

import json
from pathlib import Path

from delrec_lite.architectures import Layers, check_base, check_layers, gguf_architectures, gguf_names
from delrec_lite.errors import BundleError, ConfigError, MissingPackageError, install_line
from delrec_lite.export.tokenizer_file import read_pairs
from delrec_lite.hub.base import gguf_file
from delrec_lite.runtime.gguf.header import read_header
from delrec_lite.training.shapes import find_config


def check_folder(folder: Path, onnx: bool = False, layers: Layers | None = None) -> None:
    """Check the config.json and the tokenizer of a Hugging Face folder.

    Args:
        folder: Of the base.
        onnx: Whether an ONNX file will be written.
        layers: As in ``model.layers`` of a recipe; None: all.

    Raises:
        ConfigError: A family or a setting that cannot be trained and exported, or layers that it does not have.
        DelrecError: The tokenizer is not byte-pair encoding.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    check_base(config, str(path), onnx)
    if layers is not None:
        check_layers(layers, config, str(path))
    read_pairs(folder / "tokenizer.json")


def check_gguf_base(path: Path) -> None:
    """Check a GGUF file before it is unpacked; its config.json is checked afterwards.

    Raises:
        ConfigError: An unknown family, or scaled rotary positions, which `transformers` does not read.
    """
    try:
        header = read_header(path)
    except BundleError:
        return  # a tensor type that no bundle has; `transformers` reports what it cannot read
    name = getattr(header.values.get("general.architecture"), "value", None)
    if not gguf_architectures(str(name)):
        raise ConfigError(
            f"{path} is a {name!r} model, a family that cannot be trained and exported",
            f"families known, by their names in GGUF: {', '.join(gguf_names())}",
        )
    scaling = getattr(header.values.get(f"{name}.rope.scaling.type"), "value", "none")
    factors = [tensor for tensor in header.tensors if tensor.startswith("rope_f")]
    if scaling != "none" or factors:
        raise ConfigError(
            f"{path} has scaled rotary positions, which are lost when a GGUF file is unpacked",
            "use the model's Hugging Face folder or its Hub id",
        )


def check_local(base: str, folders: tuple[Path, ...], onnx: bool = False) -> None:
    """Check the files on disk of a base that is not pulled yet; nothing is downloaded.

    Args:
        base: Its name in a recipe.
        folders: Places of unpacked bases and of the Hub's cache.
        onnx: Whether an ONNX file will be written.

    Raises:
        ConfigError: A family or a setting that cannot be trained and exported.
        DelrecError: The tokenizer is not byte-pair encoding.
    """
    path = Path(base).expanduser()
    if path.is_file():
        check_gguf_base(gguf_file(path))
    elif config := find_config(base, folders):
        if (config.parent / "tokenizer.json").is_file():
            check_folder(config.parent, onnx)
        else:
            check_base(json.loads(config.read_text(encoding="utf-8")), str(config), onnx)


def need_torch() -> None:
    """Check that the packages for training are installed.

    Raises:
        MissingPackageError: No torch or no transformers.
    """
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"training needs {error.name}, which is not installed", install_line(error.name)
        ) from error
