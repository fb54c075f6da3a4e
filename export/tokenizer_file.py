"""Read a base model's `tokenizers` file: byte-pair encoding over bytes or over SentencePiece's pieces."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from delrec_lite.errors import DelrecError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def read_pairs(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        DelrecError: It is not byte-pair encoding, the only kind that is exported to GGUF.
    """
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kind = content["model"]["type"]
    if kind != "BPE":
        raise DelrecError(
            f"cannot export a model whose tokenizer is {kind}: only byte-pair encoding is supported",
            f"{path}; if delrec-lite converted it from a GGUF file, delete its folder to convert it again",
        )
    return content


def merges_of(content: Any) -> list[tuple[str, str]]:
    """The pairs of tokens to merge, in the order of their priority."""
    return [(a, b) for a, b in (m.split(" ", 1) if isinstance(m, str) else m for m in content["model"]["merges"])]


def in_pieces(content: Any) -> bool:
    """Whether the file is of a SentencePiece model (Gemma): it has tokens for single bytes.

    ``byte_fallback`` is not sufficient: SmolLM2's file, as transformers converts it from GGUF, sets it without them.
    """
    return bool(content["model"].get("byte_fallback")) and "<0x0A>" in content["model"]["vocab"]


def prefixes_space(content: Any) -> bool:
    """Whether a text gets a space in front of it (Mistral, Phi-3)."""
    normaliser, splitter = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = normaliser.get("normalizers", [normaliser])
    metaspace = splitter.get("type") == "Metaspace" and splitter.get("prepend_scheme", "always") != "never"
    return metaspace or any(step.get("type") == "Prepend" for step in steps)


def is_byte(token: str) -> bool:
    """Whether a token of a SentencePiece vocabulary stands for one byte of a character that has no token."""
    return _BYTE.fullmatch(token) is not None


def speller(path: Path) -> Callable[[str], str]:
    """A function that writes a token's text so that no text is ever encoded to that token.

    A byte-level vocabulary writes bytes as letters. A SentencePiece vocabulary has its own sign for a space, so a token
    that begins with a plain space never matches.
    """
    if in_pieces(read_pairs(path)):
        return lambda text: " " + text
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    return lambda text: "".join(piece for piece, _ in level.pre_tokenize_str(text))


def token_names(path: Path) -> set[str]:
    """The texts of the base model's tokens."""
    content = read_pairs(path)
    return {*content["model"]["vocab"], *(token["content"] for token in content.get("added_tokens", []))}


def token_text(path: Path, token: int | None) -> str:
    """A token's text; empty for no token."""
    content = read_pairs(path)
    texts = {i: text for text, i in content["model"]["vocab"].items()}
    texts |= {added["id"]: added["content"] for added in content.get("added_tokens", [])}
    return "" if token is None else texts[token]
