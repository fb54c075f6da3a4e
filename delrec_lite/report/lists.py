"""The section beyond accuracy: metrics of the recommended lists, their popularity, and what is recommended most."""

from collections.abc import Mapping
from typing import Any

from delrec_lite.evaluation.beyond import BY_KEY
from delrec_lite.report.accuracy import columns_of, main_model, place_of, rows_of
from delrec_lite.report.blocks import Block, Cell, Section, Table, TableRow, Terms, Text, table_of

# The first metrics tell which items the lists have, the others how the items of one list go together.
COLUMNS = 5
FIFTHS = ("most popular", "second", "third", "fourth", "least popular")
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def lists(report: Mapping[str, Any]) -> Section:
    """Nothing but a line for the reports of older versions."""
    rows = [row for row in rows_of(report, "full") if not BY_KEY.keys().isdisjoint(row["metrics"])]
    facts = report.get("lists")
    if not rows or not facts:
        text = Text(
            "No lists of the whole catalogue were kept: evaluate again, unless the model ranks candidates alone."
        )
        return Section("beyond", "Beyond accuracy", [text])
    names = [row["model"] for row in rows]
    main = place_of(names, main_model(report))
    columns = [
        (BY_KEY[key].key + ARROWS[BY_KEY[key].better], cells) for key, cells in columns_of(rows, list(BY_KEY), main)
    ]
    blocks: list[Block] = [
        Text(
            f"The first {facts['length']} items of the whole catalogue for each user. ↑ more is better, ↓ less is "
            "better; the others depend on what is wanted."
        )
    ]
    for caption, part in (("All lists together", columns[:COLUMNS]), ("Inside a list", columns[COLUMNS:])):
        blocks.append(table_of(f"{caption}; bars are 95% intervals", names, part, main, "model"))
    blocks.append(_shares(facts["popularity_shares"], main_model(report)))
    blocks.append(_most(facts["most_recommended"], main_model(report)))
    blocks.append(_meanings([key for key in BY_KEY if any(key in row["metrics"] for row in rows)], facts))
    return Section("beyond", "Beyond accuracy", blocks)


def _shares(shares: Mapping[str, list[float]], main: str) -> Table:
    """Which fifth of the catalogue the recommendations come from."""
    rows = [
        TableRow(
            name,
            [Cell("", shares=[round(100 * share, 2) for share in of_fifths]), *(Cell(f"{s:.1%}") for s in of_fifths)],
            name == main,
        )
        for name, of_fifths in shares.items()
    ]
    return Table(
        "Popularity: which fifth of the catalogue the recommended items come from", ["model", "", *FIFTHS], rows
    )


def _most(most: Mapping[str, list[dict[str, Any]]], main: str) -> Table:
    """The titles that most users' lists have."""
    rows = [
        TableRow(
            name,
            [Cell("; ".join(f"{item['title']} ({item['share']:.0%})" for item in items), is_text=True)],
            name == main,
        )
        for name, items in most.items()
    ]
    return Table(
        "Most recommended, with the share of users whose list has it",
        ["model", "titles"],
        rows,
        folded="Most recommended items",
    )


def _meanings(keys: list[str], facts: Mapping[str, Any]) -> Terms:
    notes = {
        "text diversity": f" Texts: {facts['texts']}.",
        "miscalibration": f" Categories: the column {facts['categories']}.",
    }
    return Terms(
        [(key, BY_KEY[key].meaning + notes.get(BY_KEY[key].name, "")) for key in keys], folded="What the metrics mean"
    )
