"""`ablate`: the paper's ablations of a recipe and further ones, over several seeds, same test users and candidates."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from delrec_lite.config import Recipe, parse
from delrec_lite.console import Console
from delrec_lite.data.types import Floats
from delrec_lite.errors import ConfigError, UsageError, did_you_mean
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import NAMES, Ranks
from delrec_lite.evaluation.setting import PROTOCOLS, Setting
from delrec_lite.evaluation.significance import interval, paired_test
from delrec_lite.evaluation.table import aligned, protocols_of, values_of
from delrec_lite.files import write_atomic
from delrec_lite.pipeline.folder import RECIPE, check_run, check_study, write_recipe
from delrec_lite.pipeline.rows import training_precision
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import DONE
from delrec_lite.provenance import stamp

FULL_METHOD = "DELRec"
REPORT, TABLE, SHARED = "ablation.json", "ablation.md", "shared"
_REPORT_KEYS = ("recipe", "seeds", "rows", "ranks")
# The changes of each variant to the recipe. The first nine are the paper's (section 5.3), the others are not.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    FULL_METHOD: {},
    "without soft prompt": {"model": {"pattern_prompt": "none"}},
    "written prompt": {"model": {"pattern_prompt": "words"}},
    "untrained soft prompt (no stage 1)": {"distill": {"epochs": 0.0}},
    "without temporal analysis": {"distill": {"temporal_share": 0.0}},
    "without pattern simulating": {"distill": {"temporal_share": 1.0}},
    "without stage 2": {"finetune": {"epochs": 0.0}},
    "LLM trained in stage 1 too": {"distill": {"train_llm": True}},
    "soft prompt trained in stage 2 too": {"finetune": {"train_soft": True}},
    "soft vectors between the layers too": {"model": {"soft_layers": "all"}},
    "truth alone in stage 2": {"finetune": {"teacher_weight": 0.0, "teacher_recipe": None}},
    "items start from titles": {"model": {"item_start": "titles"}},
    "titles as history": {"model": {"history": "titles"}},
    # Starts without language, titles or teacher: shows the effect of pretraining beyond model size and training.
    "random network trained whole": {
        "model": {
            "weights": "random",
            "precision": "auto",
            "item_start": "random",
            "pattern_prompt": "none",
            "item_text": "none",
            "item_vectors": None,
        },
        "distill": {"epochs": 0.0},
        "finetune": {"adapter": "full", "offset_dropout": None},
    },
}


@dataclass(frozen=True)
class AblationRow:
    """One variant under one protocol.

    Attributes:
        variant: One of ``VARIANTS``.
        protocol: As in ``evaluation.table.Row``.
        users: Questions of the test split, as in ``evaluation.table.Row``.
        seeds: Number of runs in the means.
        metrics: Means over users and seeds, by name.
        intervals: 95% bootstrap intervals over users, of their means over seeds.
        by_seed: Means over users, by name, one for each seed.
        difference: To the full DELRec, by name: ``difference``, ``low``, ``high``, ``p``; none for itself.
    """

    variant: str
    protocol: str
    users: int
    seeds: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    by_seed: dict[str, list[float]]
    difference: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Ablation:
    """The ablation of a recipe.

    Attributes:
        rows: In the order of ``VARIANTS``, protocol by protocol.
        setting: Data set, candidate sets and split of the figures.
    """

    rows: list[AblationRow]
    setting: Setting


def ablate(
    recipe: Recipe,
    runs: Path,
    console: Console,
    variants: Sequence[str] = tuple(VARIANTS),
    seeds: Sequence[int] = (1,),
) -> Ablation:
    """Train every variant once for each seed and rank the test users in training precision.

    Data set, candidate sets and teachers are computed once and shared. Every run stays under
    ``<runs>/<recipe name>-ablation/``, so a later call continues an interrupted one or adds to it.

    Args:
        recipe: The full method; its seeds are replaced.
        runs: Folder of all runs.
        console: Shows progress.
        variants: Names out of ``VARIANTS``; ``DELRec`` itself is always included.
        seeds: Of both stages; the teachers' seed stays.

    Returns:
        The rows, also written with raw ranks to ``ablation.json`` and as a table to ``ablation.md``.

    Raises:
        UsageError: An unknown variant, or no seed.
        ConfigError: The recipe contradicts a variant; where all are asked for, that one is left out.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UsageError(f"no variant {name!r}", did_you_mean(name, VARIANTS))
    if not seeds:
        raise UsageError("no seed", "give at least one")
    chosen = _possible(recipe, [name for name in VARIANTS if name in variants or name == FULL_METHOD], console)
    folder = runs / f"{recipe.name}-ablation"
    check_study(folder / REPORT, "ablation", _REPORT_KEYS, folder / TABLE, f"{SHARED}/{RECIPE}")
    shared = Run(recipe.model_copy(update={"name": SHARED}), folder, console, shipped=False)
    recipe = recipe.model_copy(update={"data": shared.recipe.data})  # with the data set's own settings
    shared.teacher()
    ranks: dict[str, list[Ranks]] = {name: [] for name in chosen}
    precisions: dict[str, list[dict[str, str]]] = {name: [] for name in chosen}
    for seed in seeds:
        for name in chosen:
            console.heading(f"{name}, seed {seed}")
            run = _run(recipe, name, seed, shared, folder, console)
            with run.locked():
                ranks[name].append(training_precision(run))
                precisions[name].append(run.models.precisions())
    expected = shared.expected(shared.dataset.test())
    rows = [row for name in chosen for row in _rows(name, ranks[name], ranks[FULL_METHOD], expected)]
    ablation = Ablation(rows, shared.setting)
    _write(folder, recipe, seeds, ablation, ranks, precisions, expected)
    return ablation


