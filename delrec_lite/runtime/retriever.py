"""`Retriever`: the teacher in the bundle, for its ranking and as a baseline of the bench; needs onnxruntime alone."""

import json
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, MissingPackageError, UsageError
from delrec_lite.machine import threads_for
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.onnx_session import open_session, padded, run, shapes

FILE = "retriever.onnx"
BATCH = 128


class Retriever:
    """The conventional recommender that was distilled; safe under threads.

    Attributes:
        kinds: Kinds of teacher, such as ``sasrec``; several were averaged.

    Args:
        bundle: With ``retriever.onnx``, see ``is_in``.
        threads: Default: the cores allowed.

    Raises:
        BundleError: There is none, it does not load, or it does not fit the catalogue.
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        path = bundle.folder / FILE
        if not self.is_in(bundle):
            raise BundleError(f"{bundle.folder} holds no {FILE}", "export the run with its teacher")
        self._items = bundle.trained
        self._added = len(bundle.items.ids) - self._items
        self._session = open_session(path, threads_for(threads))
        inputs, outputs = shapes(self._session.get_inputs()), shapes(self._session.get_outputs())
        if set(inputs) != {"items"} or len(inputs["items"]) != 2 or outputs.get("scores", [])[1:] != [self._items]:
            raise BundleError(f"{path} does not score this catalogue", REMEDY)
        try:
            kinds = json.loads(self._session.get_modelmeta().custom_metadata_map["delrec.kinds"])
            self.kinds = tuple(str(kind) for kind in kinds)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path} does not name its kinds of teacher: {error}", REMEDY) from error

    @staticmethod
    def is_in(bundle: Bundle) -> bool:
        """Whether a bundle has a retriever."""
        return FILE in bundle.manifest["files"]

    def scores(self, histories: Sequence[Sequence[int] | Ints]) -> Floats:
        """Scores of the whole catalogue after each history.

        Args:
            histories: Item indices, oldest first, each with at least one trained item; added items are skipped, and of
                the trained ones the newest are read.

        Returns:
            float32 ``[histories, items]``; minus infinity for items that were added after training.

        Raises:
            UsageError: An empty history, or an index outside the catalogue.
        """
        rows = []
        for history in histories:
            row = [int(item) for item in history]
            if row and (min(row) < 0 or max(row) >= self._items + self._added):
                raise UsageError(f"no item has the index {min(row)} or {max(row)}", f"items are 0 to {self._items - 1}")
            rows.append([item for item in row if item < self._items])
            if not rows[-1]:
                raise UsageError("a history holds no item that the teacher knows", "give a trained item")
        scores = np.full((len(rows), self._items + self._added), -np.inf, np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            outputs = run(self._session, ["scores"], {"items": padded([rows[row] for row in batch])})
            scores[batch, : self._items] = outputs[0]
        return scores


def open_retriever(bundle: Bundle) -> Retriever | None:
    """The retriever of a bundle; None where it has none or onnxruntime is missing."""
    if not Retriever.is_in(bundle):
        return None
    with suppress(MissingPackageError):
        return Retriever(bundle, threads=1)  # its layers are too small for more
    return None
