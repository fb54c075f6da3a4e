"""Options that several verbs share, and their console."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delrec_lite.console import Console

if TYPE_CHECKING:
    from delrec_lite.runtime.resolving import Skipped
    from delrec_lite.runtime.words.reading import WordsRead

# Skipped titles whose nearest ones are looked for, and those that are named.
MOST_NEAREST, MOST_NAMED = 3, 10

BundleArgument = Annotated[
    Path, typer.Argument(help="The bundle folder, NAME.delrec, or hf://ORG/NAME[@REVISION] of the Hugging Face Hub.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuantOption = Annotated[
    str | None, typer.Option("--quant", help="Quantisation, of a bundle with several; default: the first.")
]
FusedFlag = Annotated[
    bool | None,
    typer.Option(
        "--fused/--alone",
        help="Combine with the teacher's scores, by the weight that validation users chose; default: as trained.",
    ),
]
ExactFlag = Annotated[
    bool,
    typer.Option("--exact", help="Score every item with every request, also where the bundle has an item index."),
]
UnknownOption = Annotated[
    str, typer.Option("--on-unknown", help="skip (and name) ids and titles that the catalogue lacks, or refuse them.")
]
WordsOption = Annotated[
    str | None,
    typer.Option(
        "--words", help='What is wanted, such as "space adventure, not for children"; beside a history or alone.'
    ),
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def names_in(text: str | None) -> list[str]:
    """The parts of a comma-separated value; empty for an empty value."""
    return [part.strip() for part in text.split(",")] if text else []


def make_console(json_output: bool = False, quiet: bool = False) -> Console:
    """The console of a command; where it is quiet, so are the library's warnings."""
    logging.getLogger("delrec_lite").setLevel(logging.ERROR if quiet and not json_output else logging.NOTSET)
    return Console("json" if json_output else "quiet" if quiet else "human")


def found(bundle: Path, console: Console) -> Path:
    """The folder of a command's bundle; one of the Hub is fetched, with progress."""
    from delrec_lite.runtime.remote import located

    return located(bundle, console)


def say_words(console: Console, read: "WordsRead | None") -> None:
    """Say which words of a request count for nothing, and which are avoided."""
    if read is not None and not (read.used or read.avoided or read.unknown):
        console.say(f"no word of {read.given!r} has a meaning of its own, so they count for nothing")
    if read is not None and read.unknown:
        console.say(f"not known, so they count for nothing: {', '.join(map(repr, read.unknown[:MOST_NAMED]))}")
    if read is not None and read.avoided:
        console.say(f"avoided: {', '.join(read.avoided)}")


def say_skipped(console: Console, skipped: "Sequence[Skipped]", nearest: Callable[[str], list[str]]) -> None:
    """Say what the catalogue lacks, with the titles that are nearest to the first ones.

    Args:
        console: Of the command.
        skipped: Of the answer.
        nearest: Gives the nearest titles of some words.
    """
    from delrec_lite.runtime.selection import UNAVAILABLE

    unknown = [item for item in skipped if item.reason != UNAVAILABLE]
    for problem, items in (
        ("not in the catalogue", unknown),
        ("not available", [i for i in skipped if i not in unknown]),
    ):
        for where in dict.fromkeys(item.where for item in items):
            given = [item.given for item in items if item.where == where]
            names = ", ".join(map(repr, given[:MOST_NAMED]))
            more = f" and {len(given) - MOST_NAMED} more" if len(given) > MOST_NAMED else ""
            console.say(f"{problem}, left out of {where}: {len(given)}, {names}{more}")
    titles = [item.given for item in unknown if item.given.strip() and not item.given.startswith("id:")]
    for title in titles[:MOST_NEAREST]:
        console.say(f"  nearest to {title!r}: {', '.join(map(repr, nearest(title)))}; as a new item: --allow-new")
