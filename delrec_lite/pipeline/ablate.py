"""`ablate`: the paper's ablations of a recipe and ours, over several seeds, on the same test users and candidates."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.types import Floats
from delrec_lite.errors import UsageError
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.metrics import NAMES, Ranks
from delrec_lite.evaluation.setting import PROTOCOLS, Setting
from delrec_lite.evaluation.significance import interval, paired_test
from delrec_lite.evaluation.table import aligned, protocols_of, values_of
from delrec_lite.files import write_whole
from delrec_lite.pipeline.rows import training_precision
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.stage import DONE
from delrec_lite.provenance import stamp

WHOLE = "DELRec"
# What each variant changes in the recipe. The first nine are the paper's (section 5.3), the others are ours.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    WHOLE: {},
    "without soft prompt": {"model": {"pattern_prompt": "none"}},
    "written prompt": {"model": {"pattern_prompt": "words"}},
    "untrained soft prompt (no stage 1)": {"distill": {"epochs": 0.0}},
    "without temporal analysis": {"distill": {"temporal_share": 0.0}},
    "without pattern simulating": {"distill": {"temporal_share": 1.0}},
    "without stage 2": {"finetune": {"epochs": 0.0}},
    "LLM trained in stage 1 too": {"distill": {"train_llm": True}},
    "soft prompt trained in stage 2 too": {"finetune": {"train_soft": True}},
    "soft vectors between the layers too": {"model": {"soft_layers": "all"}},
    "truth alone in stage 2": {"finetune": {"teacher_weight": 0.0}},
    "items start from titles": {"model": {"item_start": "titles"}},
    "titles as history": {"model": {"history": "titles"}},
    # Nothing of language, titles or teacher to begin with: what the pretrained LLM is worth, beside size and training.
    "random network trained whole": {
        "model": {"weights": "random", "precision": "auto", "item_start": "random", "pattern_prompt": "none"},
        "distill": {"epochs": 0.0},
        "finetune": {"adapter": "full"},
    },
}


@dataclass(frozen=True)
class AblationRow:
    """One variant under one protocol.

    Attributes:
        variant: One of ``VARIANTS``.
        protocol: As in ``evaluation.table.Row``.
        users: Questions of the test split, as in ``evaluation.table.Row``.
        seeds: How many runs the means are over.
        metrics: Means over users and seeds, by name.
        intervals: 95% bootstrap intervals over users, of their means over seeds.
        by_seed: Means over users, by name, one for each seed.
        difference: To the whole of DELRec, by name: ``difference``, ``low``, ``high``, ``p``; none for itself.
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
    """All variants.

    Attributes:
        rows: In the order of ``VARIANTS``, protocol by protocol.
        setting: What the figures are over.
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

    Data set, candidate sets and teachers are made once and shared. Every run is kept under
    ``<runs>/<recipe name>-ablation/``, so a call that was cut short goes on, and a later one adds to it.

    Args:
        recipe: The whole method; its seeds are replaced.
        runs: Folder of all runs.
        console: Shows progress.
        variants: Names out of ``VARIANTS``; ``DELRec`` itself is always among them.
        seeds: Of both stages; the teachers keep theirs.

    Returns:
        The rows, also written with raw ranks to ``ablation.json`` and as a table to ``ablation.md``.

    Raises:
        UsageError: No such variant, or no seed.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UsageError(f"no variant {name!r}", f"one of: {', '.join(VARIANTS)}")
    if not seeds:
        raise UsageError("no seed", "give at least one")
    chosen = [name for name in VARIANTS if name in variants or name == WHOLE]
    folder = runs / f"{recipe.name}-ablation"
    shared = Run(recipe.model_copy(update={"name": "shared"}), folder, console, shipped=False)
    recipe = recipe.model_copy(update={"data": shared.recipe.data})  # as the data set says
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
    rows = [row for name in chosen for row in _rows(name, ranks[name], ranks[WHOLE], expected)]
    ablation = Ablation(rows, shared.setting)
    _write(folder, recipe, seeds, ablation, ranks, precisions, expected)
    return ablation


def _run(recipe: Recipe, name: str, seed: int, shared: Run, folder: Path, console: Console) -> Run:
    """A variant's run, with the data set and teachers that all share."""
    sections = recipe.dump()
    for stage in ("distill", "finetune"):
        sections[stage]["seed"] = seed
    for section, values in VARIANTS[name].items():
        sections[section] |= values
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    sections["name"] = f"{slug}-{seed}"
    target = folder / sections["name"]
    lent = [shared.folder / "prepare", shared.folder / "teacher"]
    if set(VARIANTS[name]) == {"finetune"}:  # stage 1 is that of the whole
        lent.append(folder / f"{WHOLE.lower()}-{seed}" / "distill")
    for made in lent:
        if not (target / made.name / DONE).is_file() and (made / DONE).is_file():
            shutil.copytree(made, target / made.name, dirs_exist_ok=True)
    write_whole(target / "recipe.yaml", "")  # a folder with stages and no recipe would be taken for something else
    return Run(Recipe.model_validate(sections), folder, console, shipped=False)


