"""Old and new bundle on the newest interactions, which neither was trained on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.console import Console
from delrec_lite.data.extend import Extended
from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.types import Bools, Catalog, Dataset, Floats, Ints, Split, evenly
from delrec_lite.errors import GateError
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import catalogue_ranks
from delrec_lite.evaluation.significance import paired_test
from delrec_lite.runtime.recommender import Recommender

METRICS = ("HR@10", "NDCG@10", "MRR")
DECIDES = "NDCG@10"
# More questions would cost time and hardly change a mean.
MOST = 2000
BATCH = 16


@dataclass(frozen=True)
class Newest:
    """The test questions of an extended data set that are asked of both bundles.

    Attributes:
        dataset: The extended data set.
        questions: User and position of each, int64 ``[questions, 2]``.
        old_users: Users of the data set before.
        old_items: Items of the data set before.
        all_new: Whether the targets came with the update; if none of the test questions did, all are asked.
    """

    dataset: Dataset
    questions: Ints
    old_users: int
    old_items: int
    all_new: bool

    @classmethod
    def of(cls, old: Dataset, extended: Extended) -> "Newest":
        """Choose the questions, at most ``MOST``."""
        dataset = extended.dataset
        questions = dataset.questions("test")
        lengths = lengths_of(dataset.sequences)
        is_new = extended.is_new[(np.cumsum(lengths) - lengths)[questions[:, 0]] + questions[:, 1]]
        chosen = questions[is_new] if is_new.any() else questions
        chosen = chosen[evenly(len(chosen), MOST)]
        return cls(dataset, chosen, len(old.user_ids), len(old.catalog), bool(is_new.any()))

    @cached_property
    def split(self) -> Split:
        """Histories and targets."""
        pairs = self.questions.tolist()
        targets = np.array([self.dataset.sequences[user][position] for user, position in pairs], dtype=np.int64)
        histories = tuple(self.dataset.sequences[user][:position] for user, position in pairs)
        return Split("test", histories, targets, self.dataset.repeats)

    @property
    def groups(self) -> dict[str, Bools]:
        """Questions by whether user and target were there before."""
        is_new_user, is_new_item = self.questions[:, 0] >= self.old_users, self.split.targets >= self.old_items
        return {
            "returning users": ~is_new_user,
            "new users": is_new_user,
            "old items": ~is_new_item,
            "new items": is_new_item,
        }

    def dump(self) -> dict[str, Any]:
        """Who is asked for what, by ids."""
        ids, users = self.dataset.catalog.ids, self.dataset.user_ids
        return {
            "users": [users[user] for user in self.questions[:, 0]],
            "targets": [ids[item] for item in self.split.targets],
            "all_new": self.all_new,
        }


def bundle_ranks(bundle: Path, newest: Newest, console: Console, label: str) -> Ints:
    """Ranks of the targets in the whole catalogue by a bundle, int64 ``[questions]``.

    Items that the bundle does not have are left out of the histories that it reads, and rank behind all others.
    """
    split, catalog = newest.split, newest.dataset.catalog
    ranks: list[Ints] = []
    with Recommender.load(bundle) as recommender, console.progress(label, len(split)) as tick:
        own = _places(recommender.bundle.items.ids, catalog)
        for at in range(0, len(split), BATCH):
            histories = split.histories[at : at + BATCH]
            scores = _scores(recommender, [own[history] for history in histories], own)
            ranks.append(catalogue_ranks(scores, histories, split.targets[at : at + BATCH], split.repeats))
            tick(len(histories))
    return np.concatenate(ranks)


def _places(ids: Sequence[str], catalog: Catalog) -> Ints:
    """The bundle's index of each item, -1 where it has none: int64 ``[items]``."""
    place = {item: n for n, item in enumerate(ids)}
    return np.array([place.get(item, -1) for item in catalog.ids], dtype=np.int64)


def _scores(recommender: Recommender, histories: Sequence[Ints], own: Ints) -> Floats:
    """Scores of the whole catalogue: float32 ``[histories, items]``; all are equal after a history of unknown items."""
    known = [history[history >= 0] for history in histories]
    asked = [n for n, history in enumerate(known) if len(history)]
    scores = np.zeros((len(histories), len(own)), np.float32)
    if asked:
        given = recommender.scores([known[n] for n in asked])
        scores[asked] = np.where(own >= 0, given[:, own.clip(0)], given.min(1, keepdims=True) - 1)
    return scores


@dataclass(frozen=True)
class Comparison:
    """What an update gained.

    Attributes:
        ranks: Of the targets, by bundle: ``old``, ``updated`` and maybe ``anew``.
        newest: The questions.
    """

    ranks: dict[str, Ints]
    newest: Newest

    def mean(self, bundle: str, metric: str = DECIDES) -> float:
        """A metric's mean over the questions."""
        return float(per_user(self.ranks[bundle], metric).mean())

    @property
    def gain(self) -> float:
        """By how much the updated bundle is better."""
        return self.mean("updated") - self.mean("old")

    @property
    def _differences(self) -> Floats:
        """Of each question: updated minus old."""
        updated, old = (per_user(self.ranks[name], DECIDES) for name in ("updated", "old"))
        return updated - old

    def check(self, tolerance: float) -> None:
        """The gate.

        Raises:
            GateError: The updated bundle is worse than the old one, by more than ``tolerance`` and by more than the
                standard error of the difference, which is large where questions are few.
        """
        differences = self._differences
        error = float(differences.std(ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else 0.0
        if self.gain < -max(tolerance, error):
            raise GateError(
                f"the updated bundle's {DECIDES} on {len(self.newest.questions)} newest interactions is "
                f"{self.mean('updated'):.4f}, the old one's {self.mean('old'):.4f}; the old one stays in place",
                "lower update.lr or raise update.replay in the recipe, or train anew: the new rows are not kept, so "
                "give them again",
            )

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        differences = self._differences
        test = paired_test(differences, np.zeros_like(differences))
        figures: dict[str, Any] = {
            "questions": len(self.newest.questions),
            "metrics": {name: self._means(np.ones(len(ranks), bool), name) for name, ranks in self.ranks.items()},
            "gain": {DECIDES: round(self.gain, 5), "test": asdict(test)},
            "groups": {
                group: {"questions": int(rows.sum()), **{name: self._means(rows, name) for name in self.ranks}}
                for group, rows in self.newest.groups.items()
                if rows.any()
            },
        }
        if "anew" in self.ranks:
            anew = self.mean("anew") - self.mean("old")
            figures["gain"]["anew"] = round(anew, 5)
            figures["gain"]["share_of_anew"] = round(self.gain / anew, 4) if anew > 0 else None
        return figures

    def _means(self, rows: Bools, bundle: str) -> dict[str, float]:
        return {m: round(float(per_user(self.ranks[bundle][rows], m).mean()), 5) for m in METRICS}
