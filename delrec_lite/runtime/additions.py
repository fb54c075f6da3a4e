"""Items that came after training: recommendable and readable from their titles, without touching the model."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.titles import unique_titles
from delrec_lite.data.types import Floats
from delrec_lite.errors import BundleError, StorageError, UsageError
from delrec_lite.runtime.around import Around
from delrec_lite.runtime.bundle import ADDITION_ROWS, ADDITIONS, REMEDY, Bundle, finish_bundle
from delrec_lite.runtime.engine import Engine, Entry


@dataclass(frozen=True)
class Added:
    """What `add_items` did.

    Attributes:
        folder: The bundle.
        titles: Of the new items, as the catalogue has them now.
        items: How many items it has in all.
    """

    folder: Path
    titles: list[str]
    items: int


class WithAdditions(Around):
    """An engine whose catalogue is longer: an added item is read as a vector and scored by one.

    The trained items' scores are the engine's own; the state that scores the added ones costs a second evaluation
    of the history.

    Args:
        engine: Of the model as exported.
        inputs: What is read of each added item.
        outputs: What scores it, float32 ``[added, hidden]``.
        trained: Items of the model.
    """

    def __init__(self, engine: Engine, inputs: Sequence[Entry], outputs: Floats, trained: int) -> None:
        super().__init__(engine)
        self._inputs, self._outputs = inputs, outputs
        self._trained = trained

    def scores(self, requests: Sequence[Sequence[Entry]]) -> Floats:
        """See ``Engine.scores``; one score more for each added item."""
        asked = [self.translated(request) for request in requests]
        return np.concatenate([self.engine.scores(asked), self.engine.states(asked) @ self._outputs.T], axis=1)

    def step(self, session: str, request: Sequence[Entry]) -> tuple[Floats, int]:
        """See ``Engine.step``."""
        asked = self.translated(request)
        scores, computed = self.engine.step(session, asked)
        return np.concatenate([scores, self._outputs @ self.engine.states([asked])[0]]), computed + self.engine.extent(
            asked
        )[1]

    def translated(self, request: Sequence[Entry]) -> list[Entry]:
        """Added items as what is read of them."""
        last = self._trained + len(self._inputs) - 1
        out: list[Entry] = []
        for entry in request:
            if isinstance(entry, int | np.integer) and entry >= self._trained:
                if entry > last:
                    raise UsageError(f"no item has the index {entry}", f"items are 0 to {last}")
                out.append(self._inputs[entry - self._trained])
            else:
                out.append(entry)
        return out


def with_additions(engine: Engine, bundle: Bundle) -> Engine:
    """The engine, made to know the bundle's added items where there are any.

    Raises:
        BundleError: Their vectors do not read or do not fit; the engine is closed.
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
            raise ValueError(f"rows of {rows.shape[2]} numbers for a model of width {width}, or not all are numbers")
    except (OSError, ValueError, EOFError) as error:
        engine.close()
        raise BundleError(f"{path} does not read: {error}", REMEDY) from error
    inputs = bundle.added_tokens if bundle.prompt.form.history == "titles" else list(rows[0])
    return WithAdditions(engine, inputs, rows[1], bundle.trained)


def add_items(path: str | os.PathLike[str], new: Mapping[str, str], out: Path | None = None) -> Added:
    """Write a bundle with more items; a title that the catalogue has already gets a number behind it.

    Args:
        path: The bundle.
        new: Title of each new item id.
        out: The bundle to write; default: ``path`` itself, replaced as a whole at the last moment.

    Raises:
        UsageError: Nothing to add, or an id that is there already.
        BundleError: ``path`` is no bundle.
        StorageError: The new one cannot be written.
    """
    from delrec_lite.runtime.recommender import Recommender

    target = out or Path(path)
    with Recommender.load(path) as recommender:
        bundle = recommender.bundle
        if not bundle.prompt.form.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and has no catalogue to add to", "name new ones there: --allow-new"
            )
        had = bundle.items
        if known := [item for item in new if item in set(had.ids)]:
            raise UsageError(
                f"{len(known)} of the items are in the catalogue, {known[0]!r} the first", "leave them out of the list"
            )
        if not new:
            raise UsageError("there are no items to add", "give a list of ids and titles")
        titles = list(unique_titles([*had.titles, *new.values()], [*had.popularity, *[0] * len(new)]))
        rows = np.stack([recommender.new_item(title) for title in new.values()], axis=1)
        named: dict[str, Any] = {}
        if bundle.prompt.form.history == "titles":
            named["tokens"] = [*bundle.added_tokens, *map(recommender.new_entry, new.values())]
        if bundle.holds_additions:
            rows = np.concatenate([np.load(bundle.folder / ADDITION_ROWS, allow_pickle=False), rows], axis=1)
    named |= {"ids": [*had.ids[bundle.trained :], *new], "titles": titles[bundle.trained :]}
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        staging.mkdir(parents=True)
        for name in bundle.manifest["files"]:
            if name not in {ADDITIONS, ADDITION_ROWS}:
                _link(bundle.folder / name, staging / name)
        (staging / ADDITIONS).write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
        np.save(staging / ADDITION_ROWS, rows.astype(np.float32), allow_pickle=False)
        kept = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences", "gated")}
        finish_bundle(staging, target, **kept)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}", "free space, or choose another with --out") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Added(target, titles[len(had.titles) :], len(titles))


def _link(source: Path, target: Path) -> None:
    """A second name for a file that nobody changes; a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
