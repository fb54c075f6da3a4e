"""What people would use instead, asked the same requests: each in a process of its own, so that no two pools of threads
wait for each other.

Run as a module (``python -m delrec_lite.bench.peers``) it is that process: one JSON object a line, in and out.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from delrec_lite.errors import DelrecError, MissingPackageError, UsageError, install_line

PEERS = {
    "transformers fp32": "one forward pass over the paper's prompt, title-mean of the last position",
    "transformers bf16": "the same in bfloat16",
    "transformers generate": "the paper's prompt, an answer of at most 16 tokens written greedily, in bfloat16",
    "optimum, ONNX": "optimum's ORTModelForCausalLM in float32, one forward pass over the paper's prompt; it gives no "
    "hidden states, so a title's score is the mean of its tokens' logits at the last position, which is title-mean",
    "llama-cpp-python, base": "Llama.create_completion on the base model's GGUF as distributed, the paper's prompt",
    "llama-cpp-python, bundle": "Llama.create_completion on the bundle's own GGUF, its stock prompt of titles",
    "llama.cpp, titles": "one evaluation by llama.cpp of the paper's prompt in words, on the bundle's own GGUF",
    "teacher, ONNX": "the conventional recommender alone, in ONNX Runtime: the floor",
}
ANSWER_TOKENS = 16
WARM_UP = 2


class Peer(Protocol):
    """One way to answer; lives in its own process."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many."""

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """Titles in order, best first, and how many tokens were read."""


@dataclass(frozen=True)
class Answer:
    """What the bench reads of a ``Recommendation``."""

    items: list[str]
    milliseconds: Mapping[str, float]
    tokens_computed: int


def prompt(history: Sequence[str], candidates: Sequence[str] | None, domain: str = "movies") -> str:
    """The paper's prompt in words, without a soft prompt: history, candidates, question."""
    text = f"The user has watched these {domain} in order: {', '.join(history)}."
    if candidates is not None:
        text += f" Candidates for the next one: {', '.join(candidates)}."
    return f"{text} The next one is:"


