"""What serving needs to build the prompt as in training: `prompt.json`, and the file of the titles' tokens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.tasks import TITLE_PREFIX, Prompts
from delrec_lite.runtime.prompting.prompt import FILE, PIECES, write_titles


def write_prompt(
    folder: Path, prompts: Prompts, text: Mapping[str, Any], max_history: int, input_norm: float, scale: float
) -> None:
    """Write both files.

    Args:
        folder: Of the bundle.
        prompts: What serving reads, in the vocabulary of the bundle.
        text: The prompt in words.
        max_history: Largest number of items in the prompt.
        input_norm: Length of an item's input vector.
        scale: Of the verbalizer.
    """
    prompt_format, default = prompts.format, PromptFormat()
    settings = {
        name: getattr(prompt_format, name)
        for name in ("history", "title_tokens", "verbalizer", "candidates", "context")
    }
    first, *listing = ((name, getattr(prompts, name)) for name in PIECES)
    pieces = {name: piece for name, piece in (first, *prompts.added.items(), *listing) if piece}
    content = {
        "schema": 1,
        "prefix": prompts.next_prefix,
        "soft_tokens": prompts.vocabulary.soft,
        "item_token_base": prompts.vocabulary.item_base,
        "max_history": max_history,
        "new_item": {"title_prefix": TITLE_PREFIX, "input_norm": input_norm, "scale": scale},
        **{name: value for name, value in settings.items() if value != getattr(default, name)},
        **({"pieces": pieces} if pieces else {}),
        "text": text,
    }
    (folder / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    if prompt_format.written:
        write_titles(folder, prompts.titles)
