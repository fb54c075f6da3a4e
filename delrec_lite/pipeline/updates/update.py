"""`update`: new interactions, users and items on top of a finished run; the old bundle stays until it is not beaten."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.data.extend import Extended
from delrec_lite.errors import UsageError
from delrec_lite.files import sha256_of, write_atomic
from delrec_lite.pipeline import generations
from delrec_lite.pipeline.folder import RECIPE
from delrec_lite.pipeline.updates.compare import Comparison, Newest, bundle_ranks
from delrec_lite.pipeline.updates.inputs import Inputs, NewData, read_inputs
from delrec_lite.pipeline.updates.keep import keep_given
from delrec_lite.pipeline.updates.plan import Plan, plan_of
from delrec_lite.pipeline.updates.run import AnewRun, TrainedRun, UpdateRun
from delrec_lite.provenance import stamp
from delrec_lite.runtime.manifest import MANIFEST

TRAINED = ("text", "teacher", "distill", "finetune", "export")


@dataclass(frozen=True)
class Updated:
    """The result of `update`.

    Attributes:
        bundle: The run's bundle.
        plan: Counts and steps.
        report: What was measured; None after a dry run, or if nothing was new.
    """

    bundle: Path
    plan: Plan
    report: dict[str, Any] | None = None


def update(
    recipe: Recipe, runs: Path, new: NewData, console: Console, dry_run: bool = False, compare_anew: bool = False
) -> Updated:
    """Extend the data set of a finished run, go on training, and replace its bundle if the new one is not worse.

    An update that was interrupted goes on where it was when it is called again with the same rows.

    Args:
        recipe: Of the run.
        runs: Folder of all runs.
        new: The new rows.
        console: Shows stages and figures.
        dry_run: Say what would happen, and write nothing.
        compare_anew: Train the recipe anew on the extended data set, too, for the report.

    Raises:
        UsageError: The run is not finished, or its form of prompt ranks candidates alone.
        DataError: The new rows cannot be read, or do not fit the data set.
        GateError: The new bundle is worse than the old one, or than the trained model; the old one stays.
    """
    if not (runs / recipe.name / RECIPE).is_file():
        raise UsageError(f"{runs / recipe.name} holds no run", "train first: `delrec-lite quickstart RECIPE`")
    before = TrainedRun(recipe, runs, console)
    if not before.models.ranks_catalogue:
        raise UsageError(
            "this form of prompt ranks candidates alone, and an update is judged by the whole catalogue",
            "train it again on all data: `delrec-lite prepare`, then `quickstart`",
        )
    with before.locked():
        inputs = read_inputs(before.trained(), new)
        for malformed in new.bad.files:
            console.say(f"  dropped: {malformed}")
        for note in new.bad.notes:
            console.say(f"  {note}")
        extended = inputs.extended
        _say_counts(extended, console)
        run = UpdateRun(before, extended, inputs.known.settings, inputs.source)
        newest = Newest.of(before.dataset, extended)
        plan = plan_of(run, newest)
        if dry_run:
            return Updated(before.bundle, plan)
        if extended.dataset.fingerprint == before.dataset.fingerprint:
            if extended.waiting != inputs.known.waiting:
                path = generations.waiting_path(before.folder, before.number)
                path.parent.mkdir(exist_ok=True)
                extended.waiting.save(path)
            return Updated(before.bundle, plan)
        report = _trained(run, newest, inputs, compare_anew)
        _put_in_place(before, run, inputs)
        return Updated(before.bundle, plan, report)


def _say_counts(extended: Extended, console: Console) -> None:
    c = extended.counts
    console.say(
        f"  {c.added} new interactions of {c.rows} rows: {c.new_users} new users, {c.returning_users} returning ones, "
        f"{c.new_items} new items"
    )
    for count, words in (
        (c.known, "rows are known already"),
        (c.left_out, "rows are left out as duplicates"),
        (c.untitled, "rows with items that have no title are left out"),
        (c.older, "interactions are older than the user's newest one and come in at their time"),
        (c.waiting, f"interactions of {c.waiting_users} users wait until their users have three"),
        (c.retitled, "trained items have another title or text in the list and keep what they were trained with"),
        (c.idle_items, "items of the list have no interaction and stay out; `catalog add` makes them recommendable"),
    ):
        if count:
            console.say(f"  {count} {words}")


def _trained(run: UpdateRun, newest: Newest, inputs: Inputs, compare_anew: bool) -> dict[str, Any]:
    """Train, export and compare; returns the report.

    Raises:
        GateError: The new bundle is worse.
    """
    console, before = run.console, run.before
    started = stamp()
    run.export()
    bundles = {"old": before.bundle, "updated": run.bundle}
    seconds = {"update": _seconds(run)}
    if compare_anew:
        anew = AnewRun(before, run.inner)
        anew.export()
        bundles["anew"], seconds["anew"] = anew.bundle, _seconds(anew)
    ranks = {name: bundle_ranks(bundle, newest, console, f"newest, {name}") for name, bundle in bundles.items()}
    comparison = Comparison(ranks, newest)
    report = {
        **started,
        "recipe": run.recipe.dump(),
        "counts": inputs.extended.counts.dump(),
        "data": {"before": run_facts(before), "after": run_facts(run)},
        "precision": run.models.precisions(),
        "seconds": seconds,
        **comparison.dump(),
        "newest": newest.dump(),
        "ranks": {name: values.tolist() for name, values in ranks.items()},
    }
    write_atomic(run.inner / generations.REPORT, json.dumps(report, ensure_ascii=False) + "\n")
    _say_figures(comparison, report, console)
    comparison.check(run.recipe.update.tolerance)
    return report


def run_facts(run: TrainedRun | UpdateRun) -> dict[str, Any]:
    """Sizes and fingerprints of a run's data set."""
    return dict(run.prepare().result)


