"""`delrec-lite push`: publishes a bundle on the Hugging Face Hub."""

from typing import Annotated

import typer

from delrec_lite.cli.common import BundleArgument, JsonFlag, QuietFlag, make_console

EXAMPLE = (
    "Example: `delrec-lite push shop.delrec my-shop/films --private`, then "
    "`delrec-lite recommend hf://my-shop/films --history ...`"
)


def push(
    bundle: BundleArgument,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Of the Hub; created if it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="In a private repository.")] = False,
    with_catalogue: Annotated[
        bool,
        typer.Option(
            "--with-catalogue",
            help="Make titles and stored histories public although their licence or origin does not allow it.",
        ),
    ] = False,
    revision: Annotated[str, typer.Option(help="Branch, created if it is missing; default: the main one.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the card, send nothing.")] = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Publish a bundle with a model card; a catalogue of your own becomes public only if you say so.

    Login and token are those of huggingface_hub: `hf auth login`, or HF_TOKEN.
    """
    from delrec_lite.publishing.push import push as publish

    console = make_console(json_output, quiet)
    pushed = publish(bundle, repository, revision, private, with_catalogue, dry_run, console)
    if dry_run:
        console.say(pushed.card)
        console.say("nothing was sent")
    for name in pushed.removed:
        console.say(f"removed, because the bundle has it no more: {name}")
    rows = [(name, f"{size / 1e6:.2f}") for name, size in pushed.files.items()]
    console.result(pushed.dump(), [*rows, (pushed.address, f"{sum(pushed.files.values()) / 1e6:.2f}")], ("file", "MB"))
