"""What people would use instead of a bundle, each in a process of its own, asked the same requests.

Thread pools of several libraries in one process would wait for each other; ``bench.peer_process`` is the other side.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.spinning import users_environment

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


@dataclass(frozen=True)
class Answer:
    """What the bench reads of a ``Recommendation``."""

    items: list[str]
    milliseconds: Mapping[str, float]
    tokens_computed: int


class PeerServing:
    """A peer's process, asked like a ``Recommender``.

    Args:
        name: Of ``PEERS``.
        bundle: Opened; gives titles, GGUF file and teacher.
        base: Where the base model lies: ``folder`` (Hugging Face), ``gguf``, and ``onnx``, which is exported from
            ``folder`` if it is not there yet; each may be missing.
        threads: Counts to try; the fastest is used.

    Raises:
        UsageError: The peer needs a file that is not there.
        DelrecError: Its process died; gives its last message.
    """

    def __init__(self, name: str, bundle: Any, base: Mapping[str, str], threads: Sequence[int]) -> None:
        if name not in PEERS:
            raise UsageError(f"no peer is called {name!r}", f"one of {', '.join(PEERS)}")
        self.name, self.bundle = name, bundle
        command = [sys.executable, "-m", "delrec_lite.bench.peer_process"]
        quant = bundle.manifest["model"].get("quant") if bundle.holds_gguf else None  # else the bundle's first
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=users_environment(),
        )
        try:
            facts = self._ask(
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
        session: str | None = None,  # noqa: ARG002 - peers have no sessions
    ) -> Answer:
        """As ``Recommender.recommend``; a peer may return fewer than ``k``."""
        answer = self._ask({"history": list(history), "candidates": None if candidates is None else list(candidates)})
        return Answer(answer["titles"][:k], {}, int(answer["tokens"]))

    def peak_rss_bytes(self) -> int:
        """Of the process so far."""
        return int(self._ask({"memory": True})["peak_rss_bytes"])

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # its loop ends with its lines
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BaseException:
            self._process.kill()
            raise
        if not reply:
            assert self._process.stderr is not None
            why = (self._process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise DelrecError(f"the peer {self.name} failed: {why}", "leave it out, or install what it names")
        answer: dict[str, Any] = json.loads(reply)
        if "error" in answer:
            raise UsageError(f"the peer {self.name} cannot be asked: {answer['error']}", answer["hint"])
        return answer
