"""What the items of recommended lists are compared with: popularity, users, categories, text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from delrec_lite.data.sequences import joined_blocks, lengths_of
from delrec_lite.data.types import Dataset, Floats, Ints
from delrec_lite.evaluation.categories import Categories, features
from delrec_lite.evaluation.metrics import Lists
from delrec_lite.evaluation.sets import ItemSets
from delrec_lite.evaluation.significance import Doubles

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ItemFacts:
    """Facts of a catalogue, from the training part of its data set.

    Attributes:
        counts: Interactions of each item, int64 ``[items]``.
        users: Users who had each item, int64 ``[items]``.
        all_users: Users with any.
        together: The users who had each item of the lists, as sets.
        columns: The features of these items, as sets; None without columns that have categories.
        categories: What calibration compares; None without such a column.
        words: The words of their titles and side texts, as sets; None where there are ``vectors``.
        vectors: Text features of all items, of length 1, float32 ``[items, width]``; None: ``words`` instead.
    """

    counts: Ints
    users: Ints
    all_users: int
    together: ItemSets
    columns: ItemSets | None
    categories: Categories | None
    words: ItemSets | None
    vectors: Floats | None

    @classmethod
    def of(cls, dataset: Dataset, lists: Sequence[Lists], vectors: Floats | None = None) -> "ItemFacts":
        """Of a data set, for the items of some lists.

        Args:
            dataset: Prepared.
            lists: Those whose pairs of items will be compared.
            vectors: Text features, float ``[items, width]``; None: the words of the texts take their place.
        """
        catalog, items = dataset.catalog, len(dataset.catalog)
        chosen = np.unique(np.concatenate([np.empty(0, np.int32), *map(np.ravel, lists)])).astype(np.int64)
        chosen, train = chosen[chosen >= 0], dataset.train()
        words = ([w.lower() for w in _WORD.findall(catalog.descriptions[item])] for item in chosen.tolist())
        by_column = features(catalog.columns)
        return cls(
            dataset.popularity(),
            users_of_items(train, items),
            int((lengths_of(train) > 0).sum()),
            ItemSets.of_users(train, chosen, items),
            ItemSets.of_words((by_column[item] for item in chosen.tolist()), chosen, items) if by_column else None,
            Categories.of(catalog.columns),
            ItemSets.of_words(words, chosen, items) if vectors is None else None,
            None if vectors is None else unit_rows(vectors),
        )

    @property
    def text_source(self) -> str:
        """What the diversity of texts compares, in words."""
        return "words of titles and side texts" if self.vectors is None else "text features of the run"

    def text_distances(self, first: Ints, second: Ints) -> Doubles:
        """1 - cosine of two items' texts: float64 ``[pairs]``."""
        if self.vectors is None:
            assert self.words is not None
            return self.words.cosine_distances(first, second)
        cosines = np.einsum("pd,pd->p", self.vectors[first], self.vectors[second])
        distances: Doubles = 1 - cosines.astype(np.float64)
        return distances


def users_of_items(sequences: Sequence[Ints], items: int) -> Ints:
    """How many users had each item, each user once: int64 ``[items]``."""
    counts, lengths = np.zeros(items, np.int64), lengths_of(sequences)
    for block, joined in joined_blocks(sequences):
        owners = np.repeat(np.arange(block.stop - block.start), lengths[block])
        pairs = np.unique(owners * items + joined)
        counts += np.bincount(pairs % items, minlength=items)
    return counts


def unit_rows(vectors: Floats) -> Floats:
    """The vectors with length 1; zeros stay: float32 ``[n, width]``."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
