"""Writes the item index of a bundle with a large catalogue: fitted to states of some users, measured on others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Ints
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.item_index.fit import choose, fit_maps
from delrec_lite.runtime.item_index.index import write_index

# Below so many items every item is scored: that takes a few milliseconds.
MIN_ITEMS = 50_000
# Histories whose states are fitted, and those on which the index is measured.
FITTED, MEASURED = 512, 128
# With fewer histories nothing is known of the states.
FEWEST = 20
# Every so many-th history is cut to its first items, because users without a long one come too.
SHORT_EVERY, SHORT = 4, 3


def needs_index(bundle: Bundle) -> bool:
    """Whether a bundle gets an index: it ranks a large catalogue by the rows of a GGUF file."""
    prompt_format = bundle.prompt.format
    return (
        bundle.trained >= MIN_ITEMS
        and bundle.holds_gguf
        and prompt_format.ranks_catalogue
        and prompt_format.item_tokens
    )


def build_index(bundle: Bundle, histories: Sequence[Sequence[int] | Ints], folder: Path) -> dict[str, Any]:
    """Write the index of a bundle's trained items.

    Args:
        bundle: With a GGUF file.
        histories: Of different users, oldest first; ``FITTED + MEASURED`` of them are enough.
        folder: Of the bundle to be.

    Returns:
        What the manifest's ``model`` says of it; nothing, and nothing is written, where no index finds enough items.
    """
    from delrec_lite.runtime.engines.llama_trunk import LlamaTrunkEngine

    asked = [_cut(n, history) for n, history in enumerate(histories) if len(history)]
    if len(asked) < FEWEST:
        return {}
    engine = LlamaTrunkEngine(bundle)
    try:
        states = engine.hidden_states(asked)
        measured = np.arange(len(states)) % (1 + FITTED // MEASURED) == 0
        maps = fit_maps(engine.head, states[~measured])
        short = maps.shortened(engine.head)
        choice = choose(engine.head, maps, short, states[measured])
    finally:
        engine.close()
    if choice is None:
        return {}
    return write_index(folder, short[:, : choice.rank], maps.first(choice.rank), choice)


def _cut(n: int, history: Sequence[int] | Ints) -> list[int]:
    items = [int(item) for item in history]
    return items[: 1 + n // SHORT_EVERY % SHORT] if n % SHORT_EVERY == 0 else items
