"""`Scorer` gives what `recommend` and `recommend_batch` give, in a loop, in Spark and in Ray."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from delrec_lite.data.columns import TEXT, TRUTH, ItemColumn
from delrec_lite.errors import DataError, UsageError
from delrec_lite.evaluation.best import best
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.scoring.run import Options, score
from delrec_lite.scoring.scorer import Scorer
from tests.bundles import TITLES, tiny_bundle
from tests.scoring import HISTORIES, assert_same, expected_rows, table_file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("scored")).bundle.folder


@pytest.fixture(scope="module")
def expected(bundle):
    return expected_rows(bundle)


def test_best_is_a_stable_sort():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 50):
        scores = rng.integers(0, 5, n).astype(np.float32)
        for k in (1, 3, 50):
            assert best(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"candidates": ["i3", "i1", "i9", "gone"]}, {"candidates": ["id:i3", "id:i1", "id:i9"]}),
        (
            {"candidates": ["i3", "i1"], "exclude_history": True},
            {"candidates": ["id:i3", "id:i1"], "exclude_history": True},
        ),
        ({"exclude": ["i0", "i5", "gone"]}, {"exclude": ["id:i0", "id:i5"]}),
        ({"exclude_history": False}, {"exclude_history": False}),
    ],
)
def test_candidates_and_exclusions_are_those_of_recommend(bundle, options, arguments):
    histories = [["i1", "i2"], ["i3"], []]
    scored = Scorer(bundle, 5, **options)(pa.table({"user_id": [1, 2, 3], "history": histories})).to_pylist()
    with Recommender.load(bundle, threads=1) as recommender:
        answers = [recommender.recommend([f"id:{i}" for i in h], 5, **arguments).items for h in histories]
    wanted = [(n, item.rank, item.id, item.score) for n, answer in enumerate(answers, 1) for item in answer]
    assert_same([tuple(row.values()) for row in scored], wanted)


def test_a_scorer_serves_a_plain_loop_and_spark_and_is_sent_before_it_opens_the_bundle(bundle, expected):
    table = pa.table({"uid": list(HISTORIES), "extra": range(20), "items": list(HISTORIES.values())})
    scorer = Scorer(bundle, k=4, user="uid", history="items")
    list(scorer.stream([]))
    assert_same([tuple(row.values()) for row in scorer(table).to_pylist()], expected)
    sent = pickle.loads(pickle.dumps(scorer))
    assert "recommender" not in vars(sent)
    batches = list(sent.stream(table.to_batches(max_chunksize=7)))
    assert all(batch.schema == sent.schema for batch in batches)
    assert_same([tuple(row.values()) for batch in batches for row in batch.to_pylist()], expected)
    scorer.close()
    sent.close()
    assert scorer(table.slice(0, 0)).num_rows == 0


def test_a_bad_row_of_a_scorer_is_refused_or_left_out(bundle):
    table = pa.table({"user_id": ["a", None, "c", "d"], "history": [["i1"], ["i1"], ["x", "y"], None]})
    with pytest.raises(DataError, match="user_id is empty"):
        Scorer(bundle)(table)
    with pytest.raises(DataError, match="user 'c': no item of history is in the catalogue, such as 'x'"):
        Scorer(bundle)(table.slice(2))
    scorer = Scorer(bundle, k=2, on_bad_row="drop")
    assert scorer(table).column("user_id").to_pylist() == ["a", "a"]
    assert scorer.dropped == 3
    with pytest.raises(DataError, match="no column 'history'"):
        scorer(table.select(["user_id"]))
    with pytest.raises(DataError, match="holds int64 and no lists"):
        scorer(pa.table({"user_id": [1], "history": [1]}))


def test_a_frame_is_a_table_and_other_things_are_refused(bundle):
    frame = pd.DataFrame({"user_id": [1, 2], "history": [["i1"], np.array(["i2", "i3"])], "more": [None, {}]})
    scorer = Scorer(bundle, 2)
    assert scorer(frame).equals(scorer(pa.Table.from_pandas(frame[["user_id", "history"]])))
    for wrong in (frame.to_dict("list"), {"user_id": np.array([1])}, frame["history"], None):
        with pytest.raises(UsageError, match="the table is of type"):
            scorer(wrong)


@pytest.mark.parametrize("kind", [partial(Scorer, "nowhere"), Options])
def test_arguments_of_another_kind_are_refused_and_numbers_are_ids(kind):
    for wrong in ({"exclude": "i1"}, {"candidates": "i1"}, {"exclude": None}, {"on_bad_row": "skip"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            kind(**wrong)
    made = kind(exclude=np.array([3, 5]), candidates=pa.array(["a", "b"]))
    assert (made.exclude, made.candidates) == (("3", "5"), ("a", "b"))


def test_a_filter_keeps_what_recommend_keeps(tmp_path):
    colours = ItemColumn("colour", TEXT, tuple(title.split()[0] for title in TITLES))
    folder = tiny_bundle(tmp_path, columns=(colours,)).bundle.folder
    where = 'colour = "Blue" or colour = "Red"'
    scored = Scorer(folder, 5, where=where)(pa.table({"user_id": [1, 2], "history": [["i1"], []]})).to_pylist()
    with Recommender.load(folder, threads=1) as recommender:
        rankings = recommender.recommend_batch([["id:i1"], []], 5, where=where)
    wanted = [(n, item.rank, item.id, item.score) for n, ranking in enumerate(rankings, 1) for item in ranking]
    assert_same([tuple(row.values()) for row in scored], wanted)
    users = table_file(tmp_path / "u.parquet", {"a": ["i1"]})
    with pytest.raises(UsageError, match="there is no column 'color'"):
        score(folder, users, tmp_path / "recs", Options(where='color = "Blue"'), workers=1)
    assert not (tmp_path / "recs").exists()


def test_what_is_not_available_is_never_scored(tmp_path):
    available = ItemColumn("available", TRUTH, tuple(n % 2 == 0 for n in range(len(TITLES))))
    folder = tiny_bundle(tmp_path, columns=(available,)).bundle.folder
    scored = Scorer(folder, 5)(pa.table({"user_id": [1, 2], "history": [["i1"], []]})).to_pylist()
    with Recommender.load(folder, threads=1) as recommender:
        rankings = recommender.recommend_batch([["id:i1"], []], 5)
        gone = {recommender.bundle.items.ids[item] for item in recommender.availability.unavailable}
    assert gone
    assert gone.isdisjoint(row["item_id"] for row in scored)
    assert [row["item_id"] for row in scored] == [item.id for ranking in rankings for item in ranking]
