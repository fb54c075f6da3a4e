"""`init`: the shipped recipe whose data is most like yours, adapted to its size, to a base and to a card."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from delrec_lite.cache_folder import cache_folder
from delrec_lite.config import DataSection, Recipe, load_recipe, parse
from delrec_lite.console import QUIET, Console
from delrec_lite.data.prepare import prepare
from delrec_lite.data.store import load_dataset, load_settings
from delrec_lite.data.types import Dataset
from delrec_lite.data.vectors import FILE as VECTORS
from delrec_lite.errors import DataError, OutOfMemoryError, StorageError, UsageError, did_you_mean
from delrec_lite.files import check_file, write_atomic
from delrec_lite.hub.base import base_folders, check_base
from delrec_lite.hub.pull import pull
from delrec_lite.hub.registry import DATASETS
from delrec_lite.pipeline.base import check_local
from delrec_lite.pipeline.memory import Place, fitting_settings, trainings
from delrec_lite.prompts.domain import words_of
from delrec_lite.softmax.choice import in_half_precision
from delrec_lite.training.plan import ASSUMED_FLOPS, estimate, minutes_on_card, parse_bytes, smallest
from delrec_lite.training.shapes import Shape, find_shape

# The shipped recipes that were measured where items have many interactions, and few.
DENSE, SPARSE = "ml-100k-cpu", "beauty"
# Interactions an item. MovieLens-100K has 74, Steam 35, Amazon Beauty 16; the first two rank best as dense data do.
DENSE_FROM = 25
# Item tokens of stage 2 by the seconds of a whole training with base and layers of the shipped recipe: with stage 1,
# teachers and validation. Both were measured on one core beside other work, that of sparse data as 117; two cores are
# taken as 1.7 times one.
TOKENS_PER_SECOND = {DENSE: 300, SPARSE: 200}
# The rest of the time follows the operations of the LLM: 30 layers of SmolLM2-135M on two cores trained 183 tokens a
# second, 8 layers on one core 330, which is 39 billion operations a second and core for both.
TEACHERS_SHARE = 0.28  # of ml-100k-cpu's training: 365 of 1,301 s
LEAST_EPOCHS = 0.5


@dataclass(frozen=True)
class Started:
    """A new recipe.

    Attributes:
        path: Its file.
        recipe: Its content.
        summary: The data set's size, the expected training time, and on a card the expected memory.
        minutes: Expected training time: on two cores from a measured speed, on a card from an assumed one.
    """

    path: Path
    recipe: Recipe
    summary: str
    minutes: int


def start_recipe(
    name: str,
    data: Path,
    domain: str | None,
    base: str,
    out: Path,
    gpu: str = "",
    console: Console = QUIET,
    verb: str | None = None,
) -> Started:
    """Write a recipe for a prepared data set, or for one that can be pulled, which is counted first.

    Args:
        name: Of the recipe.
        data: A folder that ``delrec-lite prepare`` wrote, or the name of a data set to pull.
        domain: What an item is, see ``prompts.domain``; None: what the data set was prepared with, else ``item``.
        base: The LLM; empty: that of ``ml-100k-cpu``.
        out: The file; it must not exist.
        gpu: Memory of the card to train on, such as ``12GB``; empty: two cores.
        console: Shows what is pulled.
        verb: What people have done with an item; None: the verb of the domain.

    Raises:
        DataError: ``data`` holds no data set.
        ConfigError: An invalid name or domain, or a base on disk that cannot be trained.
        FetchError: The data set cannot be pulled.
        OutOfMemoryError: No setting of the base fits the card.
        UsageError: ``out`` exists, there is no such base, or for a card its shape is not known.
        StorageError: It cannot be written.
    """
    pulled = not data.is_dir() and str(data) in DATASETS
    if not pulled and not data.exists():
        names = did_you_mean(str(data), DATASETS.names(), f", or a folder: `delrec-lite prepare {name} ...` writes one")
        raise DataError(f"no prepared data set at {data}", names)
    dataset = _counted(str(data), console) if pulled else load_dataset(data)
    if domain is None and not pulled:
        settings = load_settings(data)[1]
        domain, verb = settings.domain, verb or settings.verb
    domain = domain or "item"
    words_of(domain, verb)
    if out.exists():
        raise UsageError(f"{out} exists", "choose another with --out, or remove it")
    target = check_file(out, "recipe")
    interactions, items = sum(len(s) for s in dataset.sequences), len(dataset.catalog)
    pattern_name = DENSE if interactions >= DENSE_FROM * items else SPARSE
    pattern = load_recipe(pattern_name).model_dump(mode="json", exclude_defaults=True)
    pattern["name"] = name
    words = {"domain": domain} if verb is None else {"domain": domain, "verb": verb}
    pattern["data"] = {"name" if pulled else "folder": str(data), **words}
    model = pattern.setdefault("model", {})
    if base:
        model["base"] = base
    if (vectors := data / VECTORS).is_file():
        model |= {"item_text": "file", "item_vectors": str(vectors)}
    if in_half_precision("auto", items):
        pattern["finetune"].pop("average", None)  # a sampled softmax does not see all vectors at every step
    if base or gpu:
        model.pop("layers", None)  # how many suffice was measured with the default base alone
    count = f"{len(dataset.user_ids)} users, {items} items, {interactions / items:.0f} interactions an item"
    if gpu:
        summary, minutes = _fit_card(pattern, out, gpu, interactions, items)
    else:
        slower, with_base = _slower(pattern, pattern_name, items)
        minutes = _limit_epochs(pattern, slower * interactions / TOKENS_PER_SECOND[pattern_name] / 60)
        summary = f"about {minutes} minutes of training on two cores, {with_base}"
    summary = f"{count}: {summary}"
    text = (
        f"# {summary}.\n"
        "# Every key and its default: docs/recipe.md. A change computes only the affected stages again.\n"
        f"{yaml.safe_dump(pattern, sort_keys=False)}"
    )
    recipe = parse(text, str(out))
    check_base(recipe.model.base)
    check_local(recipe.model.base, (cache_folder() / "hub", cache_folder() / "models"))
    try:
        write_atomic(target, text)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error}", "choose another with --out") from error
    return Started(out, recipe, summary, minutes)


def _counted(name: str, console: Console) -> Dataset:
    """A data set to pull, prepared with a recipe's defaults, as a run prepares it."""
    source, settings = pull(name, console, cache_folder()).folder, DataSection(name=name)
    with TemporaryDirectory() as folder:
        return prepare(name, source, Path(folder) / "dataset", settings.k_core, settings.candidates, settings.seed)


