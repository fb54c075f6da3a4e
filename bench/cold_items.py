"""Items hidden from teachers and student: ``python -m delrec_lite.bench.cold_items RECIPE --out FILE``.

A tenth of the items, drawn at random, is taken out of the catalogue and of all histories, and the recipe is trained
without them. Then they come back as ``delrec-lite catalog add`` adds items, and every test user is ranked: whose next
item is one of them among these (``among_cold``) and in the whole catalogue (``among_all``), the others in the whole
catalogue (``warm``) and in that of training (``warm_alone``). Trained stages stay in the folder of runs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import DataSection, Recipe, load_recipe
from delrec_lite.console import Console
from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.prepare import with_questions
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.data.types import Catalog, Dataset, Ints
from delrec_lite.data.vectors import read_vectors
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.protocol import catalogue_ranks
from delrec_lite.export.new_items import fit_new_items
from delrec_lite.export.states import training_states
from delrec_lite.export.text_items import new_item_boost, new_rows, text_item_maps
from delrec_lite.llm.forward import last_states
from delrec_lite.llm.items import title_vectors
from delrec_lite.pipeline.model_builder import BuiltModel
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp

FOLDS, SEED, BATCH = 10, 1, 16
RARE = 10


@dataclass(frozen=True)
class Hidden:
    """A data set without some of its items, and the test questions of the whole one.

    Attributes:
        dataset: Without them; its catalogue is renumbered.
        warm: The remaining items by their old index, int64; the new index is the position.
        cold: The hidden items, likewise; behind the warm ones in every ranking.
        histories: Of the test questions, without hidden items, in new indices.
        targets: Of the test questions: position in ``warm``, or behind it in ``cold``.
        popularity: Of the targets in the whole training part.
    """

    dataset: Dataset
    warm: Ints
    cold: Ints
    histories: tuple[Ints, ...]
    targets: Ints
    popularity: Ints


def hide(dataset: Dataset, fold: int) -> Hidden:
    """Hide the items of a fold."""
    order = np.random.default_rng(SEED).permutation(len(dataset.catalog))
    cold = np.sort(order[fold::FOLDS])
    warm = np.setdiff1d(order, cold)
    index = np.empty(len(order), dtype=np.int64)
    index[np.concatenate([warm, cold])] = np.arange(len(order))

    def visible(items: Ints) -> Ints:
        renumbered: Ints = index[items]
        return renumbered[renumbered < len(warm)]

    train = [visible(part) for part in dataset.train()]
    later: dict[str, list[list[Ints]]] = {split: [[] for _ in train] for split in SPLITS}
    for split in SPLITS:
        for user, position in dataset.questions(split).tolist():
            later[split][user].append(visible(dataset.sequences[user][position : position + 1]))
    parts = [
        (part, np.concatenate([*valid, part[:0]]), np.concatenate([*test, part[:0]]))
        for part, valid, test in zip(train, later["valid"], later["test"], strict=True)
    ]
    cuts = np.array([np.cumsum([len(part), len(valid)]) for part, valid, _ in parts])
    catalog = dataset.catalog.take(warm.tolist())
    reduced = make_dataset(
        f"{dataset.name}-cold-{fold}", catalog, dataset.user_ids, [np.concatenate(part) for part in parts], cuts
    )
    test = dataset.test()
    histories = [visible(history) for history in test.histories]
    asked = [n for n, history in enumerate(histories) if len(history)]
    return Hidden(
        dataset=reduced,
        warm=warm,
        cold=cold,
        histories=tuple(histories[n] for n in asked),
        targets=index[test.targets[asked]],
        popularity=dataset.popularity()[test.targets[asked]],
    )


def reduced_run(run: Run, hidden: Hidden, runs: Path) -> Run:
    """The run of the same recipe on the data set without the hidden items."""
    recipe, name = run.recipe, f"{run.recipe.name}-{hidden.dataset.name}"
    folder, data = runs / f"{name}-data", run.recipe.data
    dataset = with_questions(hidden.dataset, run.dataset.repeats, data.candidates)
    sets = {split: sample_candidates(dataset, split, data.candidates, data.seed) for split in SPLITS}
    settings = Settings(data.k_core, data.candidates, data.seed, data.split, tuple(data.text_columns))
    save_dataset(dataset, sets, settings, folder)
    words = {"domain": data.domain} if data.verb is None else {"domain": data.domain, "verb": data.verb}
    changes: dict[str, Any] = {"name": name, "data": DataSection(folder=str(folder), **words)}
    if recipe.model.item_vectors is not None:
        vectors = read_vectors(Path(recipe.model.item_vectors), len(run.dataset.catalog))
        warm = folder.with_name(f"{folder.name}-vectors.npy")
        np.save(warm, vectors[hidden.warm])
        changes["model"] = recipe.model.model_copy(update={"item_vectors": str(warm)})
    return Run(Recipe.model_validate({**recipe.dump(), **_dumped(changes)}), runs, run.console, shipped=False)


def _dumped(changes: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, str) else v.model_dump(exclude_unset=k == "data") for k, v in changes.items()}


@torch.no_grad()
def cold_head(run: Run, built: BuiltModel, hidden: Hidden, catalog: Catalog) -> tuple[Any, float | None]:
    """The rows that score the hidden items, float32 ``[cold, hidden]``, and the boost of a model with item text.

    Args:
        run: Trained without the hidden items.
        built: Its trained model.
        hidden: Which items.
        catalog: The whole catalogue.
    """
    model, prompts, length = built.model, built.prompts, run.recipe.model.max_history
    rows = model.body.embed_tokens.weight[: model.vocabulary.text]
    titles = title_vectors(rows, catalog.titles, built.base.encode)
    if model.text is None:
        fitted = fit_new_items(titles[hidden.warm], model.head(), training_states(model, prompts, run.dataset))
        return titles[hidden.cold] @ fitted[:-1] + fitted[-1], None
    texts = title_vectors(rows, [catalog.descriptions[i] for i in hidden.cold], built.base.encode)
    boost, vector = new_item_boost(model, prompts, run.dataset, length)
    maps = text_item_maps(model, titles[hidden.warm], vector)
    return new_rows(model, titles[hidden.cold], texts, maps)[1], boost


@torch.no_grad()
def ranked(run: Run, hidden: Hidden, catalog: Catalog) -> tuple[dict[str, Any], float | None]:
    """Ranks of the targets, int64 ``[questions]``, by what they are ranked in; and the boost of new items.

    ``all``: the whole catalogue; ``own``: the hidden items or the others, whichever the target is one of; ``teacher``:
    the items that it knows, by the teacher, 0 for hidden targets. ``cold_in_ten`` is the number of hidden items in the
    first ten.
    """
    built, teacher, count = run.models.trained(), run.models.teacher(), len(hidden.warm)
    cold_rows, boost = cold_head(run, built, hidden, catalog)
    head, repeats = torch.cat([built.model.head(), cold_rows]), run.dataset.repeats
    parts: dict[str, list[Ints]] = {"all": [], "own": [], "teacher": [], "cold_in_ten": []}
    with run.console.progress("cold items", len(hidden.histories)) as tick:
        for at in range(0, len(hidden.histories), BATCH):
            histories, targets = hidden.histories[at : at + BATCH], hidden.targets[at : at + BATCH]
            states = last_states(built.model, built.prompts, histories, run.recipe.model.max_history)
            scores = (states @ head.T).cpu().numpy()
            is_cold = targets >= count
            own, taught = np.zeros_like(targets), np.zeros_like(targets)
            among_cold, nothing = scores[is_cold, count:], [history[:0] for history in histories]
            own[is_cold] = catalogue_ranks(among_cold, nothing[: len(among_cold)], targets[is_cold] - count)
            known = np.flatnonzero(~is_cold)
            read = [histories[n] for n in known]
            own[known] = catalogue_ranks(scores[known, :count], read, targets[known], repeats)
            of_teacher = teacher.scores(histories)[known]
            taught[known] = catalogue_ranks(of_teacher, read, targets[known], repeats)
            parts["all"].append(catalogue_ranks(scores, histories, targets, repeats))
            for row, history in enumerate(() if repeats else histories):
                scores[row, history] = -np.inf
            first_ten = np.argpartition(-scores, min(10, scores.shape[1] - 1), axis=1)[:, :10]
            parts["own"].append(own)
            parts["teacher"].append(taught)
            parts["cold_in_ten"].append((first_ten >= count).sum(1))
            tick(len(histories))
    return {name: np.concatenate(values) for name, values in parts.items()}, boost


def figures(ranks: dict[str, Any], hidden: Hidden) -> dict[str, Any]:
    """Metrics by protocol, by popularity of the target, and the share of hidden items in the first ten."""
    is_cold, rare = hidden.targets >= len(hidden.warm), hidden.popularity <= RARE

    def means(users: Any, among: str) -> dict[str, Any]:
        chosen = ranks[among][users]
        if not len(chosen):
            return {"users": 0, "HR@10": None, "NDCG@10": None, "median rank": None}
        values = {name: round(float(per_user(chosen, name).mean()), 5) for name in ("HR@10", "NDCG@10")}
        return {"users": len(chosen), **values, "median rank": float(np.median(chosen))}

    seen = ((f"seen at most {RARE} times", rare), (f"seen more than {RARE} times", ~rare))
    groups = {f"{name}, {words}": part & among for words, part in seen for name, among in _kinds(is_cold)}
    return {
        "among_cold": means(is_cold, "own"),
        "among_all": means(is_cold, "all"),
        "warm": means(~is_cold, "all"),
        "warm_alone": means(~is_cold, "own"),
        "teacher_warm_alone": means(~is_cold, "teacher"),
        "cold_share_of_first_ten": round(float(ranks["cold_in_ten"].mean() / 10), 5),
        "by_popularity": {name: means(users, "all") for name, users in groups.items() if users.any()},
        "ranks": {name: values.tolist() for name, values in ranks.items()},
        "targets": hidden.targets.tolist(),
    }


def _kinds(is_cold: Any) -> tuple[tuple[str, Any], ...]:
    return ("cold", is_cold), ("warm", ~is_cold)


def parser() -> argparse.ArgumentParser:
    """Recipe, runs and the fold."""
    options = script_parser("cold_items", __doc__)
    add_recipe(options)
    options.add_argument("--fold", type=int, default=0, choices=range(FOLDS), help="which tenth of the items is hidden")
    return options


def measure(run: Run, runs: Path, fold: int) -> dict[str, Any]:
    """Train without the items of a fold and rank all test users."""
    hidden = hide(run.dataset, fold)
    trained = reduced_run(run, hidden, runs)
    trained.finetune()
    ranks, boost = ranked(trained, hidden, run.dataset.catalog)
    return {
        "fold": fold,
        "items": {"warm": len(hidden.warm), "cold": len(hidden.cold)},
        "chance_among_cold": round(10 / len(hidden.cold), 5),
        "new_item_boost": boost,
        **figures(ranks, hidden),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train without the fold, rank, and write the report."""
    options = parser().parse_args(arguments)
    started, console = stamp(), Console("human")
    run = Run(load_recipe(options.recipe), options.runs, console)
    report = {**started, "recipe": run.recipe.dump(), **measure(run, options.runs, options.fold)}
    write_json(report, options.out, indent=None)
    shown = {name: report[name] for name in ("among_cold", "among_all", "warm", "warm_alone", "teacher_warm_alone")}
    print(json.dumps(shown, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