def _seconds(run: UpdateRun | AnewRun) -> dict[str, float]:
    return {name: stage.seconds for name, stage in run.stages.items() if name in TRAINED}


def _say_figures(comparison: Comparison, report: dict[str, Any], console: Console) -> None:
    what = "newest interactions" if comparison.newest.all_new else "test interactions, of which none is new"
    metrics = report["metrics"]
    console.say(f"  {report['questions']} {what}, whole catalogue:")
    for name, values in metrics.items():
        shown = ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())
        took = report["seconds"].get({"updated": "update"}.get(name, name))
        time = f" ({sum(took.values()):.0f} s of training and export)" if took else ""
        console.say(f"    {name}: {shown}{time}")
    test = report["gain"]["test"]
    console.say(f"  gain: NDCG@10 {comparison.gain:+.4f} (95% {test['low']:+.4f} to {test['high']:+.4f})")
    if report["gain"].get("share_of_anew") is not None:
        console.say(f"  that is {report['gain']['share_of_anew']:.0%} of what training anew gains")


def _put_in_place(before: TrainedRun, run: UpdateRun, inputs: Inputs) -> None:
    """From now on the update counts; its bundle replaces the old one at once."""
    keep_given(before.bundle, run.bundle, inputs.listed)
    number = before.number + 1
    inputs.extended.waiting.save(generations.waiting_path(before.folder, number))
    newest = generations.newest(before.folder)
    base = newest.base if newest is not None and before.number else before.first_dataset
    bundle = sha256_of(run.bundle / MANIFEST)
    generations.make_newest(before.folder, generations.Generation(number, run.inner, base, bundle))
    generations.settle(before.folder, before.bundle)
    generations.waiting_path(before.folder, number - 1).unlink(missing_ok=True)
    if number > 1:  # what this update went on from; the first training stays
        generations.clear_generation(generations.folder_of(before.folder, number - 1))
