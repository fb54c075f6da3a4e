"""The prompt in words, for runtimes that know nothing of this project: what they tokenise is what was trained."""

import json
from collections.abc import Mapping
from pathlib import Path

from delrec_lite.export.gguf_file import soft_token


def stock_prompt(text: Mapping[str, str], soft: int, bos: str) -> str:
    """The fixed part of a request; titles follow it directly, one behind the other, with nothing between.

    Args:
        text: The pieces of the compiled prompt.
        soft: k, how many soft tokens stand in it.
        bos: The text of the base model's first token; empty for none.
    """
    return bos + text["instruction"] + "".join(soft_token(i) for i in range(soft)) + text["next"]


def chat_template(prompt: str) -> str:
    """A Jinja template that puts the fixed part before the last message: titles, oldest first, one a line."""
    quoted = json.dumps(prompt, ensure_ascii=False)
    return "{{ " + quoted + " + messages[-1]['content'] | replace('\\n', '') }}"


def token_text(tokenizer_json: Path, token: int | None) -> str:
    """A token's text in a ``tokenizers`` file; empty for no token."""
    held = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    texts = {i: text for text, i in held["model"]["vocab"].items()}
    texts |= {added["id"]: added["content"] for added in held.get("added_tokens", [])}
    return "" if token is None else texts[token]
