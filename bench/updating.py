"""An update against training anew: ``python -m delrec_lite.bench.updating --log LOG --items ITEMS --work DIR``.

Splits a log by time, trains a small recipe on the first nine tenths, updates it with the last tenth, and trains the
same recipe anew on all of it, but for the last five interactions of each user of the last tenth. The three bundles are
asked for these, each after all that came before. The figures are the share of the gain of training anew that the update
has, and its share of the time. Stages stay in ``--work``, so an interrupted call goes on.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.columns import NO_COLUMNS
from delrec_lite.data.extend import Known, extend
from delrec_lite.data.kept import load_times, source_of
from delrec_lite.data.prepare import prepare_tables
from delrec_lite.data.readers import Interactions, ItemList, parse_columns, read_interactions, read_titles
from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.store import Settings, load_settings
from delrec_lite.data.tables import DETECTED
from delrec_lite.pipeline import generations
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.updates.compare import Comparison, Newest, bundle_ranks
from delrec_lite.pipeline.updates.inputs import NewData
from delrec_lite.pipeline.updates.update import update
from delrec_lite.provenance import stamp

NAME, SEED, LATER = "updating", 1, 0.1
# Of each user of the later part, so many interactions are seen by no training: one would give few questions.
ASKED = 5
# Small, so that three trainings fit into 40 minutes of one core.
RECIPE: dict[str, Any] = {
    "name": NAME,
    "model": {"layers": 6, "max_history": 50},
    "teacher": {"kind": "sasrec", "settings": {"epochs": 12, "hidden": 64, "max_length": 50}},
    "distill": {"epochs": 0.1, "tokens_per_step": 400, "lr": 0.1, "temporal_share": 0.2},
    "finetune": {"epochs": 1.0, "tokens_per_step": 800, "lr": 0.001, "item_lr": 0.002, "teacher_weight": 0.5},
    "update": {"tolerance": 1.0},
}


def parser() -> argparse.ArgumentParser:
    """The log, and how much of it."""
    options = script_parser(NAME, __doc__)
    options.add_argument("--log", type=Path, required=True, help="interactions, in any form that prepare reads")
    options.add_argument("--items", type=Path, required=True, help="titles of its items")
    options.add_argument("--columns", default="", help="names of their columns, as in prepare")
    options.add_argument("--domain", default="movie", help="data.domain of the recipe")
    options.add_argument("--work", type=Path, required=True, help="folder for data sets and runs")
    options.add_argument("--users", type=int, default=1500, help="users drawn from the log; 0: all of them")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe, as JSON")
    return options


def drawn(log: Interactions, users: int) -> Interactions:
    """The rows of so many users, drawn at random."""
    if not users or users >= len(log.user_ids):
        return log
    chosen = np.random.default_rng(SEED).choice(len(log.user_ids), users, replace=False)
    return log.take(np.isin(log.users, chosen))


def by_time(log: Interactions, later: float = LATER) -> tuple[Interactions, Interactions]:
    """The earlier and the later part of a log; equal times stay together."""
    boundary = np.sort(log.times)[int((1 - later) * len(log))]
    return log.take(log.times < boundary), log.take(log.times >= boundary)


def without_newest(log: Interactions, asked: int = ASKED) -> tuple[Interactions, Interactions]:
    """A log without the newest interactions of each user, and these."""
    order = np.lexsort((np.arange(len(log)), log.times, log.users))
    ends = np.cumsum(np.bincount(log.users, minlength=len(log.user_ids)))
    is_newest = np.zeros(len(log), dtype=bool)
    is_newest[order] = ends[log.users[order]] - np.arange(len(log)) <= asked
    return log.take(~is_newest), log.take(is_newest)


def write_log(log: Interactions, path: Path) -> None:
    """A log as Parquet, with the usual names of columns."""
    columns = {
        "user_id": [log.user_ids[n] for n in log.users],
        "item_id": [log.item_ids[n] for n in log.items],
        "timestamp": log.times,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def recipe_of(work: Path, domain: str, changes: Sequence[str]) -> Recipe:
    """The small recipe on the first part's data set, with changes such as ``finetune.epochs=2``."""
    sections = json.loads(json.dumps(RECIPE)) | {"data": {"folder": str(work / "data"), "domain": domain}}
    for change in changes:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = json.loads(value)
    return Recipe.model_validate(sections)


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train, update, train anew and compare."""
    work: Path = options.work
    columns = parse_columns(options.columns)
    first, last = by_time(drawn(read_interactions(options.log, columns), options.users))
    later, asked = without_newest(last)
    titles = read_titles(options.items, columns)
    usual = source_of(parse_columns(""), DETECTED)
    if not (work / "data" / "dataset.json").is_file():
        settings = Settings(k_core=5, m=15, seed=2024)
        prepare_tables(NAME, first, titles, work / "data", settings, console, source=usual)
    new, listed = work / "later.parquet", work / "items.parquet"
    write_log(later, new)
    pyarrow.parquet.write_table(pyarrow.table({"item_id": list(titles), "title": list(titles.values())}), listed)
    recipe, runs, old = recipe_of(work, options.domain, options.set), work / "runs", work / "old.delrec"
    report = _finished(runs / NAME)
    if report is None:
        run = Run(recipe, runs, console, shipped=False)
        run.export()
        first_seconds = {name: stage.seconds for name, stage in run.stages.items()}
        (work / "first.json").write_text(json.dumps(first_seconds), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(run.bundle, old)
        report = update(recipe, runs, NewData(str(new), str(listed)), console, compare_anew=True).report
    assert report is not None
    run = Run(recipe, runs, console, shipped=False)
    bundles = {
        "old": old,
        "updated": run.bundle,
        "anew": run.dataset_folder.parent / generations.ANEW / run.bundle.name,
    }
    newest = questions(run, asked, titles, report)
    comparison = Comparison({name: bundle_ranks(path, newest, console, name) for name, path in bundles.items()}, newest)
    seconds = {name: round(sum(parts.values()), 1) for name, parts in report["seconds"].items()}
    figures = comparison.dump()
    return {
        "users": options.users,
        "rows": {"first": len(first), "later": len(later), "asked": len(asked)},
        **figures,
        "share_of_gain": figures["gain"]["share_of_anew"],
        "seconds_in_all": seconds,
        "share_of_time": round(seconds["update"] / seconds["anew"], 4),
        "seconds_of_first_training": json.loads((work / "first.json").read_text(encoding="utf-8")),
        "ranks": {name: ranks.tolist() for name, ranks in comparison.ranks.items()},
        "update": report,
    }


def questions(run: Run, asked: Interactions, titles: Mapping[str, str], report: Mapping[str, Any]) -> Newest:
    """The interactions that no training has seen, each after all that came before it."""
    folder, dataset = run.dataset_folder, run.dataset
    times = load_times(folder, dataset.interactions)
    assert times is not None
    known = Known(dataset, times, run.candidates, load_settings(folder)[1])
    extended = extend(known, asked, ItemList(dict(titles), {}, NO_COLUMNS))
    lengths = lengths_of(extended.dataset.sequences)
    users = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(users)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pairs = np.stack([users, places], 1)[extended.is_new & (places > 0)]
    before = report["data"]["before"]
    return Newest(extended.dataset, pairs, before["users"], before["items"], all_new=True)


def _finished(run: Path) -> dict[str, Any] | None:
    """The report of an update that an earlier call finished."""
    newest = generations.newest(run)
    if newest is None:
        return None
    report: dict[str, Any] = json.loads((newest.folder / generations.REPORT).read_text(encoding="utf-8"))
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    started = stamp()
    report = {**started, **measure(options, Console("human"))}
    write_json(report, options.out, indent=None)
    shown = ("rows", "questions", "metrics", "gain", "groups", "seconds_in_all", "share_of_gain", "share_of_time")
    print(json.dumps({name: report[name] for name in shown}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
