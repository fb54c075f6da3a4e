"""`WordTable`: vectors of words, and the words of every item's text; what export writes as `words.npz`."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.words.text import words_in

FILE = "words.npz"


@dataclass(frozen=True)
class WordTable:
    """Words and items.

    Attributes:
        words: All different, as ``words_in`` writes them.
        vectors: One for each word, as whole numbers whose directions count: int8 ``[words, d]``.
        item_words: Indices of the words of all items one after another: int32 ``[n]``.
        lengths: How many of them each item has: int32 ``[items]``.
    """

    words: list[str]
    vectors: npt.NDArray[np.int8]
    item_words: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    @classmethod
    def of(cls, words: Sequence[str], vectors: Floats, texts: Sequence[str]) -> "WordTable":
        """A table from vectors in any unit, float32 ``[words, d]``, and the items' texts."""
        largest = np.abs(vectors).max(1, keepdims=True)
        whole = np.rint(vectors / np.maximum(largest, 1e-12) * 127).astype(np.int8)
        return cls(list(words), whole, np.empty(0, np.int32), np.empty(0, np.int32)).with_items(texts)

    def of_items(self, texts: Sequence[str]) -> "WordTable":
        """The same words with other items."""
        return WordTable(self.words, self.vectors, np.empty(0, np.int32), np.empty(0, np.int32)).with_items(texts)

    def with_items(self, texts: Sequence[str]) -> "WordTable":
        """The same table with more items, behind those that it has.

        Words of theirs that it lacks come to it with a vector of zeros, so that each is near to itself alone.
        """
        found = [dict.fromkeys(words_in(text)) for text in texts]
        fresh = [word for word in dict.fromkeys(word for words in found for word in words) if word not in self._index]
        index = self._index | {word: n for n, word in enumerate(fresh, start=len(self.words))}
        lengths = np.array([len(words) for words in found], np.int32)
        flat = np.array([index[word] for words in found for word in words], np.int32)
        return WordTable(
            [*self.words, *fresh],
            np.concatenate([self.vectors, np.zeros((len(fresh), self.vectors.shape[1]), np.int8)]),
            np.concatenate([self.item_words, flat]),
            np.concatenate([self.lengths, lengths]),
        )

    def find(self, word: str) -> int | None:
        """Index of a word, or of its form with or without a final s; None: the table has neither."""
        forms = (word, word.removesuffix("s"), f"{word}s")
        return next((self._index[form] for form in forms if form in self._index), None)

    def index_of(self, word: str) -> int:
        """As ``find``, for a word that was found."""
        index = self.find(word)
        assert index is not None
        return index

    def similarity(self, words: Sequence[int]) -> Floats:
        """How near each item's text comes to each word: the cosine with its nearest word, from 0.

        Args:
            words: Indices of words.

        Returns:
            float32 ``[words, items]``; 1: the text has the word.
        """
        items = len(self.lengths)
        nearest = np.zeros((len(words), items), np.float32)
        filled = np.flatnonzero(self.lengths)
        if not len(words) or not len(filled):
            return nearest
        starts = (np.cumsum(self.lengths) - self.lengths)[filled]
        used, place = self._used
        cosines = self._units[list(words)] @ self._units[used].T
        cosines[np.equal.outer(np.asarray(words), used)] = 1
        nearest[:, filled] = np.maximum.reduceat(cosines[:, place], starts, axis=1)
        return np.maximum(nearest, 0)

    def in_other_words(self, text: str) -> str:
        """A text whose words are replaced by the nearest ones that no item has; one without a vector stays."""
        others = np.setdiff1d(np.arange(len(self.words)), self._used[0])
        words = []
        for word in words_in(text):
            index = self.find(word)
            near = () if index is None else others[np.argsort(-(self._units[others] @ self._units[index]))[:20]]
            foreign = (self.words[n] for n in near if self.words[n][:4] != word[:4])  # no other form of it
            words.append(next(foreign, word))
        return " ".join(words)

    def nearest(self, word: int, item: int) -> str:
        """The word of an item's text that comes nearest to a word; empty for an item without words."""
        end = int(self.lengths[: item + 1].sum())
        words = self.item_words[end - self.lengths[item] : end]
        if word in words:
            return self.words[word]
        return self.words[words[(self._units[words] @ self._units[word]).argmax()]] if len(words) else ""

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: n for n, word in enumerate(self.words)}

    @cached_property
    def _units(self) -> Floats:
        vectors = self.vectors.astype(np.float32)
        units: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        return units

    @cached_property
    def _used(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The words that some item has, and for each of ``item_words`` its place among them."""
        return np.unique(self.item_words, return_inverse=True)

    def save(self, folder: Path) -> None:
        """Write ``words.npz``, uncompressed."""
        text = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        np.savez(folder / FILE, words=text, vectors=self.vectors, item_words=self.item_words, lengths=self.lengths)

    @classmethod
    def load(cls, path: Path, items: int) -> "WordTable":
        """Read what ``save`` wrote.

        Args:
            path: The file.
            items: How many the bundle was trained with.

        Raises:
            BundleError: It cannot be read or does not fit.
        """
        try:
            with zipfile.ZipFile(path) as content:
                if any(part.compress_type != zipfile.ZIP_STORED for part in content.infolist()):
                    raise ValueError("compressed, so its size in memory is not known")
            with np.load(path, allow_pickle=False) as arrays:
                table = cls(
                    arrays["words"].tobytes().decode().split("\n"),
                    arrays["vectors"],
                    arrays["item_words"],
                    arrays["lengths"],
                )
            table._check(items)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
        return table

    def _check(self, items: int) -> None:
        """Raise a ValueError where the arrays do not fit each other or the catalogue."""
        shapes = self.vectors.ndim, self.item_words.ndim, self.lengths.ndim
        kinds = [array.dtype.name for array in (self.vectors, self.item_words, self.lengths)]
        if shapes != (2, 1, 1) or kinds != ["int8", "int32", "int32"]:
            raise ValueError(f"arrays of {kinds} with {shapes} dimensions")
        if len(self.vectors) != len(self.words) or len(self.lengths) != items:
            raise ValueError(f"{len(self.vectors)} vectors of {len(self.words)} words, {len(self.lengths)} items")
        if (self.lengths < 0).any() or self.lengths.sum() != len(self.item_words):
            raise ValueError("the lengths do not fit the items' words")
        if len(self.item_words) and not 0 <= self.item_words.min() <= self.item_words.max() < len(self.words):
            raise ValueError("an item has a word outside the table")
