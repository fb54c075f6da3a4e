"""How a table was evaluated, in words: how many candidates, and over users or interactions."""

from dataclasses import dataclass

from delrec_lite.data.types import CandidateSets, Dataset

PROTOCOLS = ("sampled", "expected_sampled", "full")


@dataclass(frozen=True)
class Setting:
    """How a data set's models are evaluated.

    Attributes:
        candidates: m, the size of a candidate set.
        by_time: The data set is split by time, and each interaction of a part is a question; otherwise each user is.
        repeats: Items that a user had before are ranked and are negatives, too.
    """

    candidates: int
    by_time: bool = False
    repeats: bool = False

    @classmethod
    def of(cls, dataset: Dataset, candidates: CandidateSets) -> "Setting":
        """Of a prepared data set."""
        return cls(candidates.items.shape[1], dataset.cuts is not None, dataset.repeats)

    def title(self, protocol: str) -> str:
        """A protocol as the title of a table: ``15 candidates (1 positive, 14 unseen negatives)``."""
        details = {
            "sampled": f" (1 positive, {self.candidates - 1} {'other items' if self.repeats else 'unseen negatives'})",
            "expected_sampled": ", expected over all candidate sets",
        }
        if protocol in details:
            return f"{self.candidates} candidates{details[protocol]}"
        return "whole catalogue, seen items included" if self.repeats else "whole catalogue"

    def metric(self, name: str, protocol: str = "sampled") -> str:
        """A metric with the number of ranked items: ``HR@1 of 15``, ``HR@10 of all``."""
        return f"{name} of {'all' if protocol == 'full' else self.candidates}"

    def questions(self, split: str = "test") -> str:
        """What the questions of a split are: ``test users``, or ``test interactions``."""
        return f"{split} {'interactions' if self.by_time else 'users'}"
