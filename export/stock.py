"""The prompt in words, for runtimes that know nothing of this project: what they tokenise is what was trained."""

import json
from pathlib import Path
from typing import Any

from delrec_lite.export.gguf_file import soft_token
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.tokenizer import open_tokenizer


def stock_text(prompts: Prompts, tokenizer_json: Path, bos: str) -> dict[str, Any]:
    """The prompt's words, as ``prompt.json`` has them: the compiled pieces, and what a stock runtime is given.

    ``stock`` is the fixed part of a request. Titles follow it directly, oldest first, each between the two words of
    ``item``; then, where the form lists candidates, ``listed``, each of them in the same way behind its label and a dot
    (where they have labels: ``letters``), and ``answer``. The verbalizer's own pieces stand there a text a token.

    Args:
        prompts: In the vocabulary of the bundle.
        tokenizer_json: Of the bundle.
        bos: The text of the base model's first token; empty for none.
    """
    text, vocabulary = prompts.text, prompts.vocabulary
    soft = len([i for i in prompts.next_prefix if vocabulary.text <= i < vocabulary.item_base])
    told: dict[str, Any] = {
        **text,
        "stock": bos + text["instruction"] + "".join(soft_token(i) for i in range(soft)) + text["next"],
        "item": [*prompts.format.history_format.around],
    }
    if prompts.added:
        tokenizer = open_tokenizer(tokenizer_json)
        for name, piece in prompts.added.items():
            told[name] = [tokenizer.decode([token]) for token in piece]
    return told


def chat_template(text: dict[str, Any]) -> str:
    """A Jinja template that puts the fixed part before the last message: titles, oldest first, one a line."""
    before, after = text["item"]
    first, between, last = (
        json.dumps(words, ensure_ascii=False) for words in (text["stock"] + before, after + before, after)
    )
    return "{{ " + first + " + messages[-1]['content'] | replace('\\n', " + between + ") + " + last + " }}"
