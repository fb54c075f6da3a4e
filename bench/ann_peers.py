"""The item index beside libraries of approximate search: ``python -m delrec_lite.bench.ann_peers BUNDLE --out FILE``.

All search the same grown catalogue (``bench.grown``) with hidden states of real requests. What a library finds is
scored exactly afterwards, as the index does it; its effort is raised until it finds 99% of the first ten. Libraries
that are not installed are left out: ``pip install usearch hnswlib faiss-cpu``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.ann_index import divided
from delrec_lite.bench.grown import grown_rows, real_rows
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import requests_of
from delrec_lite.data.types import Floats, Ints
from delrec_lite.evaluation.best import best
from delrec_lite.machine import cores_allowed
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.item_index.fit import choose, fit_maps
from delrec_lite.runtime.recommender import Recommender

K, RECALL = 10, 0.99
# Neighbours of a graph's node, and the effort with which it is built.
LINKS, BUILD_EFFORT = 16, 128
EFFORTS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
Search = Callable[[Floats, int], Ints]


@dataclass(frozen=True)
class Peer:
    """A library's index of rows.

    Attributes:
        module: What is imported.
        build: Makes the index of rows with a number of threads, and saves it to a path.
        load: Opens it: a function from a state and an effort to items.
    """

    module: str
    build: Callable[[Floats, int, Path], None]
    load: Callable[[Path, int], Search]


def _lengthened(rows: Floats) -> Floats:
    """Rows with one more number, so that all have the same length and the nearest has the largest product."""
    squares = np.square(rows).sum(1)
    return np.concatenate([rows, np.sqrt(np.maximum(0, squares.max() - squares))[:, None]], 1)


def _build_usearch(rows: Floats, threads: int, path: Path) -> None:
    index = import_module("usearch.index").Index(
        ndim=rows.shape[1], metric="ip", dtype="f16", connectivity=LINKS, expansion_add=BUILD_EFFORT
    )
    index.add(np.arange(len(rows)), rows, threads=threads)
    index.save(str(path))


def _load_usearch(path: Path, width: int) -> Search:
    index = import_module("usearch.index").Index(ndim=width, metric="ip", dtype="f16", connectivity=LINKS)
    index.view(str(path))

    def search(state: Floats, effort: int) -> Ints:
        index.expansion_search = effort
        return np.asarray(index.search(state, min(effort, 256), threads=1).keys, np.int64)

    return search


def _build_hnswlib(rows: Floats, threads: int, path: Path) -> None:
    longer = _lengthened(rows)
    index = import_module("hnswlib").Index(space="l2", dim=longer.shape[1])
    index.init_index(max_elements=len(rows), M=LINKS, ef_construction=BUILD_EFFORT)
    index.add_items(longer, num_threads=threads)
    index.save_index(str(path))


def _load_hnswlib(path: Path, width: int) -> Search:
    index = import_module("hnswlib").Index(space="l2", dim=width + 1)
    index.load_index(str(path))

    def search(state: Floats, effort: int) -> Ints:
        index.set_ef(effort)
        found, _ = index.knn_query(np.append(state, np.float32(0)), k=min(effort, 256), num_threads=1)
        return np.asarray(found[0], np.int64)

    return search


def _build_faiss(rows: Floats, threads: int, path: Path) -> None:
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(threads)
    lists = int(4 * len(rows) ** 0.5)
    index = faiss.index_factory(rows.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:: max(1, len(rows) // (40 * lists))])
    index.add(rows)
    faiss.write_index(index, str(path))


def _load_faiss(path: Path, width: int) -> Search:
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)

    def search(state: Floats, effort: int) -> Ints:
        index.nprobe = effort // 8
        return np.asarray(index.search(state[None], 256)[1][0], np.int64)

    return search


PEERS = {
    "usearch, graph, float16": Peer("usearch", _build_usearch, _load_usearch),
    "hnswlib, graph, float32": Peer("hnswlib", _build_hnswlib, _load_hnswlib),
    "faiss, inverted lists, 8 bits": Peer("faiss", _build_faiss, _load_faiss),
}


def measure_peer(peer: Peer, rows: Floats, states: Floats, top: Ints, threads: int, folder: Path) -> dict[str, Any]:
    """Build, size, load and the first effort that finds enough; milliseconds of one thread, wall and processor."""
    path = folder / peer.module
    start, processor = time.perf_counter(), time.process_time()
    peer.build(rows, threads, path)
    row: dict[str, Any] = {
        "build_s": round(time.perf_counter() - start, 1),
        "build_processor_s": round(time.process_time() - processor, 1),
        "bytes": path.stat().st_size,
    }
    start = time.perf_counter()
    search = peer.load(path, rows.shape[1])
    row["load_s"] = round(time.perf_counter() - start, 3)
    for effort in EFFORTS:

        def found(state: Floats, effort: int = effort) -> Ints:
            items = search(state, effort)
            items = items[items >= 0]
            return items[best(rows[items] @ state, K)]

        row |= {"effort": effort, **timed(found, states, top)}
        if row["recall"] >= RECALL:
            break
    path.unlink()
    return row


def timed(find: Callable[[Floats], Ints], states: Floats, top: Ints) -> dict[str, Any]:
    """How much of the first ten a search finds, and what it takes."""
    find(states[0])
    walls, processors, shares = [], [], []
    for state, expected in zip(states, top, strict=True):
        start, processor = time.perf_counter(), time.process_time()
        items = find(state)
        processors.append((time.process_time() - processor) * 1e3)
        walls.append((time.perf_counter() - start) * 1e3)
        shares.append(len(np.intersect1d(items, expected)) / len(expected))
    return {
        "recall": round(float(np.mean(shares)), 4),
        "ms": round(float(np.median(walls)), 3),
        "processor_ms": round(float(np.median(processors)), 3),
    }


def measure_own(rows: Floats, fitted: Floats, states: Floats, top: Ints) -> dict[str, Any]:
    """The item index over the same rows in memory."""
    start, processor = time.perf_counter(), time.process_time()
    maps = fit_maps(rows, fitted)
    short = maps.shortened(rows)
    choice = choose(rows, maps, short, fitted[::5])
    row: dict[str, Any] = {
        "build_s": round(time.perf_counter() - start, 1),
        "build_processor_s": round(time.process_time() - processor, 1),
    }
    if choice is None:
        return row
    maps, short = maps.first(choice.rank), np.ascontiguousarray(short[:, : choice.rank])

    def found(state: Floats) -> Ints:
        items = best(short @ (state @ maps.states), choice.candidates)
        return items[best(rows[items] @ state, K)]

    facts = {"rank": choice.rank, "candidates": choice.candidates, "bytes": short.nbytes}
    return {**row, **facts, **timed(found, states, top)}


def parser() -> argparse.ArgumentParser:
    """Bundle, data set and size."""
    options = script_parser("ann_peers", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--dataset", type=Path, help="whose test users ask; default: the bundle's stored requests")
    options.add_argument("--items", type=int, default=10**6)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    built_with, asked = divided(requests_of(bundle, options.dataset).split.histories)
    with Recommender.load(options.bundle, exact=True) as recommender:
        fitted, states = (recommender.engine.hidden_states(histories) for histories in (built_with, asked))
    rows = np.concatenate(list(grown_rows(real_rows(bundle), options.items)))
    scores = (rows @ state for state in states)
    top = np.stack([best(values, K) for values in scores])
    every = {"recall": 1.0, **timed(lambda state: best(rows @ state, K), states, top)}
    results = {"every item, float32": every, "item index": measure_own(rows, fitted, states, top)}
    for name, peer in PEERS.items():
        if find_spec(peer.module) is None:
            print(f"  {name} is left out: {peer.module} is not installed", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure_peer(peer, rows, states, top, cores_allowed(), Path(folder))
        print({name: results[name]}, file=sys.stderr)
    write_json({**stamp(), "items": options.items, "results": results}, options.out)


if __name__ == "__main__":
    main()
