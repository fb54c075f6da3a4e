"""Larger catalogues out of a real one: new items near the real ones, in the directions in which those differ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from delrec_lite.bench.catalogue import names_of, staged_copy, write_longer
from delrec_lite.data.types import Floats
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.hybrid import WEIGHT
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.gguf.header import read_header
from delrec_lite.runtime.gguf.rows import OUTPUT, TokenRows
from delrec_lite.runtime.manifest import INSIDE

# How far a new item is from the real one that it is near to, as a share of the difference of two others.
SPREAD = 0.3
BLOCK = 1 << 15


def real_rows(bundle: Bundle) -> Floats:
    """The rows by which a bundle's trained items are scored: float32 ``[trained, hidden]``."""
    rows = TokenRows(bundle.model_path, read_header(bundle.model_path), OUTPUT)
    return rows.rows(np.arange(bundle.trained) + bundle.prompt.item_token_base)


def grown_rows(real: Floats, items: int, seed: int = 0) -> Iterator[Floats]:
    """So many rows, in blocks: first the real ones, then near each of them as many others.

    A new row is a real one and ``SPREAD`` times the difference of two others: so items form clusters, and the rows'
    covariance is that of the real ones, up to its scale. Rows of independent random numbers would be much harder to
    index than any real catalogue.
    """
    rng = np.random.default_rng(seed)
    for at in range(0, items, BLOCK):
        places = np.arange(at, min(at + BLOCK, items))
        first = rng.integers(0, len(real), len(places))
        second = (first + rng.integers(1, len(real), len(places))) % len(real)
        moved = SPREAD * (real[first] - real[second])
        moved[places < len(real)] = 0
        yield real[places % len(real)] + moved


def grown_bundle(bundle: Bundle, items: int, target: Path) -> Bundle:
    """A bundle with so many items, each a row of the model, read as the real item that it is near to; no teacher."""
    staging = staged_copy(bundle, target)
    real = real_rows(bundle)

    def output(kind: Any) -> Any:
        return np.concatenate([gguf.quants.quantize(block, kind) for block in grown_rows(real, items)])

    base = bundle.prompt.item_token_base
    write_longer(bundle.model_path, staging / bundle.model_path.name, base, bundle.trained, items, output)
    names_of(bundle, items, staging)
    model = {key: fact for key, fact in bundle.manifest["model"].items() if key not in {INSIDE, WEIGHT}}
    facts = {key: bundle.manifest[key] for key in ("name", "provenance", "licences")}
    return finish_bundle(staging, target, gated=False, model=model, **facts)
