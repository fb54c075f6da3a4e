"""`delrec-lite explain`: which items of a history carried a recommendation."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = 'Example: `delrec-lite explain my.delrec --history "Toy Story" --history "Alien" --item "The Matrix"`'


def explain(
    bundle: Annotated[Path, typer.Argument(help="The bundle folder, NAME.delrec.")],
    history: Annotated[
        list[str] | None, typer.Option("--history", help="A title (or id:ITEM), oldest first; repeat it.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="What to explain. Default: what is recommended first.")] = None,
    allow_new: Annotated[bool, typer.Option(help="Take unknown titles as new items, by their words.")] = False,
    faithfulness: Annotated[
        bool, typer.Option("--faithfulness", help="Instead: does leaving out the top item cost more than a random one?")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --faithfulness: a prepared data set. Default: the stored requests.")
    ] = None,
    users: Annotated[int, typer.Option("-n", min=1, help="With --faithfulness: how many users.")] = 200,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores allowed.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Leave out each item of a history in turn, and show how much less likely the recommendation gets."""
    from dataclasses import asdict

    from delrec_lite.runtime import explain as why
    from delrec_lite.runtime.held_out import held_out
    from delrec_lite.runtime.recommender import Recommender

    console = make_console(json_output, quiet)
    with Recommender.load(bundle, threads) as recommender:
        if faithfulness:
            asked = held_out(recommender.bundle, data).split.histories[:users]
            found = why.faithfulness(recommender, asked)
            rows = [
                ("users", str(found.users)),
                ("fall without the top item", f"{found.top:.3f} nats"),
                ("fall without a random item", f"{found.random:.3f} nats"),
                ("difference", f"{found.test.difference:+.3f} ({found.test.low:+.3f} to {found.test.high:+.3f})"),
                ("p (paired)", f"{found.test.p:.2g}"),
            ]
            console.result(asdict(found), rows, ("faithfulness", bundle.name))
            return
        told = why.explain(recommender, history or [], item, allow_new)
    place = f"number {told.rank}" if told.rank else "in the history"
    console.say(f"{told.title}: {place}, {told.probability:.1%}, because of")
    ordered = sorted(told.contributions, key=lambda c: -c.weight)
    shown = [(c.title, f"{c.weight:+.3f}" if c.read else "not read") for c in ordered]
    console.result(asdict(told), shown, ("history item", "log-probability"))
    if told.teacher is not None:
        has = f"number {told.teacher.rank}, {told.teacher.probability:.1%}" if told.teacher.rank else "in the history"
        first = "its first too" if told.teacher.agrees else f"its first would be {told.teacher.first}"
        console.say(
            f"teacher ({', '.join(told.teacher.kinds)}): {has}; of the model's first choice: {first}; "
            f"{told.teacher.shared:.0%} of the first ten are the same"
        )
    if told.soft_words:
        nearest = ", ".join(words[0].strip() or repr(words[0]) for words in told.soft_words if words)
        console.say(f"the soft prompt lies nearest to: {nearest}")
    console.say(f"{told.milliseconds:.0f} ms")
