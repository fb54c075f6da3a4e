"""The table of a run: every model ranks the same test users over the same candidate sets."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from delrec_lite.console import Console
from delrec_lite.data.types import Floats, Ints
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.popularity import popularity
from delrec_lite.evaluation.protocol import candidate_ranks, catalogue_ranks, rank_all
from delrec_lite.evaluation.table import PROTOCOLS, TITLES, Row, screen, write_table
from delrec_lite.files import write_whole
from delrec_lite.pipeline.run import CODE, Run
from delrec_lite.pipeline.stage import Done, key_of, run_stage
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.provenance import commit, machine, now, versions

POPULARITY, ZERO_SHOT = "popularity", "LLM zero-shot"
TRAINED, QUANTISED = "DELRec (training precision)", "DELRec (quantised GGUF)"
# Titles of a history in the zero-shot row's prompt, the newest. A title with its year is about 10 tokens; with five of
# them and 15 candidates a user costs about 220. With ten the 943 users took 371 s on 2 cores.
ZERO_SHOT_HISTORY = 5
TOGETHER = "teachers together"
TEACHERS = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "caser": "Caser"}

Scorer = Callable[[Sequence[Ints]], Floats]


def evaluate(run: Run) -> list[Row]:
    """Rank the test users with every model and write ``table.json``, ``table.md``, ``ranks.json``.

    Also ``report.json``: the same rows with recipe, stages, machine and versions. Each model's ranks are a stage of
    their own, so an evaluation cut short goes on with the next model.
    """
    makers: dict[str, tuple[str, Callable[[], Ranks]]] = {
        POPULARITY: (run.prepare().key, lambda: _ranked(run, popularity(run.dataset), POPULARITY)),
        **_teachers(run),
        ZERO_SHOT: (
            key_of(run.prepare().key, run.recipe.data.domain, run.pulled["model"].files, ZERO_SHOT_HISTORY),
            lambda: _zero_shot(run),
        ),
        TRAINED: (run.finetune().key, lambda: _trained(run)),
        QUANTISED: (run.export().key, lambda: _quantised(run)),
    }
    entries = {name: _stored(run, name, key, make) for name, (key, make) in makers.items()}
    rows = write_table(run.folder, entries, [(QUANTISED, other) for other in entries if other != QUANTISED])
    _write_report(run, rows)
    return rows


def _teachers(run: Run) -> dict[str, tuple[str, Callable[[], Ranks]]]:
    """A row for each teacher, and one for all together where there are several."""
    scorers = {TEACHERS[kind]: partial(_teacher_scores, run, kind) for kind in run.recipe.teacher.kinds}
    if len(scorers) > 1:
        scorers[TOGETHER] = partial(_teacher_scores, run, None)
    key = run.teacher().key
    return {name: (key, partial(_ranked, run, scorer, name)) for name, scorer in scorers.items()}


def _teacher_scores(run: Run, kind: str | None, histories: Sequence[Ints]) -> Floats:
    teacher = run.fitted_teacher() if kind is None else run.teachers()[kind]
    scores: Floats = teacher.scores(histories)
    return scores


def _write_report(run: Run, rows: Sequence[Row]) -> None:
    """``report.json``: the table with all that a figure needs to be believed and made again."""
    report = {
        "created": now(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "recipe": run.recipe.dump(),
        "sources": {p.name: {"mirror": p.mirror, "sha256": p.files} for p in run.pulled.values()},
        "stages": {name: {"seconds": done.seconds, **done.result} for name, done in run.stages.items()},
        "rows": [asdict(row) for row in rows],
        "comparisons": json.loads((run.folder / "comparisons.json").read_text(encoding="utf-8")),
    }
    write_whole(run.folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table: both protocols."""
    if console.mode == "json":
        console.result([asdict(row) for row in rows])
        return
    for protocol in PROTOCOLS:
        lines, header = screen(rows, protocol)
        console.result(None, lines, header, title=f"{TITLES[protocol]}, {rows[0].users} test users")


def _stored(run: Run, name: str, key: str, make: Callable[[], Ranks]) -> Ranks:
    def made(folder: Path) -> dict[str, Any]:
        (folder / "ranks.json").write_text(json.dumps(make().dump()), encoding="utf-8")
        return {}

    slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    done: Done = run_stage(run.folder / "evaluate" / slug, key_of(CODE, key), made)
    held = json.loads((done.folder / "ranks.json").read_text(encoding="utf-8"))
    run.console.say(f"  evaluate: {name} ({f'{done.seconds:.0f} s' if done.again else 'as made before'})")
    return Ranks.parse(held)


def _ranked(run: Run, scorer: Scorer, label: str) -> Ranks:
    return rank_all(scorer, run.dataset.test(), run.candidates["test"], console=run.console, label=label)


def _zero_shot(run: Run) -> Ranks:
    from delrec_lite.llm.zeroshot import zero_shot

    base = run.base()
    test, candidates = run.dataset.test(), run.candidates["test"]
    domain = DOMAINS[run.recipe.data.domain]
    start = time.monotonic()
    m15, full = zero_shot(base, run.dataset.catalog.titles, domain, test, candidates, ZERO_SHOT_HISTORY, run.console)
    return Ranks(
        candidate_ranks(m15, candidates.items, test.targets),
        catalogue_ranks(full, test.histories, test.targets),
        time.monotonic() - start,
    )


def training_precision(run: Run) -> Ranks:
    """Ranks of the test users by the trained model before export; made once, like a stage."""
    return _stored(run, TRAINED, run.finetune().key, lambda: _trained(run))


def _trained(run: Run) -> Ranks:
    from delrec_lite.llm.forward import score_histories

    model, prompts, _ = run.trained()
    length = run.recipe.model.max_history
    return _ranked(run, lambda histories: score_histories(model, prompts, histories, length), TRAINED)


def _quantised(run: Run) -> Ranks:
    from delrec_lite.runtime.recommender import Recommender

    with Recommender.load(run.bundle) as recommender:
        return _ranked(run, recommender.scores, QUANTISED)
