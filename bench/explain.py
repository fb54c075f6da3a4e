"""Whether explanations are faithful, and their cost: ``python -m delrec_lite.bench.explain BUNDLE --dataset FOLDER``.

Does leaving out the item that contributes most cost more than leaving out a random one, and how many requests' time
does an explanation take? On the first 200 test users of a prepared data set.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from delrec_lite.bench.report import latency_summary
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import SETTLE_S, requests_of
from delrec_lite.provenance import stamp
from delrec_lite.runtime.explain import explain, faithfulness
from delrec_lite.runtime.held_out import HISTORY
from delrec_lite.runtime.recommender import Recommender

USERS, TIMED = 200, 30


def measure_cost(recommender: Recommender, histories: list[list[str]]) -> dict[str, Any]:
    """A request and its explanation, in turn, over the same histories; milliseconds."""
    samples: dict[str, list[float]] = {"recommend": [], "explain": []}
    for n, history in enumerate([histories[0], *histories]):
        for name, answer in (("recommend", recommender.recommend), ("explain", lambda h: explain(recommender, h))):
            time.sleep(SETTLE_S)
            start = time.perf_counter()
            answer(history)
            samples[name] += [(time.perf_counter() - start) * 1e3] if n else []  # the first is to warm up
    latency: dict[str, Any] = {name: latency_summary(times) for name, times in samples.items()}
    ratio = latency["explain"]["p50"] / latency["recommend"]["p50"]
    raw = {name: [round(ms, 3) for ms in times] for name, times in samples.items()}
    return {"items of a history": HISTORY, "requests' time": round(ratio, 2), **latency, "samples_ms": raw}


def parser() -> argparse.ArgumentParser:
    """Bundle and data set."""
    options = script_parser("explain", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--dataset", type=Path, required=True, help="prepared data set whose test split asks")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    report = stamp()
    with Recommender.load(options.bundle, exact=True) as recommender:
        requests = requests_of(recommender.bundle, options.dataset)
        report["bundle"] = {"name": recommender.bundle.name, "quant": recommender.bundle.manifest["model"]["quant"]}
        report |= asdict(faithfulness(recommender, requests.split.histories[:USERS]))
        histories = [requests.of("cold", n).history for n in range(min(TIMED, len(requests)))]
        report["cost"] = measure_cost(recommender, histories)
    write_json(report, options.out)
    print(json.dumps({key: report[key] for key in ("users", "top", "random", "test")}, indent=1), file=sys.stderr)
    print({name: value for name, value in report["cost"].items() if name != "samples_ms"}, file=sys.stderr)


if __name__ == "__main__":
    main()
