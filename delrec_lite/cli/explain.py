"""`delrec-lite explain`: which items of a history led to a recommendation."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import (
    BundleArgument,
    JsonFlag,
    QuietFlag,
    UnknownOption,
    WordsOption,
    found,
    make_console,
    say_skipped,
    say_words,
)

EXAMPLE = 'Example: `delrec-lite explain my.delrec --history "Toy Story" --history "Alien" --item "The Matrix"`'


def explain(
    bundle: BundleArgument,
    history: Annotated[
        list[str] | None, typer.Option("--history", help="A title (or id:ITEM), oldest first; repeatable.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="The item to explain. Default: the first recommendation.")] = None,
    allow_new: Annotated[
        bool, typer.Option(help="Accept unknown titles as new items, represented by their words.")
    ] = False,
    on_unknown: UnknownOption = "skip",
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness", help="Instead: compare the effect of leaving out the top item with that of a random item."
        ),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --faithfulness: a prepared data set. Default: the stored requests.")
    ] = None,
    users: Annotated[int, typer.Option("-n", min=1, help="With --faithfulness: number of users.")] = 200,
    words: WordsOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores allowed.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Leave out one item of a history at a time, and show how much less likely the recommendation becomes."""
    from dataclasses import asdict

    from delrec_lite.runtime import explain as runtime_explain
    from delrec_lite.runtime.held_out import held_out
    from delrec_lite.runtime.recommender import Recommender
    from delrec_lite.runtime.resolving import check_policy

    console = make_console(json_output, quiet)
    policy = check_policy(on_unknown)
    with Recommender.load(found(bundle, console), threads, exact=True) as recommender:
        if faithfulness:
            histories = held_out(recommender.bundle, data).split.histories[:users]
            summary = runtime_explain.faithfulness(recommender, histories)
            rows = [
                ("users", str(summary.users)),
                ("decrease without the top item", f"{summary.top:.3f} nats"),
                ("decrease without a random item", f"{summary.random:.3f} nats"),
                ("difference", f"{summary.test.difference:+.3f} ({summary.test.low:+.3f} to {summary.test.high:+.3f})"),
                ("p (paired)", f"{summary.test.p:.2g}"),
            ]
            console.result(asdict(summary), rows, ("faithfulness", bundle.name))
            return
        explanation = runtime_explain.explain(recommender, history or [], item, allow_new, policy, words)
        say_skipped(console, explanation.skipped, recommender.nearest)
    place = f"number {explanation.rank}" if explanation.rank else "in the history, or not available"
    console.say(f"{explanation.title}: {place}, {explanation.probability:.1%}, because of")
    ordered = sorted(explanation.contributions, key=lambda c: -c.weight)
    shown = [(c.title, f"{c.weight:+.3f}" if c.read else "not read") for c in ordered]
    console.result(asdict(explanation), shown, ("history item", "log-probability"))
    if (about := explanation.words) is not None:
        say_words(console, about.read)
        for word in about.contributions:
            near = f" (nearest in its text: {word.nearest})" if word.nearest else ""
            console.say(f"  {'not ' if word.negated else ''}{word.word}: {word.weight:+.3f}{near}")
        console.say(f"texts that fit the words best: {', '.join(about.fitting)}")
    if (teacher := explanation.teacher) is not None:
        rank = f"number {teacher.rank}, {teacher.probability:.1%}" if teacher.rank else "in the history"
        first = "also its first" if teacher.agrees else f"its first is {teacher.first}"
        console.say(
            f"teacher ({', '.join(teacher.kinds)}): {rank}; for the model's first choice: {first}; "
            f"{teacher.shared:.0%} of the first ten are the same"
        )
    if explanation.soft_words:
        nearest = ", ".join(words[0].strip() or repr(words[0]) for words in explanation.soft_words if words)
        console.say(f"words nearest to the soft prompt: {nearest}")
    console.say(f"{explanation.milliseconds:.0f} ms")
