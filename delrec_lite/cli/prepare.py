"""`delrec-lite prepare`: interactions to sequences, splits and candidate sets."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = (
    "Example: `delrec-lite prepare ml-100k --out data/ml-100k`, or your own log: "
    "`delrec-lite prepare shop --interactions log.csv --items items.csv --columns user=uid,item=sku,time=ts`"
)


def prepare(
    name: Annotated[str, typer.Argument(help="A data set to pull, or a name for your own.")] = "ml-100k",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default data/NAME.")] = None,
    k_core: Annotated[int, typer.Option(min=1, help="Least interactions per user and per item.")] = 5,
    candidates: Annotated[int, typer.Option(min=2, help="m: one positive and m - 1 unseen negatives.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Of the candidate sets.")] = 2024,
    interactions: Annotated[Path | None, typer.Option(help="Your own log, .csv or tab separated.")] = None,
    items: Annotated[Path | None, typer.Option(help="Your own item list: item and title.")] = None,
    columns: Annotated[str, typer.Option(help="Your column names, as `user=uid,item=sku,time=ts,title=name`.")] = "",
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make titles readable, apply the k-core, split by leave-one-out and sample the candidate sets once."""
    from delrec_lite.data.prepare import prepare as prepare_pulled
    from delrec_lite.data.prepare import prepare_tables
    from delrec_lite.data.readers import parse_columns, read_interactions, read_titles
    from delrec_lite.data.store import Settings
    from delrec_lite.errors import UsageError
    from delrec_lite.hub.pull import pull
    from delrec_lite.hub.registry import find

    console = make_console(json_output, quiet)
    folder = out or Path("data") / name
    if (interactions is None) != (items is None):
        raise UsageError("--interactions and --items go together", "give both: the log, and the titles of its items")
    if interactions is not None and items is not None:
        named = parse_columns(columns)
        log, titles = read_interactions(interactions, named), read_titles(items, named)
        dataset = prepare_tables(name, log, titles, folder, Settings(k_core, candidates, seed), console)
    elif find(name).kind != "dataset":
        raise UsageError(f"{name} is a model, not a data set", "name a data set, such as ml-100k")
    else:
        source = pull(name, console).folder
        dataset = prepare_pulled(name, source, folder, k_core, candidates, seed, console)
    data = {
        "name": name,
        "folder": str(folder),
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "interactions": sum(len(s) for s in dataset.sequences),
        "k_core": k_core,
        "candidates": candidates,
        "seed": seed,
        "fingerprint": dataset.fingerprint,
    }
    console.result(data if json_output else str(folder))
