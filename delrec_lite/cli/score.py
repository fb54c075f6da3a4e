"""`delrec-lite score`: recommends items to all users of a table, by many processes."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import BundleArgument, ExactFlag, FusedFlag, JsonFlag, QuantOption, QuietFlag, make_console

EXAMPLE = (
    "Example: `delrec-lite score shop.delrec users.parquet --out recs/ -k 20`, or from a log: "
    "`delrec-lite score shop.delrec 'logs/*.csv' --out recs/ --columns user=uid,item=sku,time=ts`"
)


def score(
    bundle: BundleArgument,
    users: Annotated[
        str,
        typer.Argument(
            help="Histories in Parquet, CSV or JSON Lines: a file, a folder, or a pattern in quotes. A row is a user "
            "with a list of item ids, or one interaction."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: Parquet parts and manifest.json.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items for each user.")] = 10,
    engine: Annotated[str, typer.Option(help="local: processes of this machine; ray: actors of Ray.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes or actors, of one thread each; default: the cores allowed.")
    ] = None,
    candidates: Annotated[Path | None, typer.Option(help="File with one item id a line: rank only these.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="File with one item id a line: never recommend these.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help='Recommend only what a filter over item columns keeps: `category = "toys" and price < 20`.'),
    ] = None,
    exclude_history: Annotated[
        bool | None,
        typer.Option(
            "--exclude-history/--include-history",
            help="Whether to leave out the history. Default: out of the catalogue, unless repeats count in the data "
            "set; not out of the candidates.",
        ),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Your column names: `user=uid,history=items`, or of interactions `user=uid,item=sku,time=ts`."
        ),
    ] = "",
    on_bad_row: Annotated[
        str, typer.Option(help="refuse or drop rows that cannot be scored; dropped ones are in rejected.parquet.")
    ] = "refuse",
    part_rows: Annotated[
        int, typer.Option(min=1, help="Users of a part. A run that goes on begins with a part.")
    ] = 2000,
    quant: QuantOption = None,
    fused: FusedFlag = None,
    exact: ExactFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Recommend items to all users of a table; the same command goes on where it was stopped."""
    from delrec_lite.data.badrows import parse_policy
    from delrec_lite.scoring.columns import parse_names
    from delrec_lite.scoring.inputs import read_ids
    from delrec_lite.scoring.run import Options
    from delrec_lite.scoring.run import score as run_score

    console = make_console(json_output, quiet)
    options = Options(
        k,
        None if candidates is None else read_ids(candidates),
        () if exclude is None else read_ids(exclude),
        where,
        exclude_history,
        parse_policy(on_bad_row),
        parse_names(columns),
        part_rows,
        quant,
        fused,
        exact,
    )
    manifest = run_score(bundle, users, out, options, engine, workers, console)
    counts = manifest["counts"]
    console.say(
        f"{counts['users']} users, {counts['rows']} rows in {counts['parts']} parts; {counts['rejected']} rows left "
        f"out, {counts['without_history']} users without a history, {counts['unknown']} unknown items"
    )
    console.result(manifest if json_output else str(out))