class PeerServing:
    """A peer's process, asked like a ``Recommender``.

    Args:
        name: Of ``PEERS``.
        bundle: Opened; gives titles, GGUF file and teacher.
        base: Where the base model lies: ``folder`` (Hugging Face), ``gguf``, and ``onnx``, which is made of ``folder``
            where it is not there yet; each may be missing.
        threads: Counts to try; the faster one is kept.

    Raises:
        UsageError: The peer needs a file that is not there.
        DelrecError: Its process died; says how.
    """

    def __init__(self, name: str, bundle: Any, base: Mapping[str, str], threads: Sequence[int]) -> None:
        if name not in PEERS:
            raise UsageError(f"no peer is called {name!r}", f"one of {', '.join(PEERS)}")
        self.name, self.bundle = name, bundle
        command = [sys.executable, "-m", "delrec_lite.bench.peers"]
        quant = bundle.manifest["model"].get("quant") if bundle.holds_gguf else None  # else the bundle's first
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            facts = self._tell(
                {
                    "peer": name,
                    "bundle": str(bundle.folder),
                    "quant": quant,
                    "base": dict(base),
                    "threads": list(threads),
                }
            )
        except BaseException:
            self._process.kill()
            raise
        self.threads, self.bytes = int(facts["threads"]), int(facts["bytes"])

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        candidates: Sequence[str] | None = None,
        *,
        session: str | None = None,  # noqa: ARG002 - peers keep nothing of a user
    ) -> Answer:
        """As ``Recommender.recommend``; a peer may know fewer than ``k``."""
        told = self._tell({"history": list(history), "candidates": None if candidates is None else list(candidates)})
        return Answer(told["titles"][:k], {}, int(told["tokens"]))

    def peak_rss_bytes(self) -> int:
        """Of the process so far."""
        return int(self._tell({"memory": True})["peak_rss_bytes"])

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # its loop ends with its lines
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _tell(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            answered = self._process.stdout.readline()
        except BaseException:
            self._process.kill()
            raise
        if not answered:
            assert self._process.stderr is not None
            why = (self._process.stderr.read().strip().splitlines() or ["no word"])[-1]
            raise DelrecError(f"the peer {self.name} failed: {why}", "leave it out, or install what it names")
        told: dict[str, Any] = json.loads(answered)
        if "error" in told:
            raise UsageError(f"the peer {self.name} cannot be asked: {told['error']}", told["hint"])
        return told


class Transformers:
    """A causal language model of the Hugging Face library, one forward pass a request."""

    def __init__(self, folder: str, titles: Sequence[str], precision: str) -> None:
        import torch

        from delrec_lite.llm.items import title_vectors
        from delrec_lite.llm.load import load_base

        self._torch = torch
        self._base = load_base("base", Path(folder), getattr(torch, precision))
        self._titles = list(titles)
        head = self._base.model.get_output_embeddings().weight
        self._rows = title_vectors(head, titles, self._base.encode)
        self._places = {title: n for n, title in enumerate(titles)}

    def set_threads(self, threads: int) -> None:
        """See ``Peer``."""
        self._torch.set_num_threads(threads)

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``; only the last position's logits are asked for, which is the faster way to call it."""
        torch = self._torch
        ids = self._base.encode(prompt(history, candidates))
        with torch.no_grad():
            out = self._base.model(input_ids=torch.tensor([ids]), logits_to_keep=1, output_hidden_states=True)
            scores = (self._rows @ out.hidden_states[-1][0, -1].float()).numpy()
        pool = range(len(self._titles)) if candidates is None else [self._places[title] for title in candidates]
        ordered = sorted(pool, key=lambda place: -scores[place])
        return [self._titles[place] for place in ordered], len(ids)


class Generate(Transformers):
    """The same model, writing its answer."""

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``; titles nearest to what was written come first."""
        from rapidfuzz.process import extract

        torch = self._torch
        ids = self._base.encode(prompt(history, candidates))
        with torch.no_grad():
            given = torch.tensor([ids])
            out = self._base.model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=ANSWER_TOKENS, do_sample=False
            )
        from delrec_lite.prompts.tokenizer import open_tokenizer

        words = open_tokenizer(self._base.folder / "tokenizer.json").decode(out[0, len(ids) :].tolist())
        found = extract(words.strip(), candidates or self._titles, limit=10)
        return [title for title, _, _ in found], len(ids) + ANSWER_TOKENS


class Optimum:
    """The base model through optimum and ONNX Runtime, one forward pass a request; logits of all positions come out."""

    def __init__(self, folder: str, exported: str, titles: Sequence[str]) -> None:
        import torch

        from delrec_lite.prompts.tasks import TITLE_PREFIX
        from delrec_lite.prompts.tokenizer import open_tokenizer

        _export_once(folder, Path(exported))
        self._torch, self._exported, self._titles = torch, exported, list(titles)
        self._tokenizer = open_tokenizer(Path(folder) / "tokenizer.json")
        self._tokens = [self._encode(TITLE_PREFIX + title) for title in titles]
        self._places = {title: n for n, title in enumerate(titles)}

    def set_threads(self, threads: int) -> None:
        """See ``Peer``."""
        import onnxruntime
        from optimum.onnxruntime import ORTModelForCausalLM

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._torch.set_num_threads(threads)
        self._model = ORTModelForCausalLM.from_pretrained(self._exported, session_options=options)

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """See ``Peer``."""
        ids = self._encode(prompt(history, candidates))
        given = self._torch.tensor([ids])
        with self._torch.no_grad():
            out = self._model(input_ids=given, attention_mask=self._torch.ones_like(given))
        last = out.logits[0, -1].float().numpy()
        pool = range(len(self._titles)) if candidates is None else [self._places[title] for title in candidates]
        scores = {place: float(last[self._tokens[place]].mean()) for place in pool}
        return [self._titles[place] for place in sorted(pool, key=lambda place: -scores[place])], len(ids)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _export_once(folder: str, target: Path) -> None:
    """Optimum's own export of a Hugging Face folder, kept; in a process of its own, whose memory is not this peer's."""
    if target.is_dir():
        return
    staging = target.with_name(f"{target.name}.{os.getpid()}.part")
    command = [sys.executable, "-m", "optimum.exporters.onnx", "--model", folder, "--dtype", "fp32"]
    command += ["--task", "text-generation-with-past", str(staging)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise DelrecError(f"optimum could not export {folder}: {why}", "leave this peer out")
        with suppress(OSError):  # another process was faster
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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
        found = extract(answer["choices"][0]["text"].strip(), candidates or self._titles, limit=10)
        return [title for title, _, _ in found], int(answer["usage"]["total_tokens"])


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
        told = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        known = set(candidates or self._titles)
        return [title for title in told if title in known], int(answer["usage"]["prompt_tokens"])


class Words(Completion):
    """The bundle's network reading words instead of item tokens; what it ranks is noise, what it takes is not."""

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


class TeacherAlone:
    """The distilled recommender in ONNX Runtime."""

    def __init__(self, bundle: str) -> None:
        from delrec_lite.runtime.bundle import Bundle
        from delrec_lite.runtime.retriever import Retriever

        self._bundle = Bundle.open(bundle)
        self._make = Retriever
        self._titles = self._bundle.items.titles[: self._bundle.trained]
        self._places = {title: n for n, title in enumerate(self._titles)}

    def set_threads(self, threads: int) -> None:
        """See ``Peer``."""
        self._retriever = self._make(self._bundle, threads)

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
    from delrec_lite.runtime.bundle import Bundle

    name, bundle = job["peer"], Bundle.open(job["bundle"], quant=job["quant"])
    titles = bundle.items.titles[: bundle.trained]
    if name.startswith("transformers"):
        folder = _needed(job["base"], "folder")
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        precision = "float32" if name.endswith("fp32") else "bfloat16"
        kind = Generate if name.endswith("generate") else Transformers
        return kind(folder, titles, precision), size
    if name.startswith("optimum"):
        folder, exported = _needed(job["base"], "folder"), _needed(job["base"], "onnx")
        peer = Optimum(folder, exported, titles)
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
    from delrec_lite.runtime.retriever import FILE, Retriever

    if not Retriever.is_in(bundle):
        raise UsageError(f"the bundle holds no {FILE}", "export it with export.retriever: true")
    return TeacherAlone(job["bundle"]), (bundle.folder / FILE).stat().st_size


def _needed(base: Mapping[str, str], role: str) -> str:
    if role not in base:
        raise UsageError("the base model is not in the cache", "delrec-lite quickstart or delrec-lite train unpacks it")
    return base[role]


def best_threads(peer: Peer, counts: Sequence[int], history: list[str]) -> int:
    """The thread count with the fastest of some first requests; the peer is left with it."""
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
    """The process of one peer."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries that print must not break the lines

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    job = json.loads(sys.stdin.readline())
    try:
        peer, size = make_peer(job)
        from delrec_lite.runtime.bundle import Bundle

        popular = Bundle.open(job["bundle"], verify=False).items.titles[:20]
        say({"threads": best_threads(peer, job["threads"], list(popular)), "bytes": size})
    except (DelrecError, ImportError) as error:
        told = error if isinstance(error, DelrecError) else MissingPackageError(f"{error}", install_line(error.name))
        say({"error": told.message, "hint": told.hint})
        return
    from delrec_lite.machine import peak_rss_bytes

    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("memory"):
            say({"peak_rss_bytes": peak_rss_bytes()})
            continue
        titles, tokens = peer.rank(asked["history"], asked["candidates"])
        say({"titles": titles, "tokens": tokens})


if __name__ == "__main__":
    main()
