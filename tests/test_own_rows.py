"""`eval --row`: the ranked lists of a user's own model are a row of the table, on the same users and candidates."""

from dataclasses import replace

import numpy as np
import pytest

from delrec_lite.console import QUIET, Console
from delrec_lite.errors import DataError, UsageError
from delrec_lite.evaluation.beyond import list_metrics
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.protocol import best_lists, candidate_ranks, catalogue_ranks
from delrec_lite.pipeline.own_rows import own_ranks, parse_rows
from delrec_lite.pipeline.table import evaluate
from tests.tiny import ITEMS, candidates, dataset

DATA, SETS = dataset(), candidates()
USERS = range(len(DATA.user_ids))
TEST = DATA.test()
SCORES = np.round(np.random.default_rng(5).normal(size=(len(USERS), ITEMS)), 1)  # with ties
SAMPLED = candidate_ranks(np.take_along_axis(SCORES, SETS.items, 1), SETS.items, TEST.targets)
FULL = catalogue_ranks(SCORES, TEST.histories, TEST.targets)


@pytest.fixture
def write(tmp_path):
    def to_file(items_of, columns=("score",), users=USERS, name="lists.csv", more=()):
        lines = ["user_id,item_id," + ",".join(columns)]
        for user in users:
            for item in items_of(user):
                score = SCORES[user, item]
                rank = 1 + (SCORES[user, list(items_of(user))] > score).sum()
                values = ",".join(str({"score": score, "rank": rank}[column]) for column in columns)
                lines.append(f"u{user},i{item},{values}")
        path = tmp_path / name
        path.write_text("\n".join([*lines, *more]) + "\n")
        return path

    return to_file


@pytest.mark.parametrize("columns", [("score",), ("rank",), ("rank", "score")])
def test_lists_of_all_items_rank_as_their_scores(write, columns):
    ranks = own_ranks(write(lambda _: range(ITEMS), columns), DATA, SETS, QUIET)
    np.testing.assert_array_equal(ranks.full, FULL)
    np.testing.assert_array_equal(ranks.sampled, SAMPLED)
    assert ranks.same_scores


def test_scores_of_the_candidates_alone_rank_the_candidates_alone(write):
    ranks = own_ranks(write(lambda user: SETS.items[user].tolist()), DATA, SETS, QUIET)
    np.testing.assert_array_equal(ranks.sampled, SAMPLED)
    assert ranks.protocols == ("sampled",)


def best(user, k=12):
    history = TEST.histories[user]
    order = [item for item in np.argsort(-SCORES[user], kind="stable") if item not in history]
    return [int(item) for item in order[:k]]


def test_lists_of_the_first_items_rank_the_catalogue(write):
    ranks = own_ranks(write(best), DATA, SETS, QUIET)
    assert ranks.protocols == ("full",)
    assert not ranks.same_scores
    for user, target in enumerate(TEST.targets):
        listed = target in best(user)
        assert (ranks.full[user] == FULL[user]) or not listed or len(set(SCORES[user])) < ITEMS
        assert listed or ranks.full[user] > 10
    hits = np.mean([target in best(user, 10) for user, target in enumerate(TEST.targets)])
    assert abs(hits - (ranks.full <= 10).mean()) <= 0.1, "but for ties"


def test_the_first_ten_items_of_each_list_are_kept_for_the_metrics_of_lists(write):
    wanted = best_lists(SCORES, TEST.histories, TEST.targets)
    whole = own_ranks(write(lambda _: range(ITEMS)), DATA, SETS, QUIET).lists
    of_values = (
        np.take_along_axis(SCORES, np.maximum(wanted, 0), 1),
        np.take_along_axis(SCORES, np.maximum(whole, 0), 1),
    )
    np.testing.assert_array_equal(*(np.where(wanted >= 0, values, 0) for values in of_values))  # ties aside
    ranks = own_ranks(write(best, users=range(1, len(DATA.user_ids))), DATA, SETS, QUIET, "count")
    assert (ranks.lists[0] == -1).all()
    facts = ItemFacts.of(DATA, [ranks.lists], None)
    alone = replace(ranks, lists=ranks.lists[1:])
    some = replace(TEST, histories=TEST.histories[1:], targets=TEST.targets[1:])
    for key in ("novelty@10", "text diversity@10", "co-occurrence diversity@10"):
        assert list_metrics(ranks, TEST, facts)[key].value == list_metrics(alone, some, facts)[key].value
    assert not len(own_ranks(write(lambda user: SETS.items[user].tolist()), DATA, SETS, QUIET).lists)


