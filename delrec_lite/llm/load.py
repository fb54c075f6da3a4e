"""Load a base model and its tokenizer from a Hugging Face folder or a GGUF file."""

import json
import logging
import os
import shutil
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from delrec_lite.architectures import Layers, keep_layers
from delrec_lite.cache_folder import writable_cache
from delrec_lite.console import QUIET, Console
from delrec_lite.files import remove_stale
from delrec_lite.hub.base import gguf_file, model_folder
from delrec_lite.llm.precision import keep_layout, loading_options
from delrec_lite.prompts.tasks import Encode
from delrec_lite.prompts.tokenizer import open_tokenizer


@dataclass(frozen=True)
class Base:
    """A loaded base model.

    Attributes:
        model: A ``transformers`` causal LM, frozen, in evaluation mode.
        encode: Text to token ids; neither adds special tokens nor recognises them in the text.
        bos: Id of the token that starts every prompt, or None.
        name: As pulled.
        folder: Hugging Face folder with the weights and ``tokenizer.json``.
        layers: Its layers that ``model`` has, as in ``model.layers`` of a recipe; None: all.
    """

    model: Any
    encode: Encode
    bos: int | None
    name: str
    folder: Path
    layers: Layers | None = None


def unpack(name: str, pulled: Path, cache: Path, console: Console = QUIET) -> Path:
    """The Hugging Face folder of a pulled base; a GGUF file is de-quantised to bf16 once and stored in ``cache``."""
    if existing := model_folder(name, pulled, cache):
        return existing
    cache = writable_cache(cache, needed=True)
    if existing := model_folder(name, pulled, cache):
        return existing
    import transformers

    source_file, folder = gguf_file(pulled), cache / f"{name}-bf16"
    console.say(f"  {name}: de-quantising {source_file.name} to bf16, once (about half a minute)")
    staging = cache / f"{name}-bf16.{os.getpid()}.part"
    remove_stale(folder)
    shutil.rmtree(staging, ignore_errors=True)
    _silence_transformers()
    source: dict[str, Any] = {"gguf_file": source_file.name, "local_files_only": True}
    source_folder = source_file.parent
    # Newer releases keep the weights in GGUF's blocks unless told otherwise, and cannot save those.
    config = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": config(dequantize=True)} if config else {}
    with redirect_stderr(StringIO()):  # this progress bar cannot be switched off
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source_folder, dtype=torch.bfloat16, **source, **dense
        )
    model.save_pretrained(staging)
    transformers.AutoTokenizer.from_pretrained(source_folder, **source).save_pretrained(staging)
    tokenizer = staging / "tokenizer.json"
    if json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["type"] == "Unigram":
        from delrec_lite.llm.pieces import write_tokenizer

        write_tokenizer(source_file, tokenizer)
    try:
        staging.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        shutil.rmtree(staging)  # another process has unpacked the same model
    return folder


def load_base(
    name: str,
    folder: Path,
    precision: torch.dtype | str = torch.bfloat16,
    device: str = "cpu",
    init_seed: int | None = None,
    layers: Layers | None = None,
) -> Base:
    """Load the weights of ``folder``, frozen.

    Args:
        name: As pulled.
        folder: Hugging Face folder.
        precision: Of the linear layers: a dtype, or a value of ``precision_choice.resolve_precision``. Embeddings, head
            and norms are never quantised, because item vectors are made of their rows.
        device: ``cpu`` or ``cuda``.
        init_seed: Initialise the weights at random with this seed instead of reading those of ``folder``.
        layers: Keep only these layers, as in ``model.layers`` of a recipe, followed by the final norm; None: all.

    Raises:
        ConfigError: The base does not have these layers.
        MissingPackageError: NF4 or int8 without bitsandbytes.
    """
    import transformers

    _silence_transformers()
    options = loading_options(precision, device) if isinstance(precision, str) else {"dtype": precision}
    config = _read_config(folder)
    if init_seed is None:
        model = _read_weights(folder, config, layers, options)
    else:
        if layers is not None:
            keep_layers(config, layers)
        with torch.random.fork_rng():
            torch.manual_seed(init_seed)
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", **options)
    if "quantization_config" not in options:
        model.to(device)
    keep_layout(model)
    model.requires_grad_(False).eval()
    tokenizer = open_tokenizer(folder / "tokenizer.json")

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Base(model, encode, model.config.bos_token_id, name, folder, layers)


def _read_config(folder: Path) -> Any:
    """The configuration in ``folder``.

    `transformers` 4 ignores the rotary settings of a config.json that version 5 wrote, and uses its defaults.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or int(transformers.__version__.partition(".")[0]) >= 5:
        return config
    keys = dict(parameters.get("full_attention", parameters))
    local = parameters.get("sliding_attention", {}).get("rope_theta")
    for name, value in (
        ("rope_theta", keys.pop("rope_theta", None)),
        ("partial_rotary_factor", keys.pop("partial_rotary_factor", None)),
        ("rope_local_base_freq", local),
    ):
        if value is not None:
            setattr(config, name, value)
    config.rope_scaling = keys if keys.get("rope_type", "default") != "default" else None
    return config


def _read_weights(folder: Path, config: Any, layers: Layers | None, options: dict[str, Any]) -> Any:
    """The model in ``folder`` with the kept layers; where these are the first ones, the others are not read at all."""
    import transformers

    def read(config: Any) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, attn_implementation="sdpa", local_files_only=True, **options
        )

    kept = list(range(config.num_hidden_layers)) if layers is None else keep_layers(config, layers)
    if layers is None or kept == list(range(len(kept))):
        return read(config)
    model = read(_read_config(folder))
    model.model.layers = torch.nn.ModuleList(model.model.layers[n] for n in kept)
    for n, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = n  # where its keys and values are cached
    keep_layers(model.config, layers)
    return model


def _silence_transformers() -> None:
    """Switch off transformers' progress bars and messages, which would break this program's progress line."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    for package in ("transformers", "bitsandbytes"):  # on a CPU, bitsandbytes warns that a CUDA kernel is missing
        logging.getLogger(package).setLevel(logging.ERROR)
    # PEFT reads a property that transformers 5 has renamed.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
