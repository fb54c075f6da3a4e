"""Options that several verbs share, and the console they ask for."""

from typing import Annotated

import typer

from delrec_lite.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuantOption = Annotated[
    str | None, typer.Option("--quant", help="Quantisation, in a bundle that holds several; default: its first.")
]
FusedFlag = Annotated[
    bool, typer.Option("--fused", help="Mix in the teacher's opinion, by the weight that validation users chose.")
]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def names_in(text: str | None) -> list[str]:
    """The parts of a value with commas; none of an empty one."""
    return [part.strip() for part in text.split(",")] if text else []


def make_console(json_output: bool = False, quiet: bool = False) -> Console:
    """The sink for one command."""
    return Console("json" if json_output else "quiet" if quiet else "human")
