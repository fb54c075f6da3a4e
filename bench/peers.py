"""What people would use instead of a bundle, each in a process of its own, asked the same requests.

Thread pools of several libraries in one process would wait for each other; ``bench.peer_process`` is the other side.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from delrec_lite import machine
from delrec_lite.errors import DelrecError, UsageError, did_you_mean
from delrec_lite.llm.precision_choice import bf16_is_native, limits
from delrec_lite.spinning import users_environment

# Default of the seconds that a peer may compute.
SECONDS = 120.0
# Between two looks at the clock while a peer computes.
WATCH_S = 0.2
PEERS = {
    "transformers fp32": "one forward pass over the paper's prompt, title-mean of the last position",
    "transformers bf16": "the same in bfloat16",
    "transformers generate": "the paper's prompt, an answer of at most 16 tokens written greedily, in {precision}",
    "optimum, ONNX": "optimum's ORTModelForCausalLM in float32, one forward pass over the paper's prompt; it gives no "
    "hidden states, so a title's score is the mean of its tokens' logits at the last position, which is title-mean",
    "llama-cpp-python, base": "Llama.create_completion on the base model's GGUF as distributed, the paper's prompt",
    "llama-cpp-python, bundle": "Llama.create_completion on the bundle's own GGUF, its stock prompt of titles",
    "llama.cpp, titles": "one evaluation by llama.cpp of the paper's prompt in words, on the bundle's own GGUF",
    "teacher, ONNX": "the conventional recommender alone, in ONNX Runtime: the floor",
}


class BudgetSpentError(DelrecError):
    """A peer has no time left."""


def native_bf16() -> bool:
    """Whether bf16 is known to be native on this CPU; emulated it shows nothing of a peer."""
    return bf16_is_native(machine.cpu_features(), limits()) is True


def torch_precision(name: str) -> str:
    """The torch type in which a peer of transformers computes."""
    return "bfloat16" if native_bf16() and not name.endswith("fp32") else "float32"


def description(name: str) -> str:
    """What a peer does."""
    return PEERS[name].format(precision=torch_precision(name))


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
        seconds: That it may compute, with its start. If they end during the start, every request is refused.

    Raises:
        UsageError: The peer needs a file that is not there.
        DelrecError: Its process died; gives its last message.
    """

    def __init__(
        self, name: str, bundle: Any, base: Mapping[str, str], threads: Sequence[int], seconds: float = SECONDS
    ) -> None:
        if name not in PEERS:
            raise UsageError(f"no peer is called {name!r}", did_you_mean(name, PEERS))
        self.name, self.bundle, self.seconds = name, bundle, seconds
        self.threads, self.bytes, self.peak_rss_bytes = 0, 0, 0
        self._spent, self._since, self._reserve = 0.0, 0.0, 0.0
        self._closed = threading.Event()
        command = [sys.executable, "-m", "delrec_lite.bench.peer_process"]
        quant = bundle.manifest["model"].get("quant") if bundle.holds_gguf else None  # else the bundle's first
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=users_environment(),
            start_new_session=True,  # so that what it starts is ended with it
        )
        threading.Thread(target=self._watch, name=f"delrec-{name}", daemon=True).start()
        try:
            facts = self._ask(
                {
                    "peer": name,
                    "bundle": str(bundle.folder),
                    "quant": quant,
                    "base": dict(base),
                    "threads": list(threads),
                    "seconds": seconds,
                }
            )
            self.threads, self.bytes = int(facts["threads"]), int(facts["bytes"])
        except BudgetSpentError:
            self._spent = seconds
        except BaseException:
            self._kill()
            raise

    @property
    def seconds_left(self) -> float:
        """Of its time; 0 or less: its process is ended."""
        since = self._since
        return self.seconds - self._spent - (time.monotonic() - since if since else 0.0)

    def start_stage(self, stages: int) -> None:
        """Divide the time left between the stage that begins and those after it, ``stages`` in all."""
        self._reserve = max(0.0, self.seconds_left) * (1 - 1 / stages)

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        candidates: Sequence[str] | None = None,
        *,
        session: str | None = None,  # noqa: ARG002 - peers have no sessions
    ) -> Answer:
        """As ``Recommender.recommend``; a peer may return fewer than ``k``.

        Raises:
            BudgetSpentError: Its time, or this stage's share of it, is spent.
        """
        if self.seconds_left <= self._reserve:
            raise BudgetSpentError(f"{self.name} has no time left", "give it more with --peer-seconds")
        answer = self._ask({"history": list(history), "candidates": None if candidates is None else list(candidates)})
        return Answer(answer["titles"][:k], {}, int(answer["tokens"]))

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()  # its loop ends with its lines
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._kill()

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S):
            if self.seconds_left <= 0:
                self._kill()
                return

    def _kill(self) -> None:
        """End the process and what it started, such as optimum's export."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        reply = ""
        self._since = time.monotonic()
        try:
            with suppress(BrokenPipeError):  # the process has ended
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()
                reply = self._process.stdout.readline()
        except BaseException:
            self._kill()
            raise
        finally:
            self._spent, self._since = self._spent + time.monotonic() - self._since, 0.0
        if not reply and self.seconds_left <= 0:
            raise BudgetSpentError(
                f"{self.name} was not done after {self.seconds:.0f} s", "give it more with --peer-seconds"
            )
        if not reply:
            assert self._process.stderr is not None
            why = (self._process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise DelrecError(f"the peer {self.name} failed: {why}", "leave it out, or install what it names")
        answer: dict[str, Any] = json.loads(reply)
        self.peak_rss_bytes = answer.get("peak_rss_bytes", self.peak_rss_bytes)
        if answer.get("spent"):
            raise BudgetSpentError(answer["error"], answer["hint"])
        if "error" in answer:
            raise UsageError(f"the peer {self.name} cannot be asked: {answer['error']}", answer["hint"])
        return answer
