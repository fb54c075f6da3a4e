"""The process of one peer, ``python -m delrec_lite.bench.peer_process``: one JSON object a line, in and out."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.peer_llama_cpp import Completion, StockCompletion, Words
from delrec_lite.bench.peer_prompt import Peer
from delrec_lite.bench.peer_transformers import Generate, Optimum, Transformers
from delrec_lite.bench.peers import BudgetSpentError, torch_precision
from delrec_lite.errors import DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.machine import peak_rss_bytes
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.retriever import FILE, Retriever

WARM_UP = 2


class TeacherAlone:
    """The distilled recommender in ONNX Runtime."""

    def __init__(self, bundle: str) -> None:
        self._bundle = Bundle.open(bundle)
        self._titles = self._bundle.items.titles[: self._bundle.trained]
        self._places = {title: n for n, title in enumerate(self._titles)}

    def set_threads(self, threads: int) -> None:
        """See ``Peer``."""
        self._retriever = Retriever(self._bundle, threads)

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``."""
        scores = self._retriever.scores([[self._places[title] for title in history]])[0]
        if candidates is None:
            pool = np.argpartition(-scores, min(10, len(scores) - 1))[:10]
        else:
            pool = np.array([self._places[title] for title in candidates])
        return [self._titles[place] for place in pool[np.argsort(-scores[pool])]], len(history)


def make_peer(job: Mapping[str, Any]) -> tuple[Peer, int]:
    """A peer and the bytes of its model.

    Raises:
        UsageError: A file it needs is not there.
        MissingPackageError: A package it needs is not installed.
    """
    name, bundle = job["peer"], Bundle.open(job["bundle"], quant=job["quant"])
    titles = bundle.items.titles[: bundle.trained]
    if name.startswith("transformers"):
        folder = _needed(job["base"], "folder")
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        kind = Generate if name.endswith("generate") else Transformers
        return kind(folder, titles, torch_precision(name)), size
    if name.startswith("optimum"):
        folder, exported = _needed(job["base"], "folder"), _needed(job["base"], "onnx")
        peer = Optimum(folder, exported, titles, job["seconds"])
        return peer, sum(path.stat().st_size for path in Path(exported).glob("*.onnx*"))
    if name == "llama-cpp-python, base":
        gguf = _needed(job["base"], "gguf")
        return Completion(gguf, titles), Path(gguf).stat().st_size
    if name in {"llama-cpp-python, bundle", "llama.cpp, titles"}:
        if not bundle.holds_gguf:
            raise UsageError("the bundle holds no GGUF file", "export it with --format gguf or both")
        path, size = str(bundle.model_path), bundle.model_path.stat().st_size
        if name == "llama.cpp, titles":
            return Words(path, titles, bundle.prompt.item_token_base), size
        text = json.loads((bundle.folder / "prompt.json").read_text(encoding="utf-8"))["text"]
        return StockCompletion(path, titles, text), size
    if not Retriever.is_in(bundle):
        raise UsageError(f"the bundle holds no {FILE}", "export it with export.retriever: true")
    return TeacherAlone(job["bundle"]), (bundle.folder / FILE).stat().st_size


def _needed(base: Mapping[str, str], role: str) -> str:
    if role not in base:
        raise UsageError("the base model is not in the cache", "delrec-lite quickstart or delrec-lite train unpacks it")
    return base[role]


def best_threads(peer: Peer, counts: Sequence[int], history: list[str]) -> int:
    """The thread count under which a first request is fastest; the peer keeps it."""
    seconds: dict[int, float] = {}
    for count in counts:
        peer.set_threads(count)
        for n in range(WARM_UP + 2):
            start = time.perf_counter()
            peer.rank(history, None)
            if n >= WARM_UP:
                seconds[count] = min(seconds.get(count, np.inf), time.perf_counter() - start)
    best = min(seconds, key=lambda count: seconds[count])
    peer.set_threads(best)
    return best


def main() -> None:
    """Answer on stdout what stdin asks, a line each."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries that print must not break the lines

    def send(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    job = json.loads(sys.stdin.readline())
    try:
        peer, size = make_peer(job)
        popular = Bundle.open(job["bundle"], verify=False).items.titles[:20]
        send({"threads": best_threads(peer, job["threads"], list(popular)), "bytes": size})
    except (DelrecError, ImportError) as error:
        reply = error if isinstance(error, DelrecError) else MissingPackageError(f"{error}", install_line(error.name))
        send({"error": reply.message, "hint": reply.hint, "spent": isinstance(error, BudgetSpentError)})
        return
    for line in sys.stdin:
        request = json.loads(line)
        titles, tokens = peer.rank(request["history"], request["candidates"])
        send({"titles": titles, "tokens": tokens, "peak_rss_bytes": peak_rss_bytes()})


if __name__ == "__main__":
    main()
