"""All stages in one call: a bundle, an example recommendation by it, then the table."""

import time
from pathlib import Path
from shlex import quote

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.files import check_folder
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.table import evaluate, show
from delrec_lite.runtime.manifest import bundle_files


def quickstart(
    recipe: Recipe, runs: Path, console: Console, fresh: bool = False, train: bool = False, zero_shot: bool = False
) -> Run:
    """Compute the missing stages of ``recipe``, print one recommendation and then the table.

    Args:
        recipe: Of the run.
        runs: Folder of all runs.
        console: Shows progress and prints the table.
        fresh: Delete earlier results first.
        train: Train even if the package has the trained weights.
        zero_shot: Evaluate the untrained LLM too, which takes longer than all other rows together.
    """
    start = time.monotonic()
    run = Run(recipe, runs, console, fresh, shipped=not train)
    check_folder(run.bundle, "bundle", bundle_files)  # before hours of training, not after
    for pulled in run.pulled.values():
        console.say(f"  pull: {pulled.name}, {pulled.bytes / 1e6:.0f} MB, {pulled.licence} ({pulled.mirror})")
    with run.locked():
        run.export()
        example(run, console)
        show(run, evaluate(run, zero_shot=zero_shot), console)
    minutes = (time.monotonic() - start) / 60
    console.say(f"\n{minutes:.1f} minutes. Table: {run.folder / 'table.md'}. Bundle: {run.bundle}")
    first = run.dataset.catalog.titles[0]
    console.say(f"Next: delrec-lite recommend {quote(str(run.bundle))} --history {quote(first)}")
    if "shipped" in run.finetune().result:
        console.say(
            f"The trained weights came with the package. To train them here: delrec-lite quickstart {recipe.name} "
            "--train (a quarter of an hour on two cores)"
        )
    return run


def example(run: Run, console: Console) -> None:
    """Recommend to one test user, with the exported bundle."""
    from delrec_lite.runtime.recommender import Recommender

    test, catalog = run.dataset.test(), run.dataset.catalog
    history = [catalog.titles[i] for i in test.histories[0][-5:]]
    among = None if run.models.ranks_catalogue else [catalog.titles[i] for i in run.candidates["test"].items[0]]
    with Recommender.load(run.bundle) as recommender:
        recommender.recommend(history, 5, among)  # warm-up: the model is read from disk
        answer = recommender.recommend(history, 5, among)
    console.heading(f"After {', '.join(history)}:")
    for item in answer.items:
        console.say(f"  {item.rank}. {item.title}  {item.probability:.1%}")
    console.say(f"  {sum(answer.milliseconds.values()):.0f} ms on the CPU")
