"""The prompt in words, for other runtimes: its tokens are the same as in training."""

import json
from pathlib import Path
from typing import Any

from delrec_lite.export.gguf_file import soft_token
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer


def stock_text(prompts: Prompts, tokenizer_json: Path, bos: str) -> dict[str, Any]:
    """The ``text`` of ``prompt.json``: the compiled pieces, and the fixed text for a stock runtime.

    ``stock`` is the fixed part of a request. The titles follow it directly, oldest first, each between the two texts of
    ``item``. If the prompt format lists candidates, ``listed`` follows, then each candidate in the same way after its
    label and a dot (if there are labels: ``letters``), then ``answer``. The verbalizer's pieces are lists with a text
    for each token.

    Args:
        prompts: In the vocabulary of the bundle.
        tokenizer_json: Of the bundle.
        bos: Text of the token that begins every prompt; empty for none.
    """
    text, vocabulary = prompts.text, prompts.vocabulary
    soft = len([i for i in prompts.next_prefix if vocabulary.text <= i < vocabulary.item_base])
    words: dict[str, Any] = {
        **text,
        "stock": bos + text["instruction"] + "".join(soft_token(i) for i in range(soft)) + text["next"],
        "item": [*prompts.format.history_format.around],
    }
    if prompts.added:
        tokenizer = open_tokenizer(tokenizer_json)
        for name, piece in prompts.added.items():
            words[name] = [tokenizer.decode([token]) for token in piece]
    return words


def chat_template(text: dict[str, Any]) -> str:
    """A Jinja template: the fixed part, then the titles of the last message, oldest first, one per line."""
    before, after = text["item"]
    first, between, last = (
        json.dumps(part, ensure_ascii=False) for part in (text["stock"] + before, after + before, after)
    )
    return "{{ " + first + " + messages[-1]['content'] | replace('\\n', " + between + ") + " + last + " }}"
