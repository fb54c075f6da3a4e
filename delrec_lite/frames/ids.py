"""Ids as the caller's frames have them: the program's texts back to whole numbers, categories or UUIDs."""

from dataclasses import dataclass, field
from typing import Any

from delrec_lite.data.packages import arrow
from delrec_lite.data.values import as_text


@dataclass(frozen=True)
class Ids:
    """The values of a column by their texts.

    Attributes:
        values: Arrow column.
        rows: Row of each text.
    """

    values: Any
    rows: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, column: Any) -> "Ids":
        """Of an Arrow column of ids, of any type that has a text."""
        rows: dict[str, int] = {}
        for row, text in enumerate(as_text(column).to_pylist()):
            rows.setdefault(text, row)
        return cls(column, rows)

    def originals(self, texts: Any) -> Any:
        """The values of an Arrow column of texts; the texts themselves where one is unknown."""
        pa = arrow()
        distinct = texts.unique().to_pylist()
        if any(text not in self.rows for text in distinct):
            return texts
        places = [self.rows[text] for text in distinct]
        values = pa.chunked_array([self.values]) if isinstance(self.values, pa.Array) else self.values
        taken = values.take(pa.array(places, pa.int64()))
        index = pa.compute.index_in(texts, value_set=pa.array(distinct, pa.string()))
        return taken.take(index)
