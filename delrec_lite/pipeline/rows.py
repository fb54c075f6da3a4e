"""The rows of the table: a scorer for each model, and its ranks, cached like a stage."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, Ints
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.fusion import best_weight, mix
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.popularity import popularity
from delrec_lite.evaluation.protocol import best_lists, candidate_ranks, catalogue_ranks, rank_all, rank_chosen
from delrec_lite.pipeline.run import CODE, Run
from delrec_lite.pipeline.stage import key_of, run_stage
from delrec_lite.teacher_kinds.registry import TEACHERS

POPULARITY, ZERO_SHOT = "popularity", "LLM zero-shot"
TRAINED = "DELRec (training precision)"
# Number of a history's newest titles in the zero-shot row's prompt. A title with its year is about 10 tokens; with
# five of them and 15 candidates a user costs about 220. With ten the 943 users took 371 s on 2 cores.
ZERO_SHOT_HISTORY = 5
FUSED = "DELRec and teachers fused"
# A model with its teacher inside, and without it.
ALONE = "DELRec without the teacher inside"
# Rows of a torch LLM, whose precision depends on the machine and is saved with the ranks.
COMPUTED = (ZERO_SHOT, TRAINED, FUSED, ALONE)
ALL_TEACHERS = "teachers together"
# Rows whose names depend neither on the teachers nor on the bundle.
FIXED_ROWS = (POPULARITY, ALL_TEACHERS, *COMPUTED)

# Part of the key of a row: raise it when a row has more. 2: the first items of each user.
ROWS = 2
LISTS = "lists.npy"

Scorer = Callable[[Sequence[Ints]], Floats]


RowFactory = tuple[str, Callable[[], Ranks]]


def bundle_row(run: Run) -> str:
    """The exported bundle's row: ``DELRec (GGUF iq4_mix)``, ``DELRec (ONNX int8)``; exports first if needed."""
    model = _default_model(run)
    return f"DELRec ({model['format'].upper()} {model['quant']})"


def fused_row(run: Run) -> str:
    """The row of the exported bundle and its teachers."""
    return f"{bundle_row(run)} and teachers fused"


def _default_model(run: Run) -> dict[str, Any]:
    """The export's entry of the bundle's default model file."""
    model: dict[str, Any] = run.export().result["models"][0]
    return model


def row_factories(run: Run, fused: bool = False, zero_shot: bool = False, bundle: bool = True) -> dict[str, RowFactory]:
    """The cache key and the factory of each row, in the order of the table.

    Raises:
        UsageError: ``fused`` for a model that ranks candidates alone.
    """
    if fused and not run.models.ranks_catalogue:
        raise UsageError(
            "a model that ranks candidates alone cannot be fused with its teachers",
            "leave out --fused, or take title-mean",
        )
    factories: dict[str, RowFactory] = {
        POPULARITY: ("", lambda: _ranked(run, popularity(run.dataset), POPULARITY)),
        **_teacher_rows(run),
    }
    if zero_shot and run.models.weights_seed is None:
        key = key_of(run.recipe.data.words_key, run.pulled["model"].files, ZERO_SHOT_HISTORY)
        factories[ZERO_SHOT] = (key, lambda: _zero_shot(run))
    factories[TRAINED] = (run.finetune().key, lambda: _trained(run))
    if bundle:
        factories[bundle_row(run)] = (run.export().key, lambda: _exported(run))
    if fused and run.recipe.finetune.teacher_inside:
        factories[ALONE] = (run.finetune().key, lambda: _trained(run, alone=True))
    elif fused:
        factories[FUSED] = (run.finetune().key, lambda: _fused(run))
        if bundle and run.recipe.export.retriever:
            factories[fused_row(run)] = (run.export().key, lambda: _exported(run, fused=True))
    return factories


def teacher_labels(run: Run) -> list[str]:
    """The label of each teacher of the run in the table, in the recipe's order."""
    return [teacher_label(run, kind) for kind in run.recipe.teacher.kinds]


def teacher_label(run: Run, kind: str) -> str:
    """The name of a teacher's row: ``SASRec``, ``SASRec with text``."""
    return f"{TEACHERS[kind].label} with text" if run.recipe.teacher.text else TEACHERS[kind].label


def _teacher_rows(run: Run) -> dict[str, RowFactory]:
    """A row for each teacher, and one for all together where there are several."""
    scorers = {teacher_label(run, kind): partial(_teacher_scores, run, kind) for kind in run.recipe.teacher.kinds}
    if len(scorers) > 1:
        scorers[ALL_TEACHERS] = partial(_teacher_scores, run, None)
    key = run.teacher().key
    return {name: (key, partial(_ranked, run, scorer, name)) for name, scorer in scorers.items()}


