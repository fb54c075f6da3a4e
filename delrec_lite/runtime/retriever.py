"""`Retriever`: the teacher in the bundle, for its opinion and as the floor of the bench; needs onnxruntime alone."""

import json
from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.machine import cores_allowed
from delrec_lite.runtime.bundle import REMEDY, Bundle
from delrec_lite.runtime.onnx_session import open_session, padded, run, shapes

FILE = "retriever.onnx"
TOGETHER = 128


class Retriever:
    """The conventional recommender that was distilled; safe under threads.

    Attributes:
        kinds: ``sasrec``, ``gru4rec``, ``caser``; several were averaged.

    Args:
        bundle: With ``retriever.onnx``, see ``held``.
        threads: Default: the cores allowed.

    Raises:
        BundleError: There is none, it does not load, or it does not fit the catalogue.
        MissingPackageError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        path = bundle.folder / FILE
        if not self.held(bundle):
            raise BundleError(f"{bundle.folder} holds no {FILE}", "export the run with its teacher")
        self._items = len(bundle.items.ids)
        self._session = open_session(path, cores_allowed() if threads is None else threads)
        inputs, outputs = shapes(self._session.get_inputs()), shapes(self._session.get_outputs())
        if set(inputs) != {"items"} or len(inputs["items"]) != 2 or outputs.get("scores", [])[1:] != [self._items]:
            raise BundleError(f"{path} does not score this catalogue", REMEDY)
        try:
            told = json.loads(self._session.get_modelmeta().custom_metadata_map["delrec.kinds"])
            self.kinds = tuple(str(kind) for kind in told)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path} does not say what it is: {error}", REMEDY) from error

    @staticmethod
    def held(bundle: Bundle) -> bool:
        """Whether a bundle has a retriever."""
        return FILE in bundle.manifest["files"]

    def scores(self, histories: Sequence[Sequence[int] | Ints]) -> Floats:
        """Scores of the whole catalogue after each history.

        Args:
            histories: Item indices, oldest first, none empty; the newest that the teacher was trained on are read.

        Returns:
            float32 ``[histories, items]``.

        Raises:
            UsageError: An empty history, or an index outside the catalogue.
        """
        rows = [[int(item) for item in history] for history in histories]
        for row in rows:
            if not row:
                raise UsageError("a history is empty", "give at least one item")
            if min(row) < 0 or max(row) >= self._items:
                raise UsageError(f"no item has the index {min(row)} or {max(row)}", f"items are 0 to {self._items - 1}")
        out = np.empty((len(rows), self._items), np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for at in range(0, len(order), TOGETHER):
            some = order[at : at + TOGETHER]
            out[some] = run(self._session, ["scores"], {"items": padded([rows[row] for row in some])})[0]
        return out
