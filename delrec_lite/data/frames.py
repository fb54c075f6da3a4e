"""Frames of pandas, Polars and Arrow: their columns as Arrow, and Arrow tables as frames."""

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from delrec_lite.data.packages import arrow
from delrec_lite.data.tables import Table, refuse_missing
from delrec_lite.errors import DataError, MissingPackageError, UsageError, did_you_mean

FrameKind = Literal["pandas", "polars", "arrow"]
KINDS: tuple[str, ...] = get_args(FrameKind)


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns: of pandas, Polars or Arrow, or anything that exports one."""
    if _is_pandas(value):
        return True
    columns = getattr(value, "column_names", getattr(value, "columns", None))
    return hasattr(value, "__arrow_c_stream__") and columns is not None


def kind_of(frame: Any) -> FrameKind:
    """The package of a frame; ``arrow`` for any other that speaks the Arrow PyCapsule interface."""
    packages = {kind.__module__.partition(".")[0] for kind in type(frame).__mro__}  # of a class that extends one, too
    return "pandas" if "pandas" in packages else "polars" if "polars" in packages else "arrow"


def usual_kind() -> FrameKind:
    """The kind where no frame came in: pandas where it is installed, else Polars, else Arrow."""
    return next((kind for kind in ("pandas", "polars") if find_spec(kind)), "arrow")


def frame_of(table: Any, kind: str | None = None) -> Any:
    """An Arrow table as a frame.

    Args:
        table: Of Arrow.
        kind: ``pandas``, ``polars`` or ``arrow``; None: ``usual_kind``.

    Raises:
        UsageError: No such kind.
        MissingPackageError: Its package is not installed.
    """
    kind = usual_kind() if kind is None else kind
    if kind not in KINDS:
        raise UsageError(f"no kind of frame is called {kind!r}", did_you_mean(str(kind), KINDS))
    if kind != "arrow" and not find_spec(kind):
        raise MissingPackageError(
            f"a frame of {kind} needs {kind}, which is not installed", f'pip install {kind}, or ask for to="arrow"'
        )
    if kind == "pandas":
        return table.to_pandas()
    if kind == "polars":
        import polars

        return polars.from_arrow(table)
    return table


def frame_of_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str | None], kind: str | None = None) -> Any:
    """Rows as a frame.

    Args:
        rows: Values by column.
        columns: Arrow type of each column, such as ``int64``, in their order; None: that of the values.
        kind: See ``frame_of``.
    """
    pa = arrow()
    return frame_of(
        pa.table({name: pa.array([row.get(name) for row in rows], of) for name, of in columns.items()}), kind
    )


def names_of(frame: Any, what: str) -> list[str]:
    """The names of a frame's columns.

    Args:
        frame: See ``table_of``.
        what: Its name in errors, such as ``interactions``.

    Raises:
        UsageError: It is no frame.
    """
    if not is_frame(frame):
        lazy = " collect() it first" if hasattr(frame, "collect") else ""
        raise UsageError(
            f"{what} is of type {type(frame).__name__} and no frame",
            f"give a frame of pandas or Polars, or an Arrow table;{lazy}"
            if lazy
            else "give a frame of pandas or Polars, or an Arrow table",
        )
    columns = frame.columns if _is_pandas(frame) else getattr(frame, "column_names", None)
    return [str(name) for name in (frame.columns if columns is None else columns)]


def table_of(frame: Any, columns: Collection[str], what: str) -> Table:
    """Some columns of a frame, as the readers of files give them; rows count from 0.

    Args:
        frame: Of pandas or Polars, an Arrow table or batch, or anything with Arrow's PyCapsule interface for tables.
        columns: Names of the columns to read.
        what: Name of the frame in errors.

    Raises:
        UsageError: It is no frame.
        DataError: It lacks a column, has one twice, or has values without a type in one.
    """
    names, path = names_of(frame, what), Path(what)
    if _is_pandas(frame) and (index := [name for name in columns if name in frame.index.names and name not in names]):
        raise DataError(f"{what} has {index[0]!r} as its index", "make it a column: reset_index()")
    refuse_missing(path, list(columns), names)
    wanted = list(dict.fromkeys(columns))
    if _is_pandas(frame):
        arrays = {name: _column_of(frame.iloc[:, names.index(name)], f"{what}: {name}") for name in wanted}
    else:
        chosen = frame.select(wanted) if hasattr(frame, "select") else frame
        if kind_of(frame) == "polars":
            arrays = {name: _of_polars(chosen[name], f"{what}: {name}") for name in wanted}
        else:
            table = arrow().table(chosen)
            arrays = {name: _without_views(table.column(name)) for name in wanted}
    return Table(path, arrays, 0)


def _of_polars(series: Any, name: str) -> Any:
    """A column of Polars as a chunked array; objects, which it exports as addresses, and 128 bits by their values."""
    import polars

    pa = arrow()
    if series.dtype != polars.Object:
        try:
            column = series.to_arrow(compat_level=polars.CompatLevel.oldest())
            return _without_views(pa.chunked_array([column], column.type))
        except pa.ArrowInvalid:  # a type that Arrow lacks
            pass
    return _column_of(series.to_list(), name)


def _without_views(column: Any) -> Any:
    """A column of texts in a layout that all functions of pyarrow know."""
    pa = arrow()
    return column.cast(pa.large_string()) if column.type == pa.string_view() else column


def _is_pandas(value: Any) -> bool:
    return kind_of(value) == "pandas" and hasattr(value, "iloc") and hasattr(value, "columns")


def _column_of(series: Any, name: str) -> Any:
    """A column of pandas as a chunked array; texts and numbers side by side become text."""
    pa = arrow()
    if hasattr(series, "sparse"):
        series = series.sparse.to_dense()
    try:
        column = pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        column = pa.array([_text(value, name, row) for row, value in enumerate(series)], pa.string())
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column], column.type)


def _text(value: Any, name: str, row: int) -> str | None:
    """A value of a column of several types."""
    if value is None or value != value:
        return None
    if isinstance(value, np.number):
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, str) and value.encode("utf-8", "replace").decode() != value:
        raise DataError(f"{name}, row {row} is no valid text: {value[:60]!r}", "give it as UTF-8")
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"{name} has values of several types, such as {type(value).__name__} in row {row}",
        "give all of them as text or numbers",
    )
