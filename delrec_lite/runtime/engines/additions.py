"""An engine that also reads and scores the items that were added to a bundle."""

from collections.abc import Sequence

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import BundleError, UsageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine, Evaluation
from delrec_lite.runtime.engines.groups import GroupEvaluation
from delrec_lite.runtime.engines.wrapper import EngineWrapper
from delrec_lite.runtime.manifest import ADDITION_ROWS, REMEDY
from delrec_lite.runtime.prompting.encoder import Entry


class WithAdditions(EngineWrapper):
    """An engine with a longer catalogue: an added item is read as a vector and scored by another.

    The engine scores the trained items; the hidden state of the same evaluation scores the added ones.

    Args:
        engine: Of the model as exported.
        inputs: Input vector of each added item, or its title's tokens where histories are titles.
        outputs: Output vectors of the added items, float32 ``[added, hidden]``.
        trained: How many items the model has.
    """

    def __init__(self, engine: Engine, inputs: Sequence[Entry], outputs: Floats, trained: int) -> None:
        super().__init__(engine)
        self._inputs, self._outputs = inputs, outputs
        self._trained = trained

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``; the added items' scores follow those of the trained ones."""
        return self.evaluate(requests).scores

    def score_session(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.score_session``."""
        scores, _, computed = self.evaluate([request], session)
        return scores[0], computed

    def evaluate(self, requests: Sequence[Sequence[Entry]], session: str | None = None) -> Evaluation:
        """See ``Engine.evaluate``."""
        scores, states, computed = super().evaluate(requests, session)
        return Evaluation(np.concatenate([scores, states @ self._outputs.T], axis=1), states, computed)

    def item_vectors(self, items: Sequence[int]) -> Floats:
        """See ``Engine.item_vectors``; an added item's is its input vector, or the mean row of its title's tokens."""
        known = [item for item in items if item < self._trained]
        rows = np.empty((len(items), self._outputs.shape[1]), np.float32)
        rows[[item < self._trained for item in items]] = super().item_vectors(known)
        for n, item in enumerate(items):
            if item >= self._trained:
                entry = self._inputs[item - self._trained]
                rows[n] = self.token_vector(entry) if isinstance(entry, tuple) else entry
        return rows

    def evaluate_group(
        self, requests: Sequence[Sequence[Entry]], sessions: Sequence[str | None], states: bool = False
    ) -> GroupEvaluation:
        """See ``GroupEngine.evaluate_group``; the added items' scores need the states in any case."""
        group = super().evaluate_group(requests, sessions, states=True)
        return group._replace(scores=np.concatenate([group.scores, group.states @ self._outputs.T], axis=1))

    def scores_of(self, state: Floats, items: Ints) -> Floats:
        """See ``StateEngine``."""
        added = items >= self._trained
        scores = np.empty(len(items), np.float32)
        scores[~added] = super().scores_of(state, items[~added])
        scores[added] = self._outputs[items[added] - self._trained] @ state
        return scores

    def translated(self, request: Sequence[Entry]) -> list[Entry]:
        """The request with added items replaced by their inputs."""
        last = self._trained + len(self._inputs) - 1
        translated: list[Entry] = []
        for entry in request:
            if isinstance(entry, int | np.integer) and entry >= self._trained:
                if entry > last:
                    raise UsageError(f"no item has the index {entry}", f"items are 0 to {last}")
                translated.append(self._inputs[entry - self._trained])
            else:
                translated.append(entry)
        return translated


def with_additions(engine: Engine, bundle: Bundle) -> Engine:
    """The engine, wrapped where the bundle has added items.

    Raises:
        BundleError: Their vectors cannot be read or do not fit; the engine is closed.
    """
    if not bundle.holds_additions:
        return engine
    path, count = bundle.folder / ADDITION_ROWS, len(bundle.items.ids) - bundle.trained
    try:
        rows = np.load(path, allow_pickle=False)
        if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[:2] != (2, count):
            raise ValueError(f"{rows.dtype} {rows.shape} for {count} items")
        width = bundle.manifest["model"].get("hidden", rows.shape[2])
        if rows.shape[2] != width or not np.isfinite(rows).all():
            raise ValueError(f"rows of {rows.shape[2]} numbers for a model of width {width}, or with NaN or infinity")
    except (OSError, ValueError, EOFError) as error:
        engine.close()
        raise BundleError(f"{path} cannot be read: {error}", REMEDY) from error
    inputs = bundle.added_tokens if bundle.prompt.format.history_format.titles else list(rows[0])
    return WithAdditions(engine, inputs, rows[1], bundle.trained)
