"""Which layers pay: ``python -m delrec_lite.bench.layers RECIPE --layers 4,2+2,8,5+3,30 --out FILE``.

Trains the recipe with these layers of the base, see ``model.layers``, ranks the test users in training precision,
exports each model and times new users on all bundles in turn. Trained stages stay in a folder of runs for each choice:
an interrupted call continues, and one that is made again measures the times alone.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.bench.timer import WARM_UP
from delrec_lite.bench.workloads import ask, requests_of
from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import Console
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.pipeline.rows import training_precision
from delrec_lite.pipeline.run import Run
from delrec_lite.plots import svg
from delrec_lite.provenance import stamp
from delrec_lite.runtime.recommender import Recommender

Report = dict[str, Any]
WIDTH, HEIGHT = 480, 300
METRIC = "NDCG@10"
LAYERS = "4,8,12,1+1,2+2,3+3,5+3,8+4,30"


def parser() -> argparse.ArgumentParser:
    """Recipe, runs, and the numbers of layers."""
    options = script_parser("layers", __doc__)
    add_recipe(options)
    options.add_argument("--layers", default=LAYERS, help="choices of layers, separated by commas")
    options.add_argument("--repeats", type=int, default=30, help="requests of each bundle")
    options.add_argument("--picture", type=Path, help="an SVG file for accuracy against milliseconds")
    return options


def run_with(recipe: Recipe, layers: str, runs: Path, console: Console, shared: Sequence[Path]) -> Run:
    """A run of the recipe with these layers of its base, in a folder of their own; shipped teachers are used.

    Args:
        recipe: Whose other settings are used.
        layers: As in ``model.layers``.
        runs: Folder of the folders.
        console: Shows each stage.
        shared: Folders of runs whose stages that do not depend on layers are taken.
    """
    dump = recipe.model_dump(mode="json", exclude_unset=True)
    dump.setdefault("model", {})["layers"] = layers
    return Run(Recipe.model_validate(dump), runs / f"layers-{layers}", console, shared=shared)


def cold_milliseconds(bundles: dict[str, Path], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of requests of new users, on all bundles in turn, by the bundle's name."""
    samples: dict[str, list[float]] = {name: [] for name in bundles}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(Recommender.load(path)) for name, path in bundles.items()}
        requests = requests_of(next(iter(opened.values())).bundle)
        for n in range(WARM_UP + repeats):
            for name, recommender in opened.items():
                timing = ask(recommender, requests.of("cold", n))
                if n >= WARM_UP:
                    samples[name].append(round(timing.ms, 3))
    return samples


def picture(report: Report) -> str:
    """NDCG@10 of the whole catalogue, with its interval, against the milliseconds of a new user, as SVG."""
    rows = {row["model"]: row for row in report["rows"] if row["protocol"] == "full"}

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for name, row in rows.items():
            low, high = row["intervals"][METRIC]
            value, ms = row["metrics"][METRIC], float(np.median(report["cold_ms"][name]))
            axes.errorbar(ms, value, [[value - low], [high - value]], fmt="o", color="#3b7dd8", elinewidth=1)
            axes.annotate(name, (ms, value), xytext=(5, 4), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds of a new user")
        axes.set_ylabel(f"{METRIC}, whole catalogue")
        axes.grid(visible=True)

    return svg("layers", WIDTH, HEIGHT, draw)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, rank, export, time, and write the report."""
    options = parser().parse_args(arguments)
    started, console, recipe = stamp(), Console("human"), load_recipe(options.recipe)
    ranks, training, bundles, megabytes = {}, {}, {}, {}
    shared: list[Path] = []
    for name in options.layers.split(","):
        run = run_with(recipe, name, options.runs, console, shared)
        shared = shared or [run.folder]
        ranks[name] = training_precision(run)
        training[name] = {stage: run.stages[stage].seconds for stage in ("distill", "finetune")}
        run.export()
        bundles[name] = run.bundle
        megabytes[name] = round(sum(f.stat().st_size for f in run.bundle.rglob("*") if f.is_file()) / 1e6, 1)
        expected = run.expected(run.dataset.test())
    report = {
        **started,
        "recipe": recipe.dump(),
        "seconds": training,
        "bundle_mb": megabytes,
        "rows": [asdict(row) for name, r in ranks.items() for row in rows_for(name, r, expected)],
        "comparisons": compare_all(ranks, [(name, next(reversed(ranks))) for name in list(ranks)[:-1]], expected),
        "cold_ms": cold_milliseconds(bundles, options.repeats),
        "ranks": {name: r.dump() for name, r in ranks.items()},
    }
    write_json(report, options.out, indent=None)
    if options.picture:
        options.picture.write_text(picture(report), encoding="utf-8")


if __name__ == "__main__":
    main()
