"""Peers of the Hugging Face libraries: transformers, which scores or writes an answer, and optimum's ONNX export."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from delrec_lite.bench.peer_prompt import ANSWER_TOKENS, prompt
from delrec_lite.bench.peers import BudgetSpentError
from delrec_lite.errors import DelrecError

# Of a peer's time; its process removes what an unfinished export has written.
EXPORT_SHARE = 0.9


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
        """See ``Peer``; only the last position's logits are computed, which is the faster way to call it."""
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
            tokens = torch.tensor([ids])
            out = self._base.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=ANSWER_TOKENS, do_sample=False
            )
        from delrec_lite.prompts.tokenizer import open_tokenizer

        words = open_tokenizer(self._base.folder / "tokenizer.json").decode(out[0, len(ids) :].tolist())
        nearest = extract(words.strip(), candidates or self._titles, limit=10)
        return [title for title, _, _ in nearest], len(ids) + ANSWER_TOKENS


class Optimum:
    """The base model through optimum and ONNX Runtime, one forward pass a request; logits of all positions come out."""

    def __init__(self, folder: str, exported: str, titles: Sequence[str], seconds: float) -> None:
        import torch

        from delrec_lite.prompts.tasks import TITLE_PREFIX
        from delrec_lite.prompts.tokenizer import open_tokenizer

        _export_once(folder, Path(exported), EXPORT_SHARE * seconds)
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
        tokens = self._torch.tensor([ids])
        with self._torch.no_grad():
            out = self._model(input_ids=tokens, attention_mask=self._torch.ones_like(tokens))
        last = out.logits[0, -1].float().numpy()
        pool = range(len(self._titles)) if candidates is None else [self._places[title] for title in candidates]
        scores = {place: float(last[self._tokens[place]].mean()) for place in pool}
        return [self._titles[place] for place in sorted(pool, key=lambda place: -scores[place])], len(ids)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _export_once(folder: str, target: Path, seconds: float) -> None:
    """Optimum's own export of a Hugging Face folder, once; in another process, whose memory is not this peer's.

    Raises:
        BudgetSpentError: It takes longer than ``seconds``.
    """
    if target.is_dir():
        return
    staging = target.with_name(f"{target.name}.{os.getpid()}.part")
    command = [sys.executable, "-m", "optimum.exporters.onnx", "--model", folder, "--dtype", "fp32"]
    command += ["--task", "text-generation-with-past", str(staging)]
    try:
        export = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
        if export.returncode != 0:
            why = (export.stderr.strip().splitlines() or ["no message"])[-1]
            raise DelrecError(f"optimum could not export {folder}: {why}", "leave this peer out")
        with suppress(OSError):  # another process was faster
            staging.rename(target)
    except subprocess.TimeoutExpired as error:
        raise BudgetSpentError(
            f"optimum's export was not done after {seconds:.0f} s", "give it more with --peer-seconds"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
