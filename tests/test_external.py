"""Another recommender's lists as teacher: read, refused, and learned by the external teacher."""

import pyarrow
import pyarrow.parquet
import pytest

from delrec_lite.config import parse
from delrec_lite.console import QUIET, Console
from delrec_lite.data.lists import read_lists
from delrec_lite.errors import ConfigError, DataError
from delrec_lite.teachers.external import fit_external
from tests.teachers import ITEMS, circle, tiny

JUMP = 7


def rows(data, jump=JUMP, scored=False):
    """Lists of a recommender for which items i + 7 and i + 8 follow item i."""
    out = []
    for user, history in zip(data.user_ids, data.train(), strict=True):
        for rank, item in enumerate((history[-1] + jump, history[-1] + jump + 1), 1):
            out.append((user, rank, str(item % (ITEMS - 1)), *([5.0 - rank] if scored else [])))
    return out


def write_csv(path, lists, header="user_id,rank,item_id"):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in [(header,), *lists]))
    return path


def test_lists_are_read_in_any_order_with_and_without_scores(tmp_path):
    data = circle()
    shuffled = [*rows(data)[::-1], ("nobody", 1, "3"), ("0", 3, "no such item")]
    lists = read_lists(write_csv(tmp_path / "a.csv", shuffled), data)
    assert (len(lists), lists.unknown) == (40, 2)
    last = data.train()[5][-1]
    assert lists.items[5].tolist() == [(last + JUMP) % 20, (last + JUMP + 1) % 20]
    assert lists.shares[5] == pytest.approx([2 / 3, 1 / 3])
    table = zip(("user_id", "rank", "item_id", "score"), zip(*rows(data, scored=True), strict=True), strict=True)
    pyarrow.parquet.write_table(pyarrow.table({name: list(column) for name, column in table}), tmp_path / "a.parquet")
    scored = read_lists(tmp_path / "a.parquet", data)
    assert scored.shares[5] == pytest.approx([0.7311, 0.2689], abs=1e-4)
    assert [items.tolist() for items in scored.items] == [items.tolist() for items in lists.items]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user_id,item_id\n0,1\n", "no column 'rank'"),
        ("user_id,rank,item_id\n0,first,1\n0,2,2\n", "row 2: rank is not a number"),
        ("user_id,rank,item_id\n0,1,5\n0,2,5\n", "twice for user '0'"),
        ("user_id,rank,item_id\nx,1,5\n", "names no user and item"),
        ("user_id,rank,item_id,score\n0,1,5,high\n", "row 2: rank or score is not a number"),
        ("user_id,rank,item_id\n0,1\n", "2 fields instead of 3"),
    ],
)
def test_invalid_lists_are_refused(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        read_lists(tmp_path / "a.csv", circle())


def test_the_external_teacher_learns_the_lists_and_not_the_data(tmp_path):
    data = circle()
    lists = read_lists(write_csv(tmp_path / "a.csv", rows(data)), data)
    teacher = fit_external(tiny("external"), data, lists, QUIET)
    assert teacher.metrics["list_top1_before"] < 0.2
    assert teacher.metrics["list_top1"] > 0.7
    refitted = fit_external(tiny("external"), data, lists, QUIET)
    assert (refitted.scores(data.test().histories) == teacher.scores(data.test().histories)).all()


def test_lists_with_the_targets_give_a_warning_and_too_few_are_refused(tmp_path, capsys):
    data = circle()
    lists = read_lists(write_csv(tmp_path / "a.csv", rows(data, jump=1)), data)
    fit_external(tiny("external", epochs=1), data, lists, Console())
    assert "100% of the lists begin with the user's validation item" in capsys.readouterr().err
    few = read_lists(write_csv(tmp_path / "b.csv", rows(data)[:20]), data)
    with pytest.raises(DataError, match="10 users with a history have a list"):
        fit_external(tiny("external"), data, few, QUIET)


def test_a_recipe_names_the_lists_with_the_kind():
    assert parse("name: a\nteacher: {kind: external, lists: a.csv}", "a").teacher.kinds == ("external",)
    for text in ("{kind: external}", "{kind: sasrec, lists: a.csv}"):
        with pytest.raises(ConfigError, match="must be set together"):
            parse(f"name: a\nteacher: {text}", "a")


def test_a_run_trains_from_the_lists(tiny_run, tmp_path):
    make = tiny_run
    data = make(teacher={"settings": {"epochs": 1, "hidden": 8, "max_length": 8}}).dataset
    list_rows = [
        (user, rank, data.catalog.ids[(history[-1] + 2 + rank) % len(data.catalog)])
        for user, history in zip(data.user_ids, data.train(), strict=True)
        for rank in range(3)
        if len(history)
    ]
    lists = write_csv(tmp_path / "lists.csv", list_rows)
    settings = {"epochs": 1, "hidden": 8, "max_length": 8}
    run = make("first", teacher={"kind": "external", "lists": str(lists), "settings": settings})
    assert run.finetune().result
    assert 0 <= run.teacher().result["external"]["list_top1"] <= 1
    lists.write_text(lists.read_text().replace(",0,", ",5,", 1))
    changed = make("second", teacher={"kind": "external", "lists": str(lists), "settings": settings})
    assert changed.teacher().key != run.teacher().key
    lists.unlink()
    with pytest.raises(DataError, match="lists.csv cannot be read"):
        make("third", teacher={"kind": "external", "lists": str(lists), "settings": settings}).teacher()
