"""Users to score, and what `recommend_batch` gives them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.scoring.run import Options

SMALL = Options(k=4, part_users=8)
# 20 users, one of them without a history, one with an unknown item, one with an item twice.
HISTORIES = {f"u{n:02d}": [f"i{(3 * n + j) % 40}" for j in range(1 + n % 5)] for n in range(20)}
HISTORIES |= {"u03": [], "u04": ["i1", "gone", "i2"], "u05": ["i7", "i8", "i7"]}


def table_file(path, histories):
    pq.write_table(pa.table({"user_id": list(histories), "history": list(histories.values())}), path)
    return str(path)


def rows_of(folder):
    parts = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
    return [tuple(row.values()) for row in pa.concat_tables(parts).to_pylist()]


def assert_same(rows, expected):
    """The same rows; scores of other groups of requests may differ in their last bits."""
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in rows], [row[3] for row in expected], rtol=0, atol=1e-4)


def expected_rows(bundle):
    """What recommend_batch gives: user, rank, item, score."""
    with Recommender.load(bundle, threads=1) as recommender:
        lists = recommender.recommend_batch([[f"id:{i}" for i in h] for h in HISTORIES.values()], k=4)
    return [(u, r.rank, r.id, r.score) for u, ranking in zip(HISTORIES, lists, strict=True) for r in ranking]
