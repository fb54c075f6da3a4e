"""What an item index gives: ``python -m delrec_lite.bench.ann_index BUNDLE --work FOLDER --out FILE``.

A bundle's catalogue is grown (``bench.grown``), and the same cold requests are answered with every item scored and with
the index, in turn, by one and two threads, each in a process of its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.grown import grown_bundle
from delrec_lite.bench.probe import new_process
from delrec_lite.bench.report import latency_summary
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import SETTLE_S, requests_of
from delrec_lite.data.types import Ints
from delrec_lite.errors import UsageError
from delrec_lite.export.item_index import build_index
from delrec_lite.machine import cores_allowed
from delrec_lite.provenance import stamp
from delrec_lite.runtime.answer import Recommendation
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.changing import changing, finish_changed, link_files
from delrec_lite.runtime.item_index.index import ItemIndex
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS, INDEX_MAPS
from delrec_lite.runtime.recommender import Recommender

SAMPLES, WARM_UP = 15, 2
# Of the first ten; the requests on which it is measured, and those with which an index is built at most.
K, RECALL_REQUESTS, BUILT_WITH = 10, 100, 640
SIZES = (10**4, 10**5, 10**6)
THREADS = (1, 2)
# Every how many-th user is asked and does not build the index.
ASKED_EVERY = 4


def divided(histories: Sequence[Sequence[int] | Ints]) -> tuple[list[list[int]], list[list[int]]]:
    """Histories to build an index with, and those of other users to ask with.

    Where there are few, each is there without its newest items, too.
    """
    built_with: list[list[int]] = []
    asked: list[list[int]] = []
    for n, history in enumerate(histories):
        items = [int(item) for item in history]
        shorter = [] if len(histories) >= BUILT_WITH else [items[:end] for end in range(1, len(items))]
        (built_with if n % ASKED_EVERY else asked).extend([items, *shorter])
    return _spread(built_with, BUILT_WITH), _spread(asked, RECALL_REQUESTS)


def _spread(histories: list[list[int]], most: int) -> list[list[int]]:
    places = np.linspace(0, len(histories) - 1, min(most, len(histories))).astype(int)
    return [histories[n] for n in places]


def with_index(bundle: Bundle, histories: Sequence[Sequence[int]]) -> float:
    """Give a bundle an index; the seconds that it took.

    Raises:
        UsageError: No index finds enough of the best items.
    """
    with changing(bundle.folder, None) as (_, target, staging):
        link_files(bundle, staging, set())
        start = time.perf_counter()
        facts = build_index(bundle, histories, staging)
        seconds = time.perf_counter() - start
        if not facts:
            raise UsageError("no index finds enough of the best items", "measure another bundle")
        model = {**bundle.manifest["model"], **facts}
        finish_changed(Bundle(bundle.folder, {**bundle.manifest, "model": model}), staging, target)
    return seconds


def measure_size(
    bundle: Bundle, work: Path, items: int, dataset: Path | None, threads: Sequence[int]
) -> dict[str, Any]:
    """One size of the catalogue: the index, and answers with and without it."""
    built_with, asked = divided(requests_of(bundle, dataset).split.histories)
    grown = grown_bundle(bundle, items, work / f"grown-{items}.delrec")
    seconds = with_index(grown, built_with)
    opened = Bundle.open(grown.folder)
    start = time.perf_counter()
    ItemIndex.load(opened)
    row: dict[str, Any] = {
        "items": items,
        **opened.manifest["model"][INDEX_FACTS],
        "build_s": round(seconds, 1),
        "index_bytes": sum(int(opened.manifest["files"][name]["bytes"]) for name in (INDEX, INDEX_MAPS)),
        "bundle_bytes": sum(int(facts["bytes"]) for facts in opened.manifest["files"].values()),
        "index_load_s": round(time.perf_counter() - start, 3),
        "threads": {str(count): _in_process(grown.folder, asked, count) for count in threads},
    }
    for way in ("exact", "index"):
        request = {"history": [opened.items.titles[item] for item in asked[0]]}
        job = {"bundle": str(grown.folder), "threads": max(threads), "exact": way == "exact", "together": False}
        loads = [new_process({**job, "requests": [request] * 3}) for _ in range(3)]
        row[way] = {
            "load_s": round(min(facts["load"] for facts in loads) / 1e3, 2),
            "peak_rss_bytes": int(loads[0]["peak_rss_bytes"]),
        }
    shutil.rmtree(grown.folder)
    return row


def _in_process(folder: Path, asked: Sequence[Sequence[int]], threads: int) -> dict[str, Any]:
    """``answer_both`` in a process in which numpy has no more threads than the engine."""
    job = json.dumps({"bundle": str(folder), "asked": asked, "threads": threads})
    code = "import json, sys; from delrec_lite.bench.ann_index import answer_both; "
    code += "print(json.dumps(answer_both(**json.load(sys.stdin))))"
    limits = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=job,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **limits},
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer_both(bundle: str, asked: Sequence[Sequence[int]], threads: int) -> dict[str, Any]:
    """The same requests without and with the index: milliseconds, and what the index does not find.

    ``scoring`` is what remains of a request without the evaluation of its history: with the index the phases ``score``
    and ``sort``, without it what the request takes longer than with the index, and these.
    """
    ways = {"exact": True, "index": False}
    opened = {way: Recommender.load(bundle, threads, verify=False, exact=exact) for way, exact in ways.items()}
    titles = opened["exact"].bundle.items.titles
    samples: dict[str, list[float]] = {way: [] for way in ways}
    scoring: dict[str, list[float]] = {way: [] for way in ways}
    found, differences = [], [0.0]
    for n in range(-WARM_UP, max(SAMPLES, len(asked))):
        request = [titles[item] for item in asked[n % len(asked)]]
        answers: dict[str, Recommendation] = {}
        for way, recommender in opened.items():
            time.sleep(SETTLE_S)
            start = time.perf_counter()
            answers[way] = recommender.recommend(request, K)
            if 0 <= n < SAMPLES:
                samples[way].append((time.perf_counter() - start) * 1e3)
        if n < 0:
            continue
        exact, indexed = ({item.id: item.score for item in answers[way].items} for way in ways)
        found.append(len(exact.keys() & indexed.keys()) / len(exact))
        differences += [abs(exact[item] - indexed[item]) for item in exact.keys() & indexed.keys()]
        if n < SAMPLES:
            phases = answers["index"].milliseconds
            scoring["index"].append(phases["score"] + phases["sort"])
            scoring["exact"].append(answers["exact"].milliseconds["prefill"] + answers["exact"].milliseconds["sort"])
            scoring["exact"][-1] -= phases["prefill"]
    for recommender in opened.values():
        recommender.close()
    return {
        f"recall_at_{K}": round(float(np.mean(found)), 4),
        "requests": len(found),
        "largest_difference": float(max(differences)),
        "ms": {way: latency_summary(values) for way, values in samples.items()},
        "scoring_ms": {way: latency_summary(values) for way, values in scoring.items()},
        "samples_ms": {way: [round(ms, 3) for ms in values] for way, values in samples.items()},
    }


def parser() -> argparse.ArgumentParser:
    """Bundle, work folder, data set, sizes and threads."""
    options = script_parser("ann_index", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--work", type=Path, required=True, help="folder for the bundles that are made meanwhile")
    options.add_argument("--dataset", type=Path, help="whose test users ask; default: the bundle's stored requests")
    options.add_argument("--items", help="sizes with commas between them; default: ten thousand to a million")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    opened = Bundle.open(options.bundle)
    bundle = opened.choose(opened.models[0].quant)
    threads = [count for count in THREADS if count <= cores_allowed()]
    rows = []
    for items in [int(n) for n in options.items.split(",")] if options.items else SIZES:
        rows.append(measure_size(bundle, options.work, max(items, bundle.trained), options.dataset, threads))
        print({key: value for key, value in rows[-1].items() if key != "threads"}, file=sys.stderr)
    write_json({**stamp(), "quant": bundle.manifest["model"]["quant"], "rows": rows}, options.out)


if __name__ == "__main__":
    main()
