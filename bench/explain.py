"""Explanations, true and at what cost: ``python -m delrec_lite.bench.explain BUNDLE DATA OUT``.

Does leaving out the item that contributes most cost more than leaving out a random one, and how many requests' time
does an explanation take? On the first 200 test users of a prepared data set.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delrec_lite.bench.report import summary
from delrec_lite.bench.runner import SETTLE_S
from delrec_lite.bench.workloads import requests_of
from delrec_lite.files import write_whole
from delrec_lite.provenance import stamp
from delrec_lite.runtime.explain import explain, faithfulness
from delrec_lite.runtime.held_out import HISTORY
from delrec_lite.runtime.recommender import Recommender

USERS, TIMED = 200, 30


def cost(recommender: Recommender, histories: list[list[str]]) -> dict[str, Any]:
    """A request and its explanation, in turn, over the same histories; milliseconds."""
    samples: dict[str, list[float]] = {"recommend": [], "explain": []}
    for n, history in enumerate([histories[0], *histories]):
        for name, ask in (("recommend", recommender.recommend), ("explain", lambda h: explain(recommender, h))):
            time.sleep(SETTLE_S)
            start = time.perf_counter()
            ask(history)
            samples[name] += [(time.perf_counter() - start) * 1e3] if n else []  # the first is to warm up
    found: dict[str, Any] = {name: summary(taken) for name, taken in samples.items()}
    ratio = found["explain"]["p50"] / found["recommend"]["p50"]
    raw = {name: [round(ms, 3) for ms in taken] for name, taken in samples.items()}
    return {"items of a history": HISTORY, "requests' time": round(ratio, 2), **found, "samples_ms": raw}


def main() -> None:
    """Measure and write the report."""
    bundle, data, out = map(Path, sys.argv[1:4])
    report = stamp()
    with Recommender.load(bundle) as recommender:
        asked = requests_of(recommender.bundle, data)
        report["bundle"] = {"name": recommender.bundle.name, "quant": recommender.bundle.manifest["model"]["quant"]}
        report |= asdict(faithfulness(recommender, asked.split.histories[:USERS]))
        report["cost"] = cost(recommender, [asked.of("cold", n).history for n in range(min(TIMED, len(asked)))])
    write_whole(out, json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("users", "top", "random", "test")}, indent=1))
    print({name: value for name, value in report["cost"].items() if name != "samples_ms"})


if __name__ == "__main__":
    main()
