"""Trains a teacher: softmax over the catalogue at every position, early stopping on validation users."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from delrec_lite.console import Console
from delrec_lite.data.types import Dataset, Ints, Split
from delrec_lite.data.windows import windows
from delrec_lite.errors import DataError
from delrec_lite.evaluation.choosing import whole_catalogue
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import catalogue_ranks
from delrec_lite.files import write_atomic
from delrec_lite.softmax.negatives import NegativeSampler
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teacher_kinds.settings import TeacherConfig
from delrec_lite.teachers.contract import Network, Teacher, pad
from delrec_lite.teachers.epochs import Epochs, train_epochs
from delrec_lite.teachers.step_rows import StepRows, trained_vectors
from delrec_lite.teachers.text import add_text, bake_text, shared_vectors

METRICS = "metrics.jsonl"
CHOOSES = "expected_ndcg@10"  # with many validation users: "ndcg@10", see ``evaluation.choosing``
VALIDATION_USERS = 4000  # more would cost time and hardly change the choice of the best epoch
CANDIDATES = 15
# Scores of validation users that are in memory at once: half a gigabyte.
SCORES_AT_ONCE = 1 << 27


def fit(
    config: TeacherConfig,
    dataset: Dataset,
    console: Console,
    out: Path | None = None,
    time_limit_s: float | None = None,
    device: str = "cpu",
    features: Any | None = None,
    trained: Network | None = None,
) -> Teacher:
    """Train on the training part of every sequence and return the weights of the best epoch on validation items.

    The same seed on the same machine gives the same teacher, unless the time limit ends training.

    Args:
        config: Kind, size and training.
        dataset: Its validation targets choose the epoch; its test targets are never read.
        console: Shows the bar: epochs, validation NDCG@10, time left.
        out: Folder for ``metrics.jsonl``, one line an epoch.
        time_limit_s: Training stops after the epoch that passes it.
        device: Where torch computes; the teacher is returned on the CPU.
        features: Text features of the items, float32 ``[items, d]``: an item's vector is then the sum of a learned
            offset and a linear map of them; the teacher that is returned has the sums as its item vectors.
        trained: A trained network of the same catalogue to go on from, in place of a new one; its weights stay if no
            epoch is better on the validation users.

    Returns:
        The teacher; ``metrics`` has on its validation users ``expected_ndcg@10`` (among 15
        candidates, expected over all candidate sets), ``ndcg@10`` and ``hr@10`` (whole catalogue without the
        history), and ``epoch`` and ``seconds``; the first or the second chose the epoch, see ``evaluation.choosing``.

    Raises:
        DataError: Nothing to train on.
        DelrecError: The loss is not a number.
    """
    sequences = [s for s in dataset.train() if len(s) > 1]
    if not sequences:
        raise DataError("no training sequence has two items", "use a data set with longer sequences")
    validation = _validation_users(dataset.valid(), config.seed)
    chooses = "ndcg@10" if whole_catalogue(len(dataset.valid())) else CHOOSES
    expected = ExpectedSampledMetrics.of(validation, len(dataset.catalog), CANDIDATES)
    start = time.monotonic()
    with torch.random.fork_rng(devices=[]), console.progress(config.kind, config.epochs) as tick:
        torch.manual_seed(config.seed)
        network = TEACHERS[config.kind].build(config, len(dataset.catalog)) if trained is None else trained
        if features is not None:
            add_text(network, features)
        network.to(device)
        optimiser, rows = _optimiser(network, dataset)
        teacher, lines = Teacher(network, len(dataset.catalog)), list[dict[str, float]]()

        def validate(epoch: int, loss: float) -> float:
            figures = _figures(teacher, validation, expected)
            lines.append({"epoch": epoch, "loss": loss, **figures, "seconds": round(time.monotonic() - start, 2)})
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                write_atomic(out / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
            tick(1, f"validation NDCG@10 {figures['ndcg@10']:.4f}")
            console.track(f"teacher/{config.kind}", epoch, lines[-1])
            return figures[chooses]

        epochs = Epochs(
            label=config.kind,
            count=config.epochs,
            patience=config.patience,
            batches=lambda epoch: list(_batches(sequences, config, epoch)),
            loss=partial(_loss, network, rows),
            lr=config.lr,
            lr_factor=partial(_factor, epochs=config.epochs),
            clip=1.0,
        )
        unchanged = -math.inf if trained is None else _figures(teacher, validation, expected)[chooses]
        best = train_epochs(
            network,
            optimiser,
            epochs,
            validate,
            unchanged,
            is_over=lambda: time_limit_s is not None and lines[-1]["seconds"] >= time_limit_s,
        )
    if features is not None:
        bake_text(network)
    network.cpu()
    chosen = lines[best - 1] if best else {"epoch": 0, **_figures(teacher, validation, expected)}
    teacher.metrics = {name: value for name, value in chosen.items() if name != "loss"}
    teacher.metrics["seconds"] = round(time.monotonic() - start, 2)
    return teacher


def _optimiser(network: Network, dataset: Dataset) -> tuple[Any, StepRows | None]:
    """The optimiser of all parameters, and it again where it trains item vectors row by row, with sampled negatives."""
    config, items = network.config, len(dataset.catalog)
    groups = _groups(network)
    negatives = network.drawn_negatives(items)
    if negatives:
        vectors = network.get_parameter(trained_vectors(network))
        for group in groups:
            group["params"] = [p for p in group["params"] if p is not vectors]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    if not negatives:
        return adamw, None
    rows = StepRows(network, adamw, NegativeSampler(dataset.popularity(), negatives, config.seed))
    return rows, rows


def _loss(network: Network, rows: StepRows | None, batch: Sequence[Ints]) -> tuple[Any, int]:
    """Mean loss of the next item at every place of the windows, and the number of places."""
    if rows is not None:
        batch = rows.open(batch)
    device = network.items.device
    targets = torch.as_tensor(np.concatenate([w[1:] for w in batch])).to(device)
    read = pad([np.ones(len(w) - 1, dtype=np.int64) for w in batch]).bool().to(device)
    with shared_vectors(network):
        states = network.states(pad([w[:-1] for w in batch]).to(device))[read]
        return network.loss(states, targets), len(targets)


def _batches(sequences: Sequence[Ints], config: TeacherConfig, epoch: int) -> Iterator[list[Ints]]:
    """Windows of ``max_length`` steps, cut at other places in every epoch, in batches of similar length."""
    rng = np.random.default_rng([config.seed, epoch])
    pool = windows(sequences, config.max_length, rng)
    # Sorting noisy lengths keeps padding low without the same batches in every epoch.
    order = np.argsort([len(w) * rng.uniform(0.8, 1.25) for w in pool])
    starts = np.arange(0, len(pool), config.batch)
    rng.shuffle(starts)
    for start in starts:
        yield [pool[n] for n in order[start : start + config.batch]]


def _factor(epochs_done: float, epochs: int) -> float:
    """Share of the highest learning rate: rises over one epoch, then falls to 0 as a cosine."""
    rise = min(1.0, epochs / 2)
    if epochs_done < rise:
        return max(0.01, epochs_done / rise)
    return 0.5 * (1 + math.cos(math.pi * (epochs_done - rise) / (epochs - rise)))


def _groups(network: Network) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for matrices, none for norms and biases."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    free = [p for p in network.parameters() if p.dim() < 2]
    return [
        {"params": decayed, "weight_decay": network.config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def _figures(teacher: Teacher, validation: Split, expected: ExpectedSampledMetrics) -> dict[str, float]:
    """Figures on the validation users."""
    at_once = max(1, SCORES_AT_ONCE // teacher.items)
    parts = [validation.take(range(n, min(len(validation), n + at_once))) for n in range(0, len(validation), at_once)]
    with torch.no_grad(), shared_vectors(teacher.network):
        ranks = [catalogue_ranks(teacher.scores(p.histories), p.histories, p.targets, p.repeats) for p in parts]
    full = np.concatenate(ranks)
    return {
        CHOOSES: float(expected.per_user(full, "NDCG@10").mean()),
        "ndcg@10": float(per_user(full, "NDCG@10").mean()),
        "hr@10": float(per_user(full, "HR@10").mean()),
    }


def _validation_users(split: Split, seed: int) -> Split:
    if len(split) <= VALIDATION_USERS:
        return split
    users = np.random.default_rng(seed).choice(len(split), VALIDATION_USERS, replace=False)
    return split.take([int(u) for u in np.sort(users)])
