"""`delrec-lite prepare`: turns interactions into sequences, splits and candidate sets."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = (
    "Example: `delrec-lite prepare ml-100k --out data/ml-100k`, or your own log: "
    "`delrec-lite prepare shop --interactions log.csv --items items.csv --columns user=uid,item=sku,time=ts`"
)


def prepare(
    name: Annotated[str, typer.Argument(help="A data set to pull, or a name for your own data.")] = "ml-100k",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default data/NAME.")] = None,
    k_core: Annotated[int, typer.Option(min=1, help="Minimum interactions per user and per item.")] = 5,
    candidates: Annotated[
        int, typer.Option(min=2, help="Candidates per question, m: one positive and m - 1 unseen negatives.")
    ] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the candidate sets.")] = 2024,
    split: Annotated[
        str, typer.Option(help="leave-one-out, or chronological: 8:1:1 by time, cut at the same times for all users.")
    ] = "leave-one-out",
    interactions: Annotated[
        str | None,
        typer.Option(
            help="Your own log: CSV, TSV, JSON Lines, Parquet or a RecBole .inter file, a folder or pattern of such "
            "files, a `datasets` folder, or `sqlite:FILE?QUERY` (also duckdb:, postgres:); - is standard input."
        ),
    ] = None,
    items: Annotated[
        str | None, typer.Option(help="Your own item list with id and title, in any of these forms.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="Your column names, such as `user=uid,item=sku,time=ts,title=name`; with --no-header their numbers."
        ),
    ] = "",
    text_columns: Annotated[
        str,
        typer.Option(help="Columns of the item list to keep as side text, such as `category,brand`."),
    ] = "",
    item_vectors: Annotated[
        Path | None,
        typer.Option(
            help="Your own vectors of items, for `model.item_text: file`: a .npy file with the rows of the item list."
        ),
    ] = None,
    item_columns: Annotated[
        str,
        typer.Option(
            help="Columns of the item list to keep for filters, such as `category,price,available,tags:list`; "
            "a type (text, number, truth, list) is found in the values where none is named."
        ),
    ] = "",
    on_bad_row: Annotated[
        str, typer.Option(help="refuse or drop malformed rows; both report their number and the first few.")
    ] = "refuse",
    keep_na: Annotated[
        bool, typer.Option("--keep-na", help="Take words such as NULL, None and nan as ids and titles.")
    ] = False,
    separator: Annotated[
        str,
        typer.Option(help="Of the fields of text files, such as `;`, `tab` or `::`; default: found in the first line."),
    ] = "",
    no_header: Annotated[
        bool, typer.Option("--no-header", help="The first line is a row: columns have numbers, `user=1,item=2,time=3`.")
    ] = False,
    duplicates: Annotated[
        str,
        typer.Option(help="Of a user's rows with one item: keep all, the first, the last, or one of consecutive ones."),
    ] = "keep",
    repeats: Annotated[
        bool | None,
        typer.Option(
            "--repeats/--no-repeats",
            help="Whether an item that a user had before may be the next one; default: if that is usual in the log.",
        ),
    ] = None,
    test_users: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluate so many users, drawn with the seed; default: all of them."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="What an item is, in prompts: movie, game, artist, item, or a noun with --verb.")
    ] = None,
    verb: Annotated[
        str | None, typer.Option(help="What people have done with an item, such as read; default: the domain's verb.")
    ] = None,
    memory: Annotated[
        str,
        typer.Option(help="Prepare your own log within so much memory, such as 2GB; default: if it needs too much."),
    ] = "",
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make titles readable, apply the k-core, split, and sample the candidate sets once."""
    from delrec_lite.data.badrows import BadRows, parse_policy
    from delrec_lite.data.checks import Checks
    from delrec_lite.data.duplicates import parse_duplicates
    from delrec_lite.data.kept import source_of
    from delrec_lite.data.locations import locate
    from delrec_lite.data.memory import memory_for
    from delrec_lite.data.prepare import drop_untitled, prepare_tables
    from delrec_lite.data.prepare import prepare as prepare_pulled
    from delrec_lite.data.readers import (
        parse_columns,
        parse_text_columns,
        read_interactions,
        read_item_list,
        read_items_from,
    )
    from delrec_lite.data.sources import is_stdin
    from delrec_lite.data.store import Settings, dataset_files, parse_split
    from delrec_lite.data.tables import Layout
    from delrec_lite.data.typed_columns import parse_specs
    from delrec_lite.data.vectors import read_vectors, save_vectors
    from delrec_lite.errors import UsageError
    from delrec_lite.files import check_folder
    from delrec_lite.hub.pull import pull
    from delrec_lite.hub.registry import find_dataset
    from delrec_lite.prompts.domain import words_of

    console = make_console(json_output, quiet)
    folder = out or Path("data") / name
    check_folder(folder, "data set", dataset_files)  # before minutes of reading, not after
    bad, untitled, checks = BadRows(parse_policy(on_bad_row)), 0, Checks()
    text_names, kept = parse_text_columns(text_columns), parse_text_columns(item_columns)
    specs = parse_specs(kept)
    rule, doubles = parse_split(split), parse_duplicates(duplicates)
    if domain is None and verb is not None:
        raise UsageError(f"--verb {verb} without --domain", "say what an item is, such as --domain book")
    if domain is not None:
        words_of(domain, verb)
    settings = Settings(k_core, candidates, seed, rule, text_names, doubles, repeats, kept, test_users, domain, verb)
    if (interactions is None) != (items is None):
        raise UsageError("--interactions and --items go together", "give both: the log, and the titles of its items")
    vectors, rows_of_vectors = None, None
    if interactions is not None and items is not None:
        names, layout = parse_columns(columns), Layout(separator, not no_header, keep_na)
        log_place, item_place = locate(interactions), locate(items)
        if log_place.is_single and item_place.is_single and is_stdin(Path(items)) and is_stdin(Path(interactions)):
            raise UsageError("--interactions and --items are both standard input", "give one of them as a file")
        limit = memory_for(log_place, item_place, memory, console)
        if limit:
            from delrec_lite.data.large import LargeLog, prepare_large

            large = LargeLog(log_place, item_place, names, layout, limit)
            if item_vectors is not None:
                rows_of_vectors = read_items_from(
                    item_place, (), (), names, BadRows(bad.policy), layout, limit
                ).rows.ids
                vectors = read_vectors(item_vectors, len(rows_of_vectors))
            dataset, untitled = prepare_large(name, large, folder, settings, bad, console, checks)
        else:
            log = read_interactions(Path(interactions), names, bad=bad, layout=layout)
            listed = read_item_list(Path(items), text_names, specs, names, bad, layout)
            for malformed in bad.files:
                console.say(f"  dropped: {malformed}")
            if bad.policy == "drop":
                log, untitled = drop_untitled(log, listed.titles)
                if untitled:
                    console.say(f"  dropped: {untitled} interactions with items that have no title")
            checks.notes += bad.notes
            texts, rows = listed.texts, listed.rows
            if item_vectors is not None:
                rows_of_vectors, vectors = rows.ids, read_vectors(item_vectors, len(rows.ids))
            source = source_of(names, layout)
            dataset = prepare_tables(name, log, listed.titles, folder, settings, console, texts, checks, rows, source)
    else:
        if unused := [
            option
            for option, value in {
                "--columns": columns,
                "--separator": separator,
                "--no-header": no_header,
                "--keep-na": keep_na,
                "--memory": memory,
                "--item-vectors": item_vectors,
            }.items()
            if value
        ]:
            raise UsageError(f"{unused[0]} is about your own files", "give them with --interactions and --items")
        pulled = pull(find_dataset(name).name, console).folder
        dataset = prepare_pulled(
            name,
            pulled,
            folder,
            k_core,
            candidates,
            seed,
            console,
            settings.split,
            text_names,
            settings.duplicates,
            repeats,
            checks,
            kept,
            test_users,
            domain,
            verb,
        )
    if vectors is not None and rows_of_vectors is not None:
        console.say(f"  item vectors: {save_vectors(vectors, rows_of_vectors, dataset.catalog.ids, folder)}")
    data = {
        "name": name,
        "folder": str(folder),
        "users": len(dataset.user_ids),
        "items": len(dataset.catalog),
        "interactions": dataset.interactions,
        "k_core": k_core,
        "candidates": candidates,
        "seed": seed,
        "split": settings.split,
        **({"text_columns": list(text_names)} if text_names else {}),
        **({"item_columns": {c.name: c.kind for c in dataset.catalog.columns}} if kept else {}),
        **({"test_users": test_users} if test_users else {}),
        **({"domain": domain, "verb": verb} if domain else {}),
        "duplicates": settings.duplicates,
        "repeats": dataset.repeats,
        "dropped": {"files": [malformed.dump() for malformed in bad.files], "untitled": untitled},
        "checks": checks.dump(),
        "fingerprint": dataset.fingerprint,
    }
    console.result(data if json_output else str(folder))
