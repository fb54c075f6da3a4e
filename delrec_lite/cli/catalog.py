"""`delrec-lite catalog`: adds items after training, and gives items other values in their columns."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import BundleArgument, JsonFlag, QuietFlag, found, make_console

EXAMPLE = "Example: `delrec-lite catalog add shop.delrec new-items.csv --columns item=sku,title=name`"
COLUMNS_EXAMPLE = "Example: `delrec-lite catalog columns shop.delrec items.csv --item-columns price,available`"
catalog = typer.Typer(no_args_is_help=True, help="Change what a bundle can recommend, without training.")


@catalog.callback()
def _group() -> None:
    """Change what a bundle can recommend, without training."""


@catalog.command(epilog=EXAMPLE)
def add(
    bundle: BundleArgument,
    items: Annotated[
        Path, typer.Argument(help="The new items with id and title: CSV, TSV, JSON Lines, Parquet or RecBole.")
    ],
    columns: Annotated[str, typer.Option(help="Your column names, such as `item=sku,title=name`.")] = "",
    text_columns: Annotated[
        str,
        typer.Option(
            help="Columns of side text. Default: those that the data set was prepared with, if the list has them."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="The bundle to write; default: replace BUNDLE.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="refuse or drop malformed rows.")] = "refuse",
    keep_na: Annotated[
        bool, typer.Option("--keep-na", help="Take words such as NULL, None and nan as ids and titles.")
    ] = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Add items by their titles, so that they can be recommended; item columns of the bundle are read too.

    A running server loads them on SIGHUP.
    """
    from delrec_lite.data.badrows import BadRows, parse_policy
    from delrec_lite.data.readers import parse_columns, parse_text_columns, read_item_list
    from delrec_lite.data.tables import Layout
    from delrec_lite.data.typed_columns import ColumnSpec
    from delrec_lite.runtime.additions import add_items
    from delrec_lite.runtime.bundle import Bundle

    console = make_console(json_output, quiet)
    bad = BadRows(parse_policy(on_bad_row))
    names, text_names = parse_columns(columns), parse_text_columns(text_columns)
    # The bundle's own columns, as far as the list has them.
    opened = Bundle.open(found(bundle, console), verify=False)
    specs, usual = [ColumnSpec(column.name, column.kind) for column in opened.columns], opened.text_columns
    layout = Layout(keep_na=keep_na)
    new = read_item_list(items, text_names or usual, specs, names, bad, layout, found=True, texts_found=not text_names)
    if lacking := [name for name in usual if name not in new.text_columns]:
        console.say(f"  side text of the other items has {', '.join(lacking)}, too; that of the new ones has not")
    for malformed in bad.files:
        console.say(f"  dropped: {malformed}")
    for note in bad.notes:
        console.say(f"  {note}")
    added = add_items(bundle, new.titles, out, new.texts, new.rows)
    shown = str(out or bundle)
    data = {"folder": shown, "added": added.titles, "items": added.items, "known": added.known}
    if added.titles and (boost := opened.new_item_boost) is not None:
        data["new_item_boost"] = boost
        console.say(f"  their scores have a boost of {boost:+.2f}, which export chose on validation users")
    known = f"; {len(added.known)} were in the catalogue already" if added.known else ""
    console.result(data if json_output else f"{len(added.titles)} items added to {shown}{known}; {added.items} in all")


@catalog.command("columns", epilog=COLUMNS_EXAMPLE)
def set_item_columns(
    bundle: BundleArgument,
    items: Annotated[Path, typer.Argument(help="Items with id and columns, in any format of an item list.")],
    item_columns: Annotated[
        str, typer.Option(help="Columns to set, such as `price,available,tags:list`; a type as in prepare.")
    ] = "",
    columns: Annotated[str, typer.Option(help="Your column names, such as `item=sku`.")] = "",
    out: Annotated[Path | None, typer.Option(help="The bundle to write; default: replace BUNDLE.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="refuse or drop malformed rows.")] = "refuse",
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Set the item columns that filters read, for the items that the list names; no column of titles is needed.

    A running server loads them on SIGHUP.
    """
    from dataclasses import asdict

    from delrec_lite.data.badrows import BadRows, parse_policy
    from delrec_lite.data.readers import parse_columns, parse_text_columns, read_item_rows
    from delrec_lite.data.typed_columns import parse_specs
    from delrec_lite.runtime.bundle import Bundle
    from delrec_lite.runtime.new_columns import set_columns

    console = make_console(json_output, quiet)
    bad = BadRows(parse_policy(on_bad_row))
    kinds = {column.name: column.kind for column in Bundle.open(found(bundle, console), verify=False).columns}
    specs = [replace(s, kind=s.kind or kinds.get(s.name)) for s in parse_specs(parse_text_columns(item_columns))]
    rows = read_item_rows(items, specs, parse_columns(columns), bad)
    for malformed in bad.files:
        console.say(f"  dropped: {malformed}")
    result = set_columns(bundle, rows, out)
    unknown = f"; {result.unknown} ids are not in the catalogue" if result.unknown else ""
    names = ", ".join(f"{name} ({kind})" for name, kind in result.columns.items())
    data = {**asdict(result), "folder": str(result.folder)}
    console.result(
        data if json_output else f"{result.items} items have new values in {result.folder}{unknown}; {names}"
    )