def test_users_without_a_list_are_refused_or_ranked_last(write):
    path = write(lambda _: range(ITEMS), users=range(2, len(DATA.user_ids)))
    with pytest.raises(DataError, match="no list for 2 of 24 test users, such as 'u0', 'u1'"):
        own_ranks(path, DATA, SETS, QUIET)
    console, said = Console("quiet"), []
    console.say = said.append
    ranks = own_ranks(path, DATA, SETS, console, "count")
    np.testing.assert_array_equal(ranks.full[2:], FULL[2:])
    for user in (0, 1):
        unseen = ITEMS - len(np.setdiff1d(TEST.histories[user], [TEST.targets[user]]))
        assert (ranks.full[user], ranks.sampled[user]) == (unseen, SETS.items.shape[1])
    assert any("they get the last rank" in line for line in said)


def test_rows_of_other_users_and_items_are_counted(write):
    console, said = Console("quiet"), []
    console.say = said.append
    path = write(lambda _: range(ITEMS), more=("u0,unheard of,1", "nobody,i1,1"))
    np.testing.assert_array_equal(own_ranks(path, DATA, SETS, console).full, FULL)
    assert any("2 rows name no user and item" in line for line in said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id,item_id\nu0,i0\n", "neither a column 'rank' nor 'score'"),
        ("user_id,rank\nu0,1\n", "has no column 'item_id'"),
        ("user_id,item_id,rank\nu0,i0,first\n", "rank is not a number"),
        ("user_id,item_id,rank\nu0,i0,nan\n", "rank is not a number"),
        ("user_id,item_id,rank\nu0,i0,1\nu0,i0,2\n", "lists an item twice for user 'u0'"),
        ("user_id,item_id,rank,score\nu0,i0,1,0.1\nu0,i1,2,0.9\n", "rank and score of user 'u0' give different orders"),
        ("user_id,item_id,rank\nx,y,1\n", "names no user and item"),
        ("", "holds no rows"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, words):
    path = tmp_path / "lists.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        own_ranks(path, DATA, SETS, QUIET, "count")


def test_some_of_the_candidates_are_refused(write):
    with pytest.raises(DataError, match="candidates alone, and not all of them"):
        own_ranks(write(lambda user: SETS.items[user].tolist()[:3]), DATA, SETS, QUIET)


def test_several_questions_of_a_user_are_refused(write):
    cuts = np.array([[len(s) - 4, len(s) - 2] for s in DATA.sequences])
    with pytest.raises(UsageError, match="split by time"):
        own_ranks(write(lambda _: range(ITEMS)), replace(DATA, cuts=cuts), SETS, QUIET)


def test_names_and_files(tmp_path):
    assert parse_rows(["EASE = a=b.csv", "my model=x"]).keys() == {"EASE", "my model"}
    assert str(parse_rows(["EASE=a=b.csv"])["EASE"]) == "a=b.csv"
    for options in (["EASE"], ["=x"], ["EASE="], ["a|b=x"], ["A=x", "A=y"], ["a\nb=x"]):
        with pytest.raises(UsageError):
            parse_rows(options)


def test_a_row_stands_in_the_table_with_tests_and_segments(tiny_run, write):
    run = tiny_run()
    path = write(lambda _: range(ITEMS))
    for name in ("popularity", "SASRec"):
        with pytest.raises(UsageError, match="another row"):
            evaluate(run, bundle=False, own={name: path})
    assert not run.stages.keys() & {"teacher", "finetune"}, "refused before anything is trained"
    rows = evaluate(run, bundle=False, own={"Mine": path, "Top": write(best, name="top.csv")})
    assert {(row.model, row.protocol) for row in rows} >= {
        ("Mine", "expected_sampled"),
        ("Mine", "full"),
        ("Top", "full"),
    }
    assert {row.users for row in rows} == {len(DATA.user_ids)}
    table = (run.folder / "table.md").read_text()
    assert "DELRec (training precision) against Mine" in table
    assert "| Top" in table
    assert '"Mine"' in (run.folder / "comparisons.json").read_text()
