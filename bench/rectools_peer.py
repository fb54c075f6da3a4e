"""RecTools' SASRec beside ours: ``python -m delrec_lite.bench.rectools_peer RECIPE --out FILE``.

Both train on the same sequences, choose their epoch on the same validation items, and rank the same test users over the
same candidates: those that were drawn, and the whole catalogue. RecTools runs in an environment of its own, which
``make rectools`` makes, with its own defaults and with the sizes of ours. Its default of 3 epochs is not kept: the
epoch with the least validation loss is taken, as its own guide does. Seconds are of one training after another.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import load_recipe
from delrec_lite.console import Console
from delrec_lite.data.sequences import lengths_of
from delrec_lite.data.types import Dataset, Floats
from delrec_lite.errors import DelrecError, MissingPackageError, UsageError
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.machine import cores_allowed
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.fit import fit

PROCESS = Path(__file__).with_name("rectools_process.py")
KIND = "sasrec"
OURS = TEACHERS[KIND].label
# RecTools trains at most so many epochs, and so many without a smaller validation loss.
EPOCHS, PATIENCE, SEED = 100, 10, 1


def settings_of(config: Any) -> dict[str, dict[str, Any]]:
    """RecTools' settings by row: its defaults, and the sizes of our configuration.

    RecTools trains on the newest ``session_max_len`` items of a user alone, where ours cuts all of them into windows:
    it keeps its 100.
    """
    sizes = {
        "n_factors": config.hidden,
        "n_blocks": config.layers,
        "n_heads": config.heads,
        "dropout_rate": config.dropout,
        "batch_size": config.batch,
        "lr": config.lr,
    }
    return {"RecTools SASRec, its defaults": {}, "RecTools SASRec, sizes of ours": sizes}


def parser() -> argparse.ArgumentParser:
    """Recipe, runs, RecTools' Python and the epochs."""
    options = script_parser("rectools_peer", __doc__)
    add_recipe(options, "ml-100k-cpu")
    python = Path("build/rectools-torch/bin/python")
    options.add_argument("--python", type=Path, default=python, help=f"of RecTools' environment; default: {python}")
    options.add_argument("--epochs", type=int, default=EPOCHS, help=f"of RecTools, at most; default: {EPOCHS}")
    options.add_argument("--our-epochs", type=int, help="of ours; default: that of its configuration")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both, rank and write the report."""
    options = parser().parse_args(arguments)
    check_python(options.python)
    started, console = stamp(), Console("human")
    words = sys.argv[1:] if arguments is None else arguments
    run = Run(load_recipe(options.recipe), options.runs, console)
    if run.dataset.cuts is not None or run.dataset.repeats:
        raise UsageError(
            f"{options.recipe} is not split by leave-one-out", "take a recipe whose last items are the test"
        )
    config = TEACHERS[KIND].configure(**({} if options.our_epochs is None else {"epochs": options.our_epochs}))
    test, sets = run.dataset.test(), run.candidates["test"]
    expected = run.expected(test)

    def ranked(label: str, scorer: Any) -> Ranks:
        return rank_all(scorer, test, sets, console=console, label=label)

    begin = time.perf_counter()
    ours = fit(config, run.dataset, console)
    training = round(time.perf_counter() - begin, 2)
    ranks = {OURS: ranked(OURS, ours.scores)}
    facts: dict[str, Any] = {
        OURS: {
            "settings": config.model_dump(),
            "seconds": {"training": training, "ranking": round(ranks[OURS].seconds, 2)},
            "epochs": config.epochs,
            "best_epoch": int(ours.metrics["epoch"]),
        }
    }
    for label, settings in settings_of(config).items():
        console.heading(label)
        scores, fact = peer_scores(run.dataset, settings, options.python, options.epochs)
        asked = scores[run.dataset.questions("test")[:, 0]]
        ranks[label] = ranked(label, in_turn(asked))
        facts[label] = {"settings": settings, **fact}
        console.say(f"  epoch {fact['best_epoch']} of {fact['epochs']}, {fact['seconds']['training']:.0f} s")
    report = {
        **started,
        "command": shlex.join(["python", "-m", "delrec_lite.bench.rectools_peer", *words]),
        "recipe": options.recipe,
        "data": run.prepare().result,
        "setting": asdict(run.setting),
        "threads": cores_allowed(),
        "models": facts,
        "rows": [asdict(row) for label, of_model in ranks.items() for row in rows_for(label, of_model, expected)],
        "comparisons": compare_all(ranks, [(OURS, other) for other in ranks if other != OURS], expected),
        "expected_sampled": expected.dump(),
        "ranks": {label: of_model.dump() for label, of_model in ranks.items()},
    }
    write_json(report, options.out, indent=None)


def check_python(python: Path) -> None:
    """Check that RecTools can be imported.

    Raises:
        MissingPackageError: It cannot.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import rectools.models"], capture_output=True, text=True, check=False
        )
        why = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise MissingPackageError(f"RecTools needs an environment of its own, and {python}: {why}", "make rectools")


def peer_scores(
    dataset: Dataset, settings: Mapping[str, Any], python: Path, epochs: int
) -> tuple[Floats, dict[str, Any]]:
    """Train RecTools' SASRec on all but the test items, and score the catalogue after them.

    Items without an interaction before the test items are unknown to it: their score is minus infinity.

    Returns:
        float32 ``[users, items]``, and what the process says: seconds, epochs, versions.

    Raises:
        DelrecError: The process failed; gives its last line.
    """
    lengths = lengths_of(dataset.sequences) - 1
    with tempfile.TemporaryDirectory() as work:
        log, scores = Path(work) / "log.npz", Path(work) / "scores.npy"
        items = [sequence[:-1] for sequence in dataset.sequences]
        users = np.repeat(np.arange(len(lengths)), lengths)
        places = np.concatenate([np.arange(length) for length in lengths])
        np.savez(log, users=users, items=np.concatenate(items), places=places)
        job = {
            "log": str(log),
            "scores": str(scores),
            "settings": dict(settings),
            "epochs": epochs,
            "patience": PATIENCE,
            "seed": SEED,
            "threads": cores_allowed(),
            "items": len(dataset.catalog),
        }
        done = subprocess.run(
            [python, "-I", PROCESS], input=json.dumps(job), capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DelrecError(
                f"RecTools' process failed: {last}", "make rectools installs the versions that were tried"
            )
        facts: dict[str, Any] = json.loads(done.stdout)
        return np.load(scores, allow_pickle=False), facts


def in_turn(scores: Floats) -> Any:
    """A scorer that gives the rows of a matrix one after another, as ``rank_all`` asks for them."""
    place = 0

    def next_rows(histories: Sequence[Any]) -> Floats:
        nonlocal place
        place += len(histories)
        # rank_all takes numbers alone, and of equal scores the worst rank: what RecTools does not know comes last.
        rows: Floats = np.nan_to_num(scores[place - len(histories) : place], neginf=float(np.finfo(np.float32).min))
        return rows

    return next_rows


if __name__ == "__main__":
    main()
