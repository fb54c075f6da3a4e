"""`delrec-lite recommend`: recommends the next items from a bundle, on the CPU, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import (
    BundleArgument,
    ExactFlag,
    FusedFlag,
    JsonFlag,
    QuantOption,
    QuietFlag,
    UnknownOption,
    WordsOption,
    found,
    make_console,
    say_skipped,
    say_words,
)

EXAMPLE = 'Example: `delrec-lite recommend my.delrec --history "Toy Story (1995)" --history "Star Wars (1977)" -k 10`'


def recommend(
    bundle: BundleArgument,
    history: Annotated[
        list[str] | None, typer.Option("--history", help="A title (or id:ITEM), oldest first; repeatable.")
    ] = None,
    history_file: Annotated[Path | None, typer.Option(help="File with one title per line, oldest first.")] = None,
    candidates: Annotated[
        list[str] | None, typer.Option("--candidates", help="Rank only these titles; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Never recommend this title; repeatable.")
    ] = None,
    exclude_history: Annotated[
        bool | None,
        typer.Option(
            "--exclude-history/--include-history",
            help="Whether to leave out the history. Default: yes, unless repeats count in the data set.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items to show.")] = 10,
    allow_new: Annotated[
        bool, typer.Option(help="Accept unknown titles as new items, represented by their words.")
    ] = False,
    on_unknown: UnknownOption = "skip",
    where: Annotated[
        str | None,
        typer.Option(help='Recommend only what a filter over item columns keeps: `category = "toys" and price < 20`.'),
    ] = None,
    diversity: Annotated[
        float, typer.Option(help="0 to 1: how much less an item counts that is like one before it.")
    ] = 0.0,
    popularity_discount: Annotated[float, typer.Option(help="From 0: how much less a popular item counts.")] = 0.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores allowed.")] = None,
    quant: QuantOption = None,
    fused: FusedFlag = None,
    exact: ExactFlag = False,
    words: WordsOption = None,
    words_weight: Annotated[
        float | None,
        typer.Option(help="Of the words, 0 to 100; default: the weight that validation users chose."),
    ] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Rank the next items after a history of titles; without a history, the most popular ones."""
    from dataclasses import asdict

    from delrec_lite.errors import UsageError
    from delrec_lite.runtime.answer import POPULARITY
    from delrec_lite.runtime.recommender import Recommender
    from delrec_lite.runtime.resolving import check_policy

    console = make_console(json_output, quiet)
    titles = list(history or [])
    if history_file is not None:
        try:
            lines = history_file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{history_file} is not UTF-8 text", "save it as UTF-8") from error
        titles += [line.strip() for line in lines if line.strip()]
    if k < 1:
        raise UsageError(f"-k is {k}", "ask for at least one item")
    policy = check_policy(on_unknown)
    with Recommender.load(found(bundle, console), threads, quant=quant, fused=fused, exact=exact) as recommender:
        answer = recommender.recommend(
            titles,
            k,
            candidates,
            allow_new,
            exclude_history,
            exclude,
            on_unknown=policy,
            where=where,
            diversity=diversity,
            popularity_discount=popularity_discount,
            words=words,
            words_weight=words_weight,
        )
        say_skipped(console, answer.skipped, recommender.nearest)
    say_words(console, answer.words)
    for match in answer.matched:
        if match.item < 0:
            console.say(f"new item: {match.given}")
        elif match.given != match.title:
            also = f" (not {', '.join(match.others)})" if match.others else ""
            console.say(f"{match.given} -> {match.title}{also}")
    if answer.basis == POPULARITY:
        console.say('no known title in the history: the most popular items. Give titles with --history "A title"')
    if not answer.items:
        console.say("nothing is left to rank: history, --exclude, --where and unknown candidates leave no item")
    rows = [(str(i.rank), i.title, f"{i.score:.2f}", f"{i.probability:.1%}") for i in answer.items]
    console.result(asdict(answer), rows, ("rank", "title", "score", "share"))
    phases = ", ".join(f"{name} {ms:.1f}" for name, ms in answer.milliseconds.items())
    console.say(f"{sum(answer.milliseconds.values()):.0f} ms ({phases})")
