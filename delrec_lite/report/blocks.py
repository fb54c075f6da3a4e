"""What a page is made of: sections of tables, pictures, terms and text, which the template draws and escapes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Scale:
    """From numbers to percent of a column's width."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Scale":
        """That all values fit, with a little room."""
        low, high = min(values), max(values)
        room = 0.04 * (high - low) or 0.5
        return cls(low - room, high + room)

    def percent(self, value: float) -> float:
        """Where a value is, 0 to 100."""
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)


@dataclass(frozen=True)
class Strip:
    """An interval drawn beside its number, all in percent.

    Attributes:
        at: Of the value.
        left: Where the interval begins.
        width: Of the interval.
        mark: Of the value that all are compared with; None: no mark.
    """

    at: float
    left: float
    width: float
    mark: float | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Of the cell.
        small: Behind it, such as an interval.
        strip: Under it.
        shares: Widths of a bar's parts, percent; empty: no bar.
        is_text: Aligned as text, not as a number.
    """

    text: str
    small: str = ""
    strip: Strip | None = None
    shares: Sequence[float] = ()
    is_text: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row: its name, its cells, and whether it is the model that the run made."""

    name: str
    cells: Sequence[Cell]
    is_main: bool = False


@dataclass(frozen=True)
class Table:
    """A table; with ``folded``, behind a line of this text that opens it."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[TableRow]
    folded: str = ""

    @property
    def text_columns(self) -> set[int]:
        """The columns that are aligned as text: names first, then those whose cells say so."""
        cells = self.rows[0].cells if self.rows else ()
        return {0, *(n for n, cell in enumerate(cells, 1) if cell.is_text)}


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str
    small: str
    folded: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture: SVG of the program's own, its description for those who cannot see it, and its caption."""

    kind: ClassVar[str] = "figure"
    svg: str
    alt: str
    caption: str
    folded: str = ""


@dataclass(frozen=True)
class Figures:
    """Pictures side by side, where there is room."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    folded: str = ""


@dataclass(frozen=True)
class Terms:
    """Names and what they mean."""

    kind: ClassVar[str] = "terms"
    pairs: Sequence[tuple[str, str]]
    folded: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph, or text whose lines are kept."""

    kind: ClassVar[str] = "text"
    text: str
    is_code: bool = False
    folded: str = ""


Block = Table | Heading | Figure | Figures | Terms | Text


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, an address and blocks."""

    name: str
    title: str
    blocks: Sequence[Block]


def number(value: float) -> str:
    """A metric's value: three digits behind the point, four of a small one, three in all of a large one."""
    if 0 < abs(value) < 0.01:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def interval_cells(values: Sequence[tuple[float, float, float] | None], main: int | None) -> list[Cell]:
    """The cells of a column of means with their intervals, on one scale.

    Args:
        values: Mean, low and high of each row; None: the row has none.
        main: The row that the mark of all others stands for.
    """
    known = [value for value in values if value is not None]
    if not known:
        return [Cell("-") for _ in values]
    scale = Scale.of([bound for value in known for bound in value])
    compared = values[main] if main is not None else None
    mark = None if compared is None else scale.percent(compared[0])
    cells = []
    for value in values:
        if value is None:
            cells.append(Cell("-"))
            continue
        mean, low, high = value
        left = scale.percent(low)
        strip = Strip(scale.percent(mean), left, round(scale.percent(high) - left, 2), mark)
        cells.append(Cell(number(mean), f"{number(low)} to {number(high)}", strip))
    return cells


def table_of(
    caption: str, names: Sequence[str], columns: Sequence[tuple[str, Sequence[Cell]]], main: int | None, first: str
) -> Table:
    """A table from its columns.

    Args:
        caption: Above it.
        names: Of the rows.
        columns: Header and cells of each.
        main: The row to highlight.
        first: Header of the names.
    """
    rows = [TableRow(name, [cells[n] for _, cells in columns], n == main) for n, name in enumerate(names)]
    return Table(caption, [first, *(head for head, _ in columns)], rows)
