"""Load a base model and its tokenizer from a Hugging Face folder or a GGUF file."""

import json
import logging
import os
import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from delrec_lite.console import QUIET, Console
from delrec_lite.hub.base import gguf_file, model_folder
from delrec_lite.llm.precision import keep_layout, loading
from delrec_lite.prompts.tasks import Encode
from delrec_lite.prompts.tokenizer import open_tokenizer


@dataclass(frozen=True)
class Base:
    """A base model as loaded.

    Attributes:
        model: A ``transformers`` causal LM, frozen, in evaluation mode.
        encode: Text to token ids; adds no special token and reads none from the text.
        bos: Id of the token that begins every prompt, or None.
        name: As pulled.
        folder: Hugging Face folder with the weights in training precision and ``tokenizer.json``.
    """

    model: Any
    encode: Encode
    bos: int | None
    name: str
    folder: Path


def unpack(name: str, pulled: Path, cache: Path, console: Console = QUIET) -> Path:
    """The Hugging Face folder of a pulled base; a GGUF file is de-quantised to bf16 once and kept in ``cache``."""
    if made := model_folder(name, pulled, cache):
        return made
    import transformers

    source_file, folder = gguf_file(pulled), cache / f"{name}-bf16"
    console.say(f"  {name}: de-quantising {source_file.name} to bf16, once (about half a minute)")
    staging = cache / f"{name}-bf16.{os.getpid()}.part"
    shutil.rmtree(staging, ignore_errors=True)
    _hush()
    source: dict[str, Any] = {"gguf_file": source_file.name, "local_files_only": True}
    home = source_file.parent
    with redirect_stderr(StringIO()):  # a bar that heeds no setting
        model = transformers.AutoModelForCausalLM.from_pretrained(home, dtype=torch.bfloat16, **source)
    model.save_pretrained(staging)
    transformers.AutoTokenizer.from_pretrained(home, **source).save_pretrained(staging)
    tokenizer = staging / "tokenizer.json"
    if json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["type"] == "Unigram":
        from delrec_lite.llm.pieces import write_tokenizer

        write_tokenizer(source_file, tokenizer)
    try:
        staging.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        shutil.rmtree(staging)  # another process has done the same meanwhile
    return folder


def load_base(
    name: str,
    folder: Path,
    precision: torch.dtype | str = torch.bfloat16,
    device: str = "cpu",
    draw: int | None = None,
) -> Base:
    """Load the weights of ``folder``, frozen.

    Args:
        name: As pulled.
        folder: Hugging Face folder.
        precision: Of the linear layers: a dtype, or as ``precision_choice.meaning`` names it. Embeddings, head and
            norms are never quantised: item vectors are made of their rows.
        device: ``cpu`` or ``cuda``.
        draw: A seed: the weights are drawn as before any training, and those of ``folder`` are not read.

    Raises:
        MissingPackageError: NF4 or int8 without bitsandbytes.
    """
    import transformers

    _hush()
    how = loading(precision, device) if isinstance(precision, str) else {"dtype": precision}
    config = _read_config(folder)
    if draw is None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, attn_implementation="sdpa", local_files_only=True, **how
        )
    else:
        with torch.random.fork_rng():
            torch.manual_seed(draw)
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", **how)
    if "quantization_config" not in how:
        model.to(device)
    keep_layout(model)
    model.requires_grad_(False).eval()
    tokenizer = open_tokenizer(folder / "tokenizer.json")

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Base(model, encode, model.config.bos_token_id, name, folder)


def _read_config(folder: Path) -> Any:
    """The configuration in ``folder``.

    `transformers` 4 passes over the rotary positions of a config.json that version 5 wrote, and takes its defaults.
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


def _hush() -> None:
    """Transformers' own bars and notes would break the stage's one line."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    for chatty in ("transformers", "bitsandbytes"):  # the second says on a CPU that a CUDA kernel is missing
        logging.getLogger(chatty).setLevel(logging.ERROR)
