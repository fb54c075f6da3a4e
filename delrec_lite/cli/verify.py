"""`delrec-lite verify`: checks that a bundle is unchanged since its export and answers here as it did there."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from delrec_lite.cli.common import BundleArgument, JsonFlag, QuietFlag, found, make_console

if TYPE_CHECKING:
    from delrec_lite.runtime.verify import Answers

EXAMPLE = "Example: `delrec-lite verify my.delrec`"


def verify(
    bundle: BundleArgument,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: the cores allowed.")] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Hash its files, open its models, run its stored requests here and compare with the answers at export."""
    from delrec_lite.runtime.verify import verify as check

    console = make_console(json_output, quiet)
    report = check(found(bundle, console), threads)
    gate = "compared with the trained model" if report.gated else "NOT compared with the trained model"
    unopened = [f"{file} not: {reason}" for file, reason in report.unopened.items()]
    rows = [
        ("source", report.source),
        ("models", "; ".join([f"{', '.join(report.models)} opened", *unopened])),
        ("files", f"{report.files}, {report.bytes / 1e6:.0f} MB, as exported"),
        ("exported on", str(report.exported_on)),
        ("answered on", str(report.answered_on)),
        *((f"{answers.engine} {answers.quant}", _describe(answers, report.requests)) for answers in report.answers),
        *([("item index", _describe_index(report.item_index))] if report.item_index else []),
        ("at export", gate),
    ]
    console.result(report.dump(), rows, (report.name, "verified"))


def _describe_index(facts: dict[str, Any]) -> str:
    found = f"{facts['recall']:.1%} of the first ten found at export"
    return f"{facts['rank']} numbers an item, {facts['candidates']} candidates scored exactly; {found}"


def _describe(answers: "Answers", requests: int) -> str:
    if not answers.stored:
        return f"{requests} answered; the bundle stores no answers of this model"
    return (
        f"{requests} answered, {answers.top10_overlap:.1%} of the first ten the same, {answers.rank_agreement:.1%} of "
        f"their pairs in the same order, scores within {answers.largest_difference:.3f}"
    )
