"""A million items in training: ``python -m delrec_lite.bench.million_items --out FILE [--dataset FOLDER]``.

Seconds and peak memory of a step of stage 2, by softmax and by what trains the item vectors, with generated items and
random weights of SmolLM2's shape cut to two layers; each in a new process. What the plan says would not fit is left
out. With a prepared data set, also the accuracy of SASRec by its loss, on all test users.
"""

import argparse
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from delrec_lite import machine
from delrec_lite.bench.losses import GBCELoss, GSASRec, SampledSASRec, uniform_sampler
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.training_memory import _peak, _reset, random_model
from delrec_lite.config import FinetuneSection
from delrec_lite.console import QUIET, Console
from delrec_lite.data.store import load_candidates, load_dataset
from delrec_lite.data.types import CandidateSets, Catalog, Dataset
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.significance import paired_test
from delrec_lite.llm.load import Base
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.provenance import stamp
from delrec_lite.softmax import rows
from delrec_lite.softmax.choice import NEGATIVES, Softmax, in_half_precision
from delrec_lite.softmax.negatives import NegativeSampler
from delrec_lite.teacher_kinds.built_in.sasrec import SASRecConfig
from delrec_lite.teacher_kinds.registry import TEACHERS, TeacherKind, register_teacher
from delrec_lite.teachers.contract import Teacher
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.teachers.fit import fit
from delrec_lite.training.adapters import add_adapter
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.finetune import learned_vectors, losses
from delrec_lite.training.optimisers import make_optimiser
from delrec_lite.training.plan import Training, estimate, required
from delrec_lite.training.shapes import find_shape
from delrec_lite.training.step_items import StepItems, trained_rows

ITEMS = (10_000, 100_000, 1_000_000)
# Softmax, and what trains the item vectors: AdamW all of them, or row-wise Adagrad those that are read.
WAYS = (
    ("full", "adamw"),
    ("blocks", "adamw"),
    ("sampled", "adamw"),
    ("sampled", "rows"),
    ("gbce", "adamw"),
    ("gbce", "rows"),
)
USERS, LENGTH = 2000, 60
TEACHER_HIDDEN = 64
# Of recipe beauty, without text: the losses are to be told apart.
SASREC: dict[str, int | float] = {"hidden": 64, "dropout": 0.5, "lr": 0.001, "batch": 256}


def generated(items: int, seed: int = 1) -> Dataset:
    """A data set of so many items, whose popularity falls as in a real log."""
    rng = np.random.default_rng(seed)
    titles = tuple(f"Article {n} of kind {n % 997}, size {n % 13}" for n in range(items))
    ids = tuple(map(str, range(items)))
    sequences = tuple((rng.random(LENGTH) ** 3 * items).astype(np.int64) for _ in range(USERS))
    return Dataset("generated", Catalog(ids, titles), tuple(map(str, range(USERS))), sequences, "none")