def _teacher_scores(run: Run, kind: str | None, histories: Sequence[Ints]) -> Floats:
    teacher = run.models.teacher() if kind is None else run.models.teachers()[kind]
    return teacher.scores(histories)


def cached_ranks(run: Run, name: str, key: str, make: Callable[[], Ranks]) -> Ranks:
    """The ranks of a row: cached for the same ``key``, data set and candidate sets, or computed now."""

    def compute(folder: Path) -> dict[str, Any]:
        ranks = make()
        if name in COMPUTED:
            ranks = replace(ranks, precision=run.models.precision)
        (folder / "ranks.json").write_text(json.dumps(ranks.dump()), encoding="utf-8")
        np.save(folder / LISTS, ranks.lists, allow_pickle=False)
        return {}

    slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
    with run.locked():
        stage = run_stage(run.folder / "evaluate" / slug, key_of(CODE, ROWS, run.prepare().key, key), compute)
        ranks = Ranks.parse(json.loads((stage.folder / "ranks.json").read_text(encoding="utf-8")))
        ranks = replace(ranks, lists=np.load(stage.folder / LISTS, allow_pickle=False))
    how = f"{stage.seconds:.0f} s" if stage.computed else "cached"
    run.console.say(f"  evaluate: {name} ({how}{', in ' + ranks.precision if ranks.precision else ''})")
    return ranks


def _ranked(run: Run, scorer: Scorer, label: str) -> Ranks:
    return rank_all(scorer, run.dataset.test(), run.candidates["test"], console=run.console, label=label)


def _zero_shot(run: Run) -> Ranks:
    from delrec_lite.llm.zeroshot import zero_shot

    base = run.models.base(whole=True)
    test, candidates = run.dataset.test(), run.candidates["test"]
    domain = run.recipe.data.words
    start = time.monotonic()
    sampled, full = zero_shot(
        base, run.dataset.catalog.titles, domain, test, candidates, ZERO_SHOT_HISTORY, run.console
    )
    return Ranks(
        candidate_ranks(sampled, candidates.items, test.targets),
        catalogue_ranks(full, test.histories, test.targets, test.repeats),
        time.monotonic() - start,
        same_scores=False,  # candidates by likelihood, the catalogue by the mean of a title's rows
        lists=best_lists(full, test.histories, test.targets, test.repeats),
    )


def training_precision(run: Run) -> Ranks:
    """Ranks of the test users by the trained model before export; cached like a stage."""
    return cached_ranks(run, TRAINED, run.finetune().key, lambda: _trained(run))


def _trained(run: Run, alone: bool = False) -> Ranks:
    from delrec_lite.training.ranking import ranked

    built = run.models.trained()
    test, length = run.dataset.test(), run.recipe.model.max_history
    inside = run.models.teacher() if run.recipe.finetune.teacher_inside and not alone else None
    label = ALONE if alone else TRAINED
    return ranked(built.model, built.prompts, test, run.candidates["test"], length, run.console, label, inside)


def _fused(run: Run) -> Ranks:
    """Log-probabilities of the trained model and of the teachers, mixed by a weight learned on validation users."""
    from delrec_lite.llm.forward import score_histories
    from delrec_lite.training.distill import validation_subsample

    built = run.models.trained()
    teacher, length = run.models.teacher(), run.recipe.model.max_history

    def score_both(histories: Sequence[Ints]) -> tuple[Floats, Floats]:
        return score_histories(built.model, built.prompts, histories, length), teacher.scores(histories)

    split = run.dataset.valid().take(validation_subsample(len(run.dataset.valid())))
    scores = [score_both(split.histories[at : at + 16]) for at in range(0, len(split), 16)]
    model_scores, teacher_scores = (np.concatenate(column) for column in zip(*scores, strict=True))
    weight = best_weight(model_scores, teacher_scores, split.targets)
    run.console.say(f"  {FUSED}: the teachers weigh {weight:.2f}")

    def scorer(histories: Sequence[Ints]) -> Floats:
        return mix(*score_both(histories), weight)

    return _ranked(run, scorer, FUSED)


def _exported(run: Run, fused: bool | None = None) -> Ranks:
    from delrec_lite.runtime.recommender import Recommender

    model, name = _default_model(run), fused_row(run) if fused else bundle_row(run)
    with Recommender.load(run.bundle, quant=model["quant"], fused=fused, exact=True) as recommender:
        if run.models.ranks_catalogue:
            return _ranked(run, recommender.scores, name)
        sets = run.candidates["test"]
        return rank_chosen(recommender.score_candidates, run.dataset.test(), sets, console=run.console, label=name)