def _rows(
    name: str, ranks: Sequence[Ranks], whole: Sequence[Ranks], expected: ExpectedSampledMetrics
) -> list[AblationRow]:
    rows = []
    for protocol in protocols_of(ranks[0], expected):
        mine = {metric: _users(ranks, protocol, metric, expected) for metric in NAMES}
        metrics = {metric: round(float(values.mean()), 5) for metric, values in mine.items()}
        intervals = {metric: _rounded(interval(values.mean(0))) for metric, values in mine.items()}
        by_seed = {metric: [round(float(v), 5) for v in values.mean(1)] for metric, values in mine.items()}
        difference = {}
        if name != WHOLE:
            for metric in ("HR@1", "NDCG@10"):
                test = paired_test(mine[metric].mean(0), _users(whole, protocol, metric, expected).mean(0))
                difference[metric] = {k: float(f"{v:.4g}") for k, v in vars(test).items() if isinstance(v, float)}
        rows.append(
            AblationRow(name, protocol, len(ranks[0].sampled), len(ranks), metrics, intervals, by_seed, difference)
        )
    return rows


def _users(ranks: Sequence[Ranks], protocol: str, metric: str, expected: ExpectedSampledMetrics) -> Floats:
    """A metric for every seed and user: float32 ``[seeds, users]``."""
    values: Floats = np.stack([values_of(one, protocol, metric, expected) for one in ranks])
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
        "seeds": list(seeds),
        "setting": asdict(ablation.setting),
        "precision": precisions,
        "rows": [vars(row) for row in ablation.rows],
        "expected_sampled": expected.dump(),
        "ranks": {name: [one.dump() for one in of_seeds] for name, of_seeds in ranks.items()},
    }
    write_whole(folder / "ablation.json", json.dumps(report, ensure_ascii=False) + "\n")
    write_whole(folder / "ablation.md", markdown(ablation))


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
            f"differences to {WHOLE} with 95% intervals\n\n{aligned([header(), *(cells(row) for row in chosen)])}"
        )
    return "\n\n".join(parts) + "\n"


def header() -> list[str]:
    """Columns of the table."""
    return ["variant", "HR@1", "HR@10", "NDCG@10", "HR@1 difference", "p", "NDCG@10 difference", "p"]


def cells(row: AblationRow) -> list[str]:
    """A row of the table in words."""
    out = [row.variant, *(f"{row.metrics[name]:.3f}" for name in ("HR@1", "HR@10", "NDCG@10"))]
    for metric in ("HR@1", "NDCG@10"):
        d = row.difference.get(metric)
        out += [f"{d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})", f"{d['p']:.2g}"] if d else ["", ""]
    return out