def _slower(pattern: dict[str, Any], pattern_name: str, items: int) -> tuple[float, str]:
    """How many times longer a recipe trains than the shipped one with its base and layers; and its base, in words."""
    model, shipped = pattern["model"], load_recipe(pattern_name).model
    usual = find_shape(shipped.base)[0].cut(shipped.layers)
    base = model.get("base", shipped.base)
    try:
        shape = find_shape(base, base_folders())[0].cut(model.get("layers"))
    except (DataError, UsageError):
        return 1.0, f"if {base}, whose shape is not known before it is pulled, is like SmolLM2-135M"
    share = _operations(shape, items) / _operations(usual, items)
    size = f"{shape.layers} layers, {(shape.linear_parameters + shape.other_parameters) / 1e6:.0f}M parameters"
    return TEACHERS_SHARE + (1 - TEACHERS_SHARE) * share, f"with {base} ({size})"


def _operations(shape: Shape, items: int) -> float:
    """Of training on an item token, see ``training.plan.minutes_on_card``."""
    return 4.0 * shape.linear_parameters + 6.0 * items * shape.hidden


def _limit_epochs(pattern: dict[str, Any], minutes_a_pass: float) -> int:
    """Set the passes of stage 2 so that training takes at most about an hour; returns the minutes."""
    epochs: float = round(min(pattern["finetune"]["epochs"], max(LEAST_EPOCHS, 60 / minutes_a_pass)), 2)
    pattern["finetune"]["epochs"] = epochs
    return max(1, round(epochs * minutes_a_pass))


def _fit_card(pattern: dict[str, Any], out: Path, gpu: str, interactions: int, items: int) -> tuple[str, int]:
    """Set what the memory plan finds for a card; returns the summary and the minutes."""
    recipe = parse(yaml.safe_dump(pattern), str(out))
    shape, _ = find_shape(recipe.model.base, base_folders())
    settings = fit_card(recipe, shape, items, gpu)
    for key, value in settings.items():
        section, _, name = key.partition(".")
        pattern.setdefault(section, {})[name] = value
    pattern["model"]["device"] = "cuda"
    planned = parse(yaml.safe_dump(pattern), str(out))
    stages = trainings(planned, items, settings["model.precision"])
    stage1 = minutes_on_card(shape, stages["distill"], planned.distill.epochs * interactions)
    minutes = _limit_epochs(pattern, minutes_on_card(shape, stages["finetune"], interactions)) + round(stage1)
    peak = max(estimate(shape, training).total for training in stages.values())
    return (
        f"{recipe.model.base} in {settings['model.precision']} needs {peak / 1e9:.1f} of {gpu} (computed); about "
        f"{minutes} minutes of training if the card sustains {ASSUMED_FLOPS / 1e12:.0f} TFLOP/s (assumed: no card was "
        "measured), without teachers and validation"
    ), minutes


def fit_card(recipe: Recipe, shape: Shape, items: int, gpu: str) -> dict[str, Any]:
    """What the memory plan finds for a recipe on a card, by recipe key.

    Raises:
        OutOfMemoryError: Nothing fits.
    """
    place = Place(f"a card of {gpu}", parse_bytes(gpu), cuda=True)
    settings = fitting_settings(recipe, shape, items, place)
    if not settings:
        least = smallest(shape, trainings(recipe, items, "nf4")["finetune"]).total
        raise OutOfMemoryError(
            f"no setting of {recipe.model.base} fits {place.name}: the smallest needs {least / 1e9:.1f} GB",
            "take a smaller --base; `delrec-lite plan` shows what each needs",
        )
    return settings
