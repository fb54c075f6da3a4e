"""A log in a DuckDB file: rows are added in batches, ids are numbered, and rows come back in order of user and time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delrec_lite.data.checked import CheckedRows
from delrec_lite.data.engine import connect
from delrec_lite.data.packages import arrow
from delrec_lite.data.prepare import id_order, sort_key
from delrec_lite.data.types import Ints

# Ids that are the same as a number and as its text; then rows hold the number, in 8 bytes.
_WHOLE = "^(0|[1-9][0-9]{0,17})$"
# Rows of a transaction: whole groups of them go to the file as they come, without a second copy in a journal; but what
# DuckDB notes of rows that are not committed, 50 bytes each, is outside its limit (measured with 30 million, 2.0.1).
COMMITTED_ROWS = 2_000_000


class LogTable:
    """The rows of a log in a file.

    Args:
        folder: For the file, and for what does not fit memory while it is sorted.
        memory: Bytes that DuckDB may use.
        threads: It computes with.
    """

    def __init__(self, folder: Path, memory: int, threads: int) -> None:
        self.rows = self._committed = 0
        self._text = {"u": False, "i": False}
        self._connection = connect(folder / "spill", memory, threads, folder / "log.duckdb")
        self._connection.execute("SET preserve_insertion_order = false")
        self._connection.execute("CREATE TABLE log (u BIGINT, i BIGINT, t DOUBLE, n BIGINT, r BIGINT)")
        self._connection.execute("BEGIN")

    def close(self) -> None:
        """Give back the memory; the file can be removed."""
        self._connection.close()

    def add(self, rows: CheckedRows) -> None:
        """Add the usable rows of a batch."""
        pa, kept = arrow(), rows.usable
        count = int(kept.sum())
        if not count:
            return
        user, item = self._ids("u", rows.user_ids, rows.users[kept]), self._ids("i", rows.item_ids, rows.items[kept])
        exact = np.zeros(count, np.int64) if rows.times.exact is None else rows.times.exact[kept]
        numbers = np.arange(self.rows, self.rows + count)
        batch = pa.table({"u": user, "i": item, "t": rows.times.values[kept], "n": exact, "r": numbers})
        self._connection.register("batch", batch)
        self._connection.execute("INSERT INTO log SELECT u, i, t, n, r FROM batch")
        self._connection.unregister("batch")
        self.rows += count
        if self.rows - self._committed >= COMMITTED_ROWS:
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
            self._committed = self.rows

    def _ids(self, column: str, ids: Any, rows: Ints) -> Any:
        """The ids of rows: numbers as long as all ids of the column are some, then text."""
        pa = arrow()
        if not self._text[column]:
            # Ids that no row of these has, such as a missing one, do not count.
            used = ids.take(pa.array(np.unique(rows)))
            if pa.compute.all(pa.compute.match_substring_regex(used, _WHOLE)).as_py():
                numbers = pa.compute.if_else(pa.compute.match_substring_regex(ids, _WHOLE), ids, "0").cast(pa.int64())
                return pa.array(numbers.to_numpy()[rows])
            self._text[column] = True
            if self.rows:
                self._connection.execute(f"ALTER TABLE log ALTER COLUMN {column} TYPE VARCHAR")
            else:
                self._connection.execute(f"ALTER TABLE log ALTER COLUMN {column} SET DATA TYPE VARCHAR")
        return ids.take(pa.array(rows))

    def finish_adding(self) -> None:
        """All rows are there."""
        self._connection.execute("COMMIT")

    def number_items(self, titles: Mapping[str, str] | None) -> tuple[list[str], int]:
        """Number the items from 0.

        Args:
            titles: Items without one are left out, and their rows; None: none is.

        Returns:
            The ids in their order, and how many rows are left out.
        """
        pa = arrow()
        found = self._connection.sql("SELECT i::VARCHAR AS i, count(*) AS n FROM log GROUP BY i").to_arrow_table()
        ids, counts = found.column("i").to_pylist(), found.column("n").to_pylist()
        left_out = sum(n for i, n in zip(ids, counts, strict=True) if titles is not None and i not in titles)
        ids = [i for i in ids if titles is None or i in titles]
        ids = [ids[n] for n in id_order(ids)]
        numbers = pa.table({"i": pa.array(ids, pa.string()), "item": np.arange(len(ids), dtype=np.uint32)})
        self._connection.register("numbers", numbers)
        kind = "VARCHAR" if self._text["i"] else "BIGINT"
        self._connection.execute(f"CREATE TABLE items AS SELECT i::{kind} AS i, item FROM numbers")
        self._connection.unregister("numbers")
        return ids, left_out

    def number_users(self) -> None:
        """Number the users from 0 in their order, where their ids are text; numbers are in order themselves."""
        if not self._text["u"]:
            return
        pa = arrow()
        self._connection.execute("CREATE TABLE keys (u VARCHAR, key VARCHAR)")
        with self._connection.cursor() as reading:
            for batch in reading.sql("SELECT DISTINCT u FROM log").to_arrow_reader(1 << 18):
                users = batch.column("u")
                keyed = pa.table({"u": users, "key": pa.array(map(sort_key, users.to_pylist()), pa.string())})
                self._connection.register("keyed", keyed)
                self._connection.execute("INSERT INTO keys SELECT u, key FROM keyed")
                self._connection.unregister("keyed")
        self._connection.execute(
            "CREATE TABLE users AS SELECT u, row_number() OVER (ORDER BY key, u) - 1 AS user FROM keys"
        )

    def sorted_rows(self, exact: bool, rows: int) -> Iterator[tuple[Ints, npt.NDArray[Any], npt.NDArray[Any]]]:
        """User, item and time of the rows with an item that has a number, by user, time and place in the log.

        Args:
            exact: Times are whole numbers, see ``TimesSoFar.is_exact``.
            rows: Of a batch.
        """
        user, users = ("user", "JOIN users USING (u)") if self._text["u"] else ("u", "")
        time = "n" if exact else "t"
        ordered = self._connection.sql(
            f'SELECT {"users." if users else "log."}"{user}" AS u, item, {time} AS t FROM log JOIN items USING (i) '
            f"{users} ORDER BY 1, 3, r"
        )
        for batch in ordered.to_arrow_reader(rows):
            yield tuple(batch.column(name).to_numpy(zero_copy_only=False) for name in ("u", "item", "t"))

    def user_ids(self, users: Ints) -> Sequence[str]:
        """The ids of users, given the numbers that ``sorted_rows`` has for them, ascending."""
        if not self._text["u"]:
            return [str(user) for user in users.tolist()]
        pa = arrow()
        self._connection.register("wanted", pa.table({"user": users}))
        found = self._connection.sql('SELECT u FROM users JOIN wanted USING ("user") ORDER BY "user"').to_arrow_table()
        ids: list[str] = found.column("u").to_pylist()
        return ids
