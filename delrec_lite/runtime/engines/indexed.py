"""An engine with an item index: coarse scores of the whole catalogue, and the exact ones of the best."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import cast

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import install_line
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.additions import with_additions
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.engines.states import CoarseEvaluation, Refinement, StateEngine
from delrec_lite.runtime.engines.wrapper import EngineWrapper
from delrec_lite.runtime.item_index.index import ItemIndex
from delrec_lite.runtime.prompting.encoder import Entry

LOG = logging.getLogger("delrec_lite")


class IndexedEngine(EngineWrapper):
    """Passes every call to an engine, whose scores are exact; ``evaluate_coarse`` asks the index.

    Args:
        engine: Gives hidden states and the scores of some items.
        index: Of the same bundle.
    """

    def __init__(self, engine: StateEngine, index: ItemIndex) -> None:
        super().__init__(engine)
        self._states, self._index = engine, index

    @property
    def is_coarse(self) -> bool:
        """Whether ``evaluate_coarse`` can be called."""
        return True

    def evaluate_coarse(self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None]) -> CoarseEvaluation:
        """See ``CoarseEngine``."""
        states, tokens = self._states.evaluate_states(requests, sessions)
        start = time.perf_counter()
        scores = self._index.scores(states)
        milliseconds = (time.perf_counter() - start) * 1e3
        refinements = [Refinement(self._index.candidates, partial(self._missing, state)) for state in states]
        return CoarseEvaluation(scores, refinements, states, tokens, milliseconds)

    def _missing(self, state: Floats, items: Ints) -> Floats:
        missing: Floats = self._states.scores_of(state, items) - self._index.scores_of(state, items)
        return missing


def open_indexed(bundle: Bundle, name: str, opener: Callable[[], Engine] | None) -> Engine | None:
    """An engine with a bundle's item index; None, with a warning, where the index cannot be used here.

    Args:
        bundle: Opened.
        name: Of the engine.
        opener: Makes a ``StateEngine`` over the bundle; None: this engine cannot be one.

    Raises:
        BundleError: The index or the model cannot be read.
        MissingPackageError: The engine's package is not installed.
    """
    if not ItemIndex.is_in(bundle):
        return None
    if opener is None or find_spec("gguf") is None:
        why = f"{name} reads none" if opener is None else f"it needs the package gguf: {install_line('gguf')}"
        LOG.warning("the item index of %s is not used, so every item is scored: %s", bundle.folder, why)
        return None
    index = ItemIndex.load(bundle)
    return IndexedEngine(cast(StateEngine, with_additions(opener(), bundle)), index)