def measure_step(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds and bytes of the steps of one way."""
    torch.set_num_threads(job["threads"])
    items, softmax = job["items"], job["softmax"]
    shape = find_shape("smollm2-135m")[0].cut(job["layers"])
    dataset = generated(items)
    started = time.monotonic()
    words: list[int] = np.random.default_rng(0).integers(0, shape.vocabulary, 1 << 16).tolist()

    def encode(text: str) -> list[int]:
        at = zlib.crc32(text.encode()) % (len(words) - 8)
        return words[at : at + 8]

    base = Base(random_model(shape, "fp32", "cpu"), encode, None, "random", Path())
    half = job["trains"] == "rows" and in_half_precision("sampled", items)
    model = ItemLM(base, dataset.catalog.titles, 16, half=half)
    prompts = compile_prompts(DOMAINS["item"], model.vocabulary, encode, None)
    recipe = FinetuneSection(tokens_per_step=job["tokens"], teacher_weight=0.5 if job["teacher"] else 0.0)
    candidates = CandidateSets("valid", np.zeros((0, 15), np.int64), 0)
    sampled: Softmax = "sampled" if softmax == "gbce" else softmax
    context = TrainingContext(
        model, prompts, _teacher(items), dataset, candidates, 50, Path(), QUIET, sampled, job["negatives"]
    )
    add_adapter(model.requires_grad_(False), recipe, 100)
    data = StepItems(context, recipe)
    if softmax == "gbce":
        data.loss = GBCELoss(context, job["tokens"], 1)
        data.loss.draw = uniform_sampler(items, job["negatives"], 1).at  # type: ignore[method-assign]
    learned = learned_vectors(model, prompts)
    step_rows, whole = trained_rows(data, learned, recipe) if job["trains"] == "rows" else (None, learned)
    for p in whole.values():
        p.requires_grad_(True)
    model.tables = {} if step_rows is None else step_rows.tables
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = make_optimiser("adamw", [{"params": list(named.values()), "lr": 1e-3}], "cpu")
    loss_of = losses(context, recipe, 1, data)
    model.train()
    built, built_peak = time.monotonic() - started, _peak("cpu")
    _reset("cpu")
    seconds, figures = [], []
    for step in range(job["steps"]):
        start = time.monotonic()
        optimiser.zero_grad(set_to_none=True)
        trained = named if step_rows is None else {**named, **step_rows.open(step)}
        loss = loss_of(step)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        if step_rows is not None:
            step_rows.step(step, 1.0)
        seconds.append(round(time.monotonic() - start, 3))
        figures.append(round(loss.item(), 4))
    return {
        "seconds": seconds,
        "peak_bytes": _peak("cpu"),
        "loss": figures,
        "built_seconds": round(built, 1),
        "built_peak_bytes": built_peak,
    }


def _teacher(items: int) -> Teacher | Ensemble:
    record = TEACHERS["sasrec"]
    return Teacher(record.build(record.configure(hidden=TEACHER_HIDDEN), items), items)


def planned_bytes(job: dict[str, Any]) -> float:
    """Memory that the plan says a job needs."""
    softmax: Softmax = "sampled" if job["softmax"] == "gbce" else job["softmax"]
    shape = find_shape("smollm2-135m")[0].cut(job["layers"])
    training = Training(
        precision="fp32", tokens=job["tokens"], items=job["items"], teacher=job["teacher"], softmax=softmax
    )
    if job["trains"] == "adamw":  # all vectors with their moments, whatever is scored
        vectors = estimate(shape, Training(precision="fp32", tokens=16, items=job["items"], teacher=False), cuda=False)
        scores = estimate(shape, training, cuda=False).scores
        return required(vectors.total + scores, cuda=False)
    return required(estimate(shape, training, cuda=False).total, cuda=False)


def in_new_process(job: dict[str, Any]) -> dict[str, Any]:
    """``measure_step`` in a process of its own; its last line of errors if it failed."""
    command = [sys.executable, "-m", "delrec_lite.bench.million_items", "--one", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def accuracy(
    folder: Path, epochs: int, negatives: Sequence[int], rates: Sequence[float], console: Console
) -> list[dict[str, Any]]:
    """SASRec by its loss: figures on all test users, paired with the full softmax.

    Args:
        folder: Of a prepared data set.
        epochs: Of each training.
        negatives: Numbers of drawn items.
        rates: Learning rates of row-wise Adagrad, times AdamW's.
        console: Shows the bars.
    """
    dataset, sets = load_dataset(folder), load_candidates(folder)["test"]
    test, popularity, results = dataset.test(), dataset.popularity(), list[dict[str, Any]]()
    ways: list[tuple[str, str, int, float | None]] = [("full", "sasrec", 0, None)]
    for count in negatives:
        ways += [("sampled, rows", "sasrec", count, rate) for rate in rates]
        ways.append(("sampled, adamw", "bench-sampled", count, None))
    ways.append(("gbce, adamw", "bench-gbce", negatives[0], None))
    for name, network in (("bench-sampled", SampledSASRec), ("bench-gbce", GSASRec)):
        register_teacher(TeacherKind(name, name, SASRecConfig, network))
    reference: Any = None
    for loss, kind, count, rate in ways:
        SampledSASRec.sampler = NegativeSampler(popularity, max(count, 1), 1)
        GSASRec.sampler = uniform_sampler(len(popularity), max(count, 1), 1)
        config = TEACHERS[kind].configure(**SASREC, epochs=epochs, patience=epochs, negatives=count)
        rows.RATE, rate_before = rate or rows.RATE, rows.RATE
        try:
            teacher = fit(config, dataset, console)
        finally:
            rows.RATE = rate_before
        ranks = rank_all(teacher.scores, test, sets, batch=64, console=console, label=loss).full
        ndcg, hits = per_user(ranks, "NDCG@10"), per_user(ranks, "HR@10")
        reference = ndcg if reference is None else reference
        results.append(
            {
                "loss": loss,
                "negatives": count,
                "rate": rate,
                "NDCG@10": float(ndcg.mean()),
                "HR@10": float(hits.mean()),
                "relative": float(ndcg.mean() / reference.mean() - 1),
                "against full": vars(paired_test(ndcg, reference)) if results else None,
                "validation": teacher.metrics,
            }
        )
        console.say(
            f"  {loss} {count} {rate or ''}: NDCG@10 {results[-1]['NDCG@10']:.4f}, {results[-1]['relative']:+.1%}"
        )
    return results


def parser() -> argparse.ArgumentParser:
    """Sizes of the steps, and the data set of the accuracy."""
    options = script_parser("million_items", __doc__)
    options.add_argument("--items", default=",".join(map(str, ITEMS)), help="sizes, separated by commas")
    options.add_argument("--tokens", type=int, default=800, help="item tokens of a step")
    options.add_argument("--negatives", type=int, default=NEGATIVES, help="drawn for a step")
    options.add_argument("--layers", type=int, default=2, help="of the base")
    options.add_argument("--steps", type=int, default=4, help="timed; the first one is warm-up")
    options.add_argument("--threads", type=int, default=machine.cores_allowed())
    options.add_argument("--without-teacher", action="store_true", help="the next item alone is the target")
    options.add_argument("--dataset", type=Path, help="a prepared data set, for the accuracy of SASRec")
    options.add_argument("--epochs", type=int, default=32, help="of SASRec")
    options.add_argument("--drawn", default="256,1024", help="negatives of SASRec, separated by commas")
    options.add_argument("--rates", default="10,30", help="of rows, times AdamW's, separated by commas")
    options.add_argument("--one", help=argparse.SUPPRESS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way, then the accuracy; the report is written after each."""
    options = parser().parse_args(arguments)
    if options.one:
        print(json.dumps(measure_step(json.loads(options.one))))
        return
    console, report = Console("human"), {**stamp(), "memory": machine.memory_limit_bytes(), "steps": [], "accuracy": []}
    for items in map(int, filter(None, options.items.split(","))):
        for softmax, trains in WAYS:
            job = {
                "items": items,
                "softmax": softmax,
                "trains": trains,
                "tokens": options.tokens,
                "negatives": options.negatives,
                "layers": options.layers,
                "steps": options.steps,
                "threads": options.threads,
                "teacher": softmax != "gbce" and not options.without_teacher,
            }
            planned = planned_bytes(job)
            fits = not report["memory"] or planned < report["memory"]
            measured = in_new_process(job) if fits else {"left_out": "planned to need more memory than there is"}
            report["steps"].append({**job, "planned_bytes": planned, **measured})
            console.say(f"  {items:,} items, {softmax}, {trains}: {json.dumps(measured)[:160]}")
            write_json(report, options.out)
    if options.dataset:
        report["epochs"] = options.epochs
        drawn, rates = list(map(int, options.drawn.split(","))), list(map(float, options.rates.split(",")))
        report["accuracy"] = accuracy(options.dataset, options.epochs, drawn, rates, console)
        write_json(report, options.out)


if __name__ == "__main__":
    main()
