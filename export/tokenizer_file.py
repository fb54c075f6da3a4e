"""What export reads of a base model's `tokenizers` file: byte-pair encoding, over bytes or SentencePiece's pieces."""

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
        DelrecError: It is not byte-pair encoding, which is what GGUF files can hold of it.
    """
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kind = held["model"]["type"]
    if kind != "BPE":
        raise DelrecError(
            f"cannot export a model whose tokenizer is {kind}: byte-pair encoding is known",
            f"{path}; if this program made it of a GGUF file, delete its folder: it is made better now",
        )
    return held


def merges_of(held: Any) -> list[tuple[str, str]]:
    """The pairs that become one token, the first to join first."""
    return [(a, b) for a, b in (m.split(" ", 1) if isinstance(m, str) else m for m in held["model"]["merges"])]


def in_pieces(held: Any) -> bool:
    """Whether it is a SentencePiece model's (Gemma): those have bytes as tokens of their own.

    ``byte_fallback`` alone does not tell: SmolLM2's file, made of its GGUF by transformers, sets it in vain.
    """
    return bool(held["model"].get("byte_fallback")) and "<0x0A>" in held["model"]["vocab"]


def prefixes_space(held: Any) -> bool:
    """Whether a text gets a space in front of it (Mistral, Phi-3)."""
    normaliser, splitter = held.get("normalizer") or {}, held.get("pre_tokenizer") or {}
    steps = normaliser.get("normalizers", [normaliser])
    metaspace = splitter.get("type") == "Metaspace" and splitter.get("prepend_scheme", "always") != "never"
    return metaspace or any(step.get("type") == "Prepend" for step in steps)


def is_byte(token: str) -> bool:
    """Whether a token of a SentencePiece vocabulary stands for one byte of a character that has no token."""
    return _BYTE.fullmatch(token) is not None


def speller(path: Path) -> Callable[[str], str]:
    """How a token is written in a vocabulary that no text is matched with whole, and merges never make it.

    A byte-level vocabulary spells bytes as letters. A SentencePiece vocabulary knows no space but its own sign for
    it, so a token that begins with a plain space stands for no piece of a text.
    """
    if in_pieces(read_pairs(path)):
        return lambda text: " " + text
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    return lambda text: "".join(piece for piece, _ in level.pre_tokenize_str(text))


def token_names(path: Path) -> set[str]:
    """The texts that the base model's own tokens have."""
    held = read_pairs(path)
    return {*held["model"]["vocab"], *(token["content"] for token in held.get("added_tokens", []))}


def token_text(path: Path, token: int | None) -> str:
    """A token's text; empty for no token."""
    held = read_pairs(path)
    texts = {i: text for text, i in held["model"]["vocab"].items()}
    texts |= {added["id"]: added["content"] for added in held.get("added_tokens", [])}
    return "" if token is None else texts[token]