def _possible(recipe: Recipe, chosen: list[str], console: Console) -> list[str]:
    """The variants that the recipe can be changed to, before anything is trained; raises as ``ablate``."""
    possible = []
    for name in chosen:
        try:
            _changed(recipe, name, 1)
        except ConfigError as error:
            if len(chosen) < len(VARIANTS):
                raise
            console.say(f"  left out: {error.message}")
        else:
            possible.append(name)
    return possible


def _changed(recipe: Recipe, name: str, seed: int) -> Recipe:
    """The recipe of a variant."""
    sections = recipe.dump()
    for stage in ("distill", "finetune"):
        sections[stage]["seed"] = seed
    for section, values in VARIANTS[name].items():
        sections[section] |= values
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    return parse(yaml.safe_dump({**sections, "name": f"{slug}-{seed}"}), f"the variant {name!r}")


def _run(recipe: Recipe, name: str, seed: int, shared: Run, folder: Path, console: Console) -> Run:
    """A variant's run, with the shared data set and teachers."""
    recipe = _changed(recipe, name, seed)
    target = folder / recipe.name
    check_run(target)
    target.mkdir(parents=True, exist_ok=True)
    write_recipe(target, recipe)  # a folder with stages and no recipe would be refused
    shared_stages = [shared.folder / "prepare", shared.folder / "text", shared.folder / "teacher"]
    if set(VARIANTS[name]) == {"finetune"}:  # stage 1 is the same as in the full method
        shared_stages.append(folder / f"{FULL_METHOD.lower()}-{seed}" / "distill")
    for stage_folder in shared_stages:
        if not (target / stage_folder.name / DONE).is_file() and (stage_folder / DONE).is_file():
            shutil.copytree(stage_folder, target / stage_folder.name, dirs_exist_ok=True)
    return Run(recipe, folder, console, shipped=False)


def _rows(
    name: str, ranks: Sequence[Ranks], full_ranks: Sequence[Ranks], expected: ExpectedSampledMetrics
) -> list[AblationRow]:
    rows = []
    for protocol in protocols_of(ranks[0], expected):
        values_by_metric = {metric: _users(ranks, protocol, metric, expected) for metric in NAMES}
        metrics = {metric: round(float(values.mean()), 5) for metric, values in values_by_metric.items()}
        intervals = {metric: _rounded(interval(values.mean(0))) for metric, values in values_by_metric.items()}
        by_seed = {metric: [round(float(v), 5) for v in values.mean(1)] for metric, values in values_by_metric.items()}
        difference = {}
        if name != FULL_METHOD:
            for metric in ("HR@1", "NDCG@10"):
                test = paired_test(
                    values_by_metric[metric].mean(0), _users(full_ranks, protocol, metric, expected).mean(0)
                )
                difference[metric] = {k: float(f"{v:.4g}") for k, v in vars(test).items() if isinstance(v, float)}
        rows.append(
            AblationRow(name, protocol, len(ranks[0].sampled), len(ranks), metrics, intervals, by_seed, difference)
        )
    return rows


def _users(ranks: Sequence[Ranks], protocol: str, metric: str, expected: ExpectedSampledMetrics) -> Floats:
    """A metric for every seed and user: float32 ``[seeds, users]``."""
    values: Floats = np.stack([values_of(seed_ranks, protocol, metric, expected) for seed_ranks in ranks])
    return values


def _rounded(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 5), round(pair[1], 5)


def _write(
    folder: Path,
    recipe: Recipe,
    seeds: Sequence[int],
    ablation: Ablation,
    ranks: dict[str, list[Ranks]],
    precisions: dict[str, list[dict[str, str]]],
    expected: ExpectedSampledMetrics,
) -> None:
    report = {
        **stamp(),
        "recipe": recipe.dump(),
        **({"set": recipe.changes} if recipe.changes else {}),
        "seeds": list(seeds),
        "setting": asdict(ablation.setting),
        "precision": precisions,
        "rows": [vars(row) for row in ablation.rows],
        "expected_sampled": expected.dump(),
        "ranks": {name: [seed_ranks.dump() for seed_ranks in ranks_by_seed] for name, ranks_by_seed in ranks.items()},
    }
    write_atomic(folder / REPORT, json.dumps(report, ensure_ascii=False) + "\n")
    write_atomic(folder / TABLE, markdown(ablation))


def markdown(ablation: Ablation) -> str:
    """One aligned table for each protocol."""
    parts, setting = [], ablation.setting
    for protocol in PROTOCOLS:
        chosen = [row for row in ablation.rows if row.protocol == protocol]
        if not chosen:
            continue
        parts.append(
            f"**{setting.title(protocol)}**, {chosen[0].users} {setting.questions()}, "
            f"means over {chosen[0].seeds} seeds, "
            f"differences to {FULL_METHOD} with 95% intervals\n\n{aligned([header(), *(cells(row) for row in chosen)])}"
        )
    return "\n\n".join(parts) + "\n"


def header() -> list[str]:
    """Columns of the table."""
    return ["variant", "HR@1", "HR@10", "NDCG@10", "HR@1 difference", "p", "NDCG@10 difference", "p"]


def cells(row: AblationRow) -> list[str]:
    """A row of the table as text."""
    out = [row.variant, *(f"{row.metrics[name]:.3f}" for name in ("HR@1", "HR@10", "NDCG@10"))]
    for metric in ("HR@1", "NDCG@10"):
        d = row.difference.get(metric)
        out += [f"{d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})", f"{d['p']:.2g}"] if d else ["", ""]
    return out
