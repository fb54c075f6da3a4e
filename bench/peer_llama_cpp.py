"""Peers of llama.cpp: llama-cpp-python's own class on the base model and on a bundle, and titles spelt out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delrec_lite.bench.peer_prompt import ANSWER_TOKENS, prompt


class Completion:
    """llama-cpp-python's own high-level class, writing the beginning of its answer."""

    def __init__(self, gguf: str, titles: Sequence[str]) -> None:
        self._open(gguf, titles, logits_all=False)

    def _open(self, gguf: str, titles: Sequence[str], logits_all: bool) -> None:
        import llama_cpp

        self._c, self._titles = llama_cpp, list(titles)
        self._llama = llama_cpp.Llama(gguf, n_ctx=2048, n_batch=2048, logits_all=logits_all, verbose=False)

    def set_threads(self, threads: int) -> None:
        """See ``Peer``."""
        self._c.llama_set_n_threads(self._llama.ctx, threads, threads)

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``; titles nearest to what was written come first."""
        from rapidfuzz.process import extract

        answer = self._llama.create_completion(prompt(history, candidates), max_tokens=ANSWER_TOKENS, temperature=0.0)
        nearest = extract(answer["choices"][0]["text"].strip(), candidates or self._titles, limit=10)
        return [title for title, _, _ in nearest], int(answer["usage"]["total_tokens"])


class StockCompletion(Completion):
    """The same class on a bundle, whose answers are single tokens: the first token's probabilities are the ranking."""

    def __init__(self, gguf: str, titles: Sequence[str], text: Mapping[str, Any]) -> None:
        self._open(gguf, titles, logits_all=True)  # without it the class gives no probabilities
        self._stock = text.get("stock", "")
        self._before, self._after = text.get("item", ["", ""])

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``."""
        listed = "".join(self._before + title + self._after for title in history)
        answer = self._llama.create_completion(self._stock + listed, max_tokens=1, logprobs=10, temperature=0.0)
        likeliest = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        pool = set(candidates or self._titles)
        return [title for title in likeliest if title in pool], int(answer["usage"]["prompt_tokens"])


class Words(Completion):
    """The bundle's network reading words instead of item tokens; its ranking is noise, its time and memory are real."""

    def __init__(self, gguf: str, titles: Sequence[str], item_token_base: int) -> None:
        self._open(gguf, titles, logits_all=False)
        self._base = item_token_base
        self._places = {title: n for n, title in enumerate(titles)}

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``; in lower case no title is matched as a token."""
        tokens = self._llama.tokenize(prompt(history, candidates).lower().encode())
        self._llama.reset()
        self._llama.eval(tokens)
        logits = self._c.llama_get_logits_ith(self._llama.ctx, -1)
        scores = np.ctypeslib.as_array(logits, (self._base + len(self._titles),))[self._base :]
        pool = list(range(len(self._titles)) if candidates is None else (self._places[title] for title in candidates))
        return [self._titles[place] for place in sorted(pool, key=lambda place: -scores[place])], len(tokens)
