"""A recommender that runs elsewhere as teacher: a small network learns to give its ranked lists and stands in for it.

Distillation asks a teacher after every item of every history; a file of lists answers once a user. The stand-in is a
SASRec, fitted on the data as ever and then on the lists; how near it comes is measured on users that it did not see.
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
# Lists that put the item which a user took next first, for more than every second user, were made with it.
SUSPICIOUS = 0.5


def fit_external(
    config: TeacherConfig,
    dataset: Dataset,
    lists: RankedLists,
    console: Console,
    out: Path | None = None,
    device: str = "cpu",
) -> Teacher:
    """Fit a stand-in for the recommender that made the lists.

    Args:
        config: Of kind ``external``; its seed draws the users that are held out.
        dataset: The lists answer its users' training parts.
        lists: See ``read_lists``.
        console: Shows the bars, and warns of lists that seem to know the validation items.
        out: Folder for ``metrics.jsonl`` of the first fit.
        device: Where torch computes; the stand-in is handed back on the CPU.

    Returns:
        The stand-in; ``metrics`` holds ``list_top1`` and ``list_overlap@10``, its agreement with the held-out lists,
        and ``list_top1_before``, what it was before it saw any.

    Raises:
        DataError: Too few lists.
    """
    train = dataset.train()
    asked = [n for n, user in enumerate(lists.users) if len(train[user])]
    if len(asked) < LEAST_LISTS:
        raise DataError(
            f"{len(asked)} users with a history have a list, at least {LEAST_LISTS} are needed",
            "let the recommender answer more users",
        )
    _warn_of_leaks(dataset, lists, console)
    teacher = fit(config, dataset, console, out, device=device)
    teacher.network.to(device)
    order = np.random.default_rng(config.seed).permutation(asked)
    held, learned = np.split(order, [max(1, round(HELD_OUT * len(order)))])
    before = _agreement(teacher, dataset, lists, held)
    seconds = _imitate(teacher.network, dataset, lists, learned, held, console)
    after = _agreement(teacher, dataset, lists, held)
    teacher.network.cpu()
    teacher.metrics = {
        **teacher.metrics,
        "lists": float(len(asked)),
        "list_top1_before": before[0],
        "list_top1": after[0],
        "list_overlap@10": after[1],
        "list_seconds": seconds,
    }
    console.say(
        f"  stand-in: {after[0]:.0%} of {len(held)} held-out lists begin with its first item ({before[0]:.0%} before "
        f"it saw any), {after[1]:.0%} of their first ten are among its own"
    )
    return teacher


def _imitate(
    network: Network, dataset: Dataset, lists: RankedLists, learned: Any, held: Any, console: Console
) -> float:
    """Cross-entropy to the lists at the end of each user's history; the epoch nearest to the held-out ones stays."""
    config, began = network.config, time.monotonic()
    rng = np.random.default_rng([config.seed, 1])
    with torch.random.fork_rng(devices=[]), console.progress("external lists", EPOCHS) as tick:
        torch.manual_seed(config.seed)

        @torch.no_grad()
        def likelihood() -> float:
            entropy: float = _loss(network, dataset, lists, held).item()
            return -entropy

        def validate(_: int, __: float) -> float:
            score: float = likelihood()
            tick(1, f"held-out cross-entropy {-score:.3f}")
            return score

        def batches(_: int) -> list[Any]:
            shuffled = rng.permutation(learned)
            return [shuffled[at : at + config.batch] for at in range(0, len(shuffled), config.batch)]

        epochs = Epochs(
            label="external lists",
            count=EPOCHS,
            patience=PATIENCE,
            batches=batches,
            loss=lambda some: (_loss(network, dataset, lists, some), len(some)),
            lr=config.lr / 2,
        )
        optimiser = torch.optim.AdamW(network.parameters(), lr=epochs.lr, weight_decay=config.weight_decay)
        train_epochs(network, optimiser, epochs, validate, least=likelihood())
    return round(time.monotonic() - began, 2)


def _loss(network: Network, dataset: Dataset, lists: RankedLists, some: Any) -> Any:
    """Mean cross-entropy of the lists ``some``."""
    train, length = dataset.train(), network.config.max_length
    histories = [train[lists.users[n]][-length:] for n in some]
    device = network.items.device
    states = network.states(pad(histories).to(device))
    last = torch.stack([states[row, len(history) - 1] for row, history in enumerate(histories)])
    wanted = torch.zeros(len(histories), len(dataset.catalog))
    for row, n in enumerate(some):
        wanted[row, torch.from_numpy(lists.items[n])] = torch.from_numpy(lists.shares[n])
    return F.cross_entropy(network.scores(last), wanted.to(device))


def _agreement(teacher: Teacher, dataset: Dataset, lists: RankedLists, some: Any) -> tuple[float, float]:
    """Share of lists whose first item the teacher ranks first, and of their first ten that its first ten hold.

    The teacher ranks what a list may hold: items that the user had are left out where the list leaves them out.
    """
    train = dataset.train()
    first, shared = [], []
    for n in some:
        history, own = train[lists.users[n]], lists.items[n]
        scores = teacher.scores([history])[0]
        scores[np.setdiff1d(history, own)] = -np.inf
        top = np.argsort(-scores)[:10]
        first.append(top[0] == own[0])
        shared.append(len(np.intersect1d(top[: len(own)], own[:10])) / min(10, len(own)))
    return float(np.mean(first)), float(np.mean(shared))


def _warn_of_leaks(dataset: Dataset, lists: RankedLists, console: Console) -> None:
    asked = dataset.questions("valid")
    targets = {user: dataset.sequences[user][place] for user, place in reversed(asked.tolist())}
    hits = [
        own[0] == targets[user] for user, own in zip(lists.users.tolist(), lists.items, strict=True) if user in targets
    ]
    if hits and np.mean(hits) > SUSPICIOUS:
        console.say(
            f"  warning: {np.mean(hits):.0%} of the lists begin with the user's validation item; lists must come from "
            "a recommender that was trained on the training part alone"
        )
