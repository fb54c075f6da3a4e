"""An external recommender as teacher: a small network, the stand-in, is trained on its ranked lists.

Distillation needs a teacher's scores after every item of every history; a file has one list a user. The stand-in is a
SASRec, fitted on the data like any teacher and then on the lists; its agreement is measured on held-out users.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from delrec_lite.console import Console
from delrec_lite.data.lists import RankedLists
from delrec_lite.data.types import Dataset
from delrec_lite.errors import DataError
from delrec_lite.teacher_kinds.settings import TeacherConfig
from delrec_lite.teachers.contract import Network, Teacher, pad
from delrec_lite.teachers.epochs import Epochs, train_epochs
from delrec_lite.teachers.fit import fit

HELD_OUT = 0.1
LEAST_LISTS = 20
EPOCHS = 30
PATIENCE = 4
# If more than this share of the lists begin with the user's validation item, they were made with it.
SUSPICIOUS = 0.5


def fit_external(
    config: TeacherConfig,
    dataset: Dataset,
    lists: RankedLists,
    console: Console,
    out: Path | None = None,
    device: str = "cpu",
    features: Any | None = None,
) -> Teacher:
    """Fit a stand-in for the recommender that wrote the lists.

    Args:
        config: Of kind ``external``; its seed chooses the held-out users.
        dataset: The lists are for the training parts of its users.
        lists: See ``read_lists``.
        console: Shows the bars, and a warning if the lists seem to be made with the validation items.
        out: Folder for ``metrics.jsonl`` of the first fit.
        device: Where torch computes; the stand-in is returned on the CPU.
        features: Text features of the items, see ``fit``.

    Returns:
        The stand-in; ``metrics`` holds ``list_top1`` and ``list_overlap@10``, its agreement with the held-out lists,
        and ``list_top1_before``, the first of these before training on the lists.

    Raises:
        DataError: Too few lists.
    """
    train = dataset.train()
    answered = [n for n, user in enumerate(lists.users) if len(train[user])]
    if len(answered) < LEAST_LISTS:
        raise DataError(
            f"{len(answered)} users with a history have a list, at least {LEAST_LISTS} are needed",
            "write lists for more users",
        )
    _warn_of_leaks(dataset, lists, console)
    teacher = fit(config, dataset, console, out, device=device, features=features)
    teacher.network.to(device)
    order = np.random.default_rng(config.seed).permutation(answered)
    held_out, training = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    before = _agreement(teacher, dataset, lists, held_out)
    seconds = _imitate(teacher.network, dataset, lists, training, held_out, console)
    after = _agreement(teacher, dataset, lists, held_out)
    teacher.network.cpu()
    teacher.metrics = {
        **teacher.metrics,
        "lists": float(len(answered)),
        "list_top1_before": before[0],
        "list_top1": after[0],
        "list_overlap@10": after[1],
        "list_seconds": seconds,
    }
    console.say(
        f"  stand-in: {after[0]:.0%} of {len(held_out)} held-out lists begin with its first item "
        f"({before[0]:.0%} before training on lists), {after[1]:.0%} of their first ten are in its first ten"
    )
    return teacher


def _imitate(
    network: Network, dataset: Dataset, lists: RankedLists, training: Any, held_out: Any, console: Console
) -> float:
    """Train on the lists, by cross-entropy at the end of each user's history; held-out lists choose the epoch."""
    config, start = network.config, time.monotonic()
    rng = np.random.default_rng([config.seed, 1])
    with torch.random.fork_rng(devices=[]), console.progress("external lists", EPOCHS) as tick:
        torch.manual_seed(config.seed)

        @torch.no_grad()
        def likelihood() -> float:
            entropy: float = _loss(network, dataset, lists, held_out).item()
            return -entropy

        def validate(_: int, __: float) -> float:
            score: float = likelihood()
            tick(1, f"held-out cross-entropy {-score:.3f}")
            return score

        def batches(_: int) -> list[Any]:
            shuffled = rng.permutation(training)
            return [shuffled[at : at + config.batch] for at in range(0, len(shuffled), config.batch)]

        epochs = Epochs(
            label="external lists",
            count=EPOCHS,
            patience=PATIENCE,
            batches=batches,
            loss=lambda numbers: (_loss(network, dataset, lists, numbers), len(numbers)),
            lr=config.lr / 2,
        )
        optimiser = torch.optim.AdamW(network.parameters(), lr=epochs.lr, weight_decay=config.weight_decay)
        train_epochs(network, optimiser, epochs, validate, best_score=likelihood())
    return round(time.monotonic() - start, 2)


def _loss(network: Network, dataset: Dataset, lists: RankedLists, numbers: Any) -> Any:
    """Mean cross-entropy of the lists with these numbers."""
    train, length = dataset.train(), network.config.max_length
    histories = [train[lists.users[n]][-length:] for n in numbers]
    device = network.items.device
    states = network.states(pad(histories).to(device))
    last = torch.stack([states[row, len(history) - 1] for row, history in enumerate(histories)])
    targets = torch.zeros(len(histories), len(dataset.catalog))
    for row, n in enumerate(numbers):
        targets[row, torch.from_numpy(lists.items[n])] = torch.from_numpy(lists.shares[n])
    return F.cross_entropy(network.scores(last), targets.to(device))


def _agreement(teacher: Teacher, dataset: Dataset, lists: RankedLists, numbers: Any) -> tuple[float, float]:
    """Share of lists whose first item the teacher ranks first, and of their first ten items in its first ten.

    The teacher ranks the items that a list may hold: those of the history are left out if the list leaves them out.
    """
    train = dataset.train()
    first, shared = [], []
    for n in numbers:
        history, ranked = train[lists.users[n]], lists.items[n]
        scores = teacher.scores([history])[0]
        scores[np.setdiff1d(history, ranked)] = -np.inf
        top = np.argsort(-scores)[:10]
        first.append(top[0] == ranked[0])
        shared.append(len(np.intersect1d(top[: len(ranked)], ranked[:10])) / min(10, len(ranked)))
    return float(np.mean(first)), float(np.mean(shared))


def _warn_of_leaks(dataset: Dataset, lists: RankedLists, console: Console) -> None:
    questions = dataset.questions("valid")
    targets = {user: dataset.sequences[user][place] for user, place in reversed(questions.tolist())}
    hits = [
        ranked[0] == targets[user]
        for user, ranked in zip(lists.users.tolist(), lists.items, strict=True)
        if user in targets
    ]
    if hits and np.mean(hits) > SUSPICIOUS:
        console.say(
            f"  warning: {np.mean(hits):.0%} of the lists begin with the user's validation item; lists must come from "
            "a recommender that was trained on the training part alone"
        )
