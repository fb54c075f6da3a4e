"""Who asks which question: duplicates, repeats, users with too few unseen items, and what the data set says of them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.config import Recipe
from delrec_lite.console import QUIET
from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.duplicates import exact_duplicates, without_duplicates
from delrec_lite.data.prepare import prepare_tables
from delrec_lite.data.readers import Interactions
from delrec_lite.data.store import Settings, load_candidates, load_dataset, load_settings, make_dataset, save_dataset
from delrec_lite.data.types import Catalog
from delrec_lite.errors import ConfigError, DataError, UsageError
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.setting import Setting
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.recommender import Recommender
from tests.tiny import dataset


def log_of(*sequences, times=None):
    """A log of users u0, u1, ...: a letter is an item, at the times 0, 1, ... or those given."""
    rows = [(f"u{n}", item, at) for n, items in enumerate(sequences) for at, item in enumerate(items)]
    users, items, moments = zip(*rows, strict=True)
    return Interactions.of(users, items, np.array(moments if times is None else times, float))


def spelled(log):
    return "".join(log.item_ids[i] for i in log.items)


TITLES = {letter: f"Lamp {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"}


def test_duplicates_are_counted_and_left_out_by_each_rule():
    log = log_of("aabcab", times=[0, 0, 1, 2, 3, 4])
    assert exact_duplicates(log) == 1
    kept = {rule: spelled(without_duplicates(log, rule)) for rule in ("keep", "first", "last", "consecutive")}
    assert kept == {"keep": "aabcab", "first": "abc", "last": "cab", "consecutive": "abcab"}
    basket = log_of("abab", times=[5, 5, 5, 5])  # exported twice
    assert spelled(without_duplicates(basket, "consecutive")) == "ab"
    two = log_of("aa", "aa")
    assert [len(without_duplicates(two, rule)) for rule in ("first", "last", "consecutive")] == [2, 2, 2]
    late = log_of("aba", times=[9, 5, 1])  # the first in time is the last in the file
    assert without_duplicates(late, "first").times.tolist() == [5, 1]


def prepared(folder, log, m=3, **settings):
    return prepare_tables("shop", log, TITLES, folder / "out", Settings(1, m, 7, **settings))


def test_repeats_that_are_rare_are_no_questions_and_usual_ones_count(tmp_path):
    rare = log_of(*["abcde", "bcdef", "cdefg", "defgh"] * 6, "abcda")
    data = prepared(tmp_path, rare)
    assert not data.repeats
    assert [len(data.questions(split)) for split in SPLITS] == [25, 24]
    assert load_candidates(tmp_path / "out")["test"].items.shape == (24, 3)
    assert data.user_ids.index("u24") not in data.questions("test")[:, 0]
    counted = prepared(tmp_path, rare, repeats=True)
    assert counted.repeats
    assert len(counted.questions("test")) == 25
    assert counted.fingerprint != data.fingerprint
    usual = prepared(tmp_path, log_of("abcab", "bcdbc", "abcde"))
    assert usual.repeats
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["repeats"] is True
    assert about["checks"]["repeated"] == pytest.approx(4 / 6, abs=1e-4)
    assert load_dataset(tmp_path / "out").repeats


def test_where_repeats_count_the_items_of_a_history_are_ranked_and_are_negatives(tmp_path):
    data = prepared(tmp_path, log_of(*["abcdefga", "bcdefgab"] * 4), m=5)
    assert data.repeats
    test, sets = data.test(), load_candidates(tmp_path / "out")["test"]
    assert test.take([0]).repeats
    seen = [
        set(history) & set(row) - {target}
        for history, row, target in zip(test.histories, sets.items, test.targets, strict=True)
    ]
    assert any(seen)
    assert all(len(set(row)) == 5 for row in sets.items)

    def scorer(histories):
        scores = np.zeros((len(histories), 7), np.float32)
        for row, history in enumerate(histories):
            scores[row, history[-1]] = 1.0  # always the last item again
        return scores

    assert rank_all(scorer, test, sets).full.min() > 1
    hidden = test.take(range(len(test)))
    hidden = type(hidden)(hidden.name, hidden.histories, hidden.targets)
    assert rank_all(scorer, hidden, sets).full.max() == 1
    assert set(ExpectedSampledMetrics.of(test, 7, 5).pools) == {6}
    setting = Setting.of(data, sets)
    assert setting.title("sampled") == "5 candidates (1 positive, 4 other items)"
    assert setting.title("full") == "whole catalogue, seen items included"


def test_a_user_who_has_every_item_asks_no_question_and_stays_in_training(tmp_path):
    data = prepared(tmp_path, log_of("abcd", "bcde", "cdef", "abcdef"))
    assert data.user_ids == ("u0", "u1", "u2", "u3")
    assert data.unasked == (3,)
    for split in SPLITS:
        assert data.questions(split)[:, 0].tolist() == [0, 1, 2]
    assert len(data.train()[3]) == 4
    loaded = load_dataset(tmp_path / "out")
    assert (loaded.unasked, loaded.fingerprint) == (data.unasked, data.fingerprint)
    checks = json.loads((tmp_path / "out" / "dataset.json").read_text())["checks"]
    assert checks["unasked_users"] == 1
    assert [note for note in checks["notes"] if "'u3'" in note]
    with pytest.raises(DataError, match="no user has 3 unseen items.*'u0' has 2 unseen"):
        prepared(tmp_path, log_of("abcd", "bcde", "cdef", "abcdef"), m=4)
    with pytest.raises(DataError, match="every user of shop has every item") as caught:
        prepared(tmp_path, log_of("abcd", "bcda"), m=2)
    assert "--repeats" in caught.value.hint


def test_users_and_items_with_one_interaction_are_counted_when_the_core_leaves_them_out(tmp_path):
    data = prepare_tables(
        "shop", log_of("abcd", "abce", "abcf", "z"), TITLES, tmp_path / "out", Settings(1, 2, 7), QUIET
    )
    assert len(data.user_ids) == 3
    checks = json.loads((tmp_path / "out" / "dataset.json").read_text())["checks"]
    assert checks["few_left_out"] == {"users": 1, "items": 1, "rows": 1}


def test_ties_constant_times_and_duplicates_are_said(tmp_path):
    def notes(log, **settings):
        prepared(tmp_path, log, m=2, **settings)
        return json.loads((tmp_path / "out" / "dataset.json").read_text())["checks"]["notes"]

    times = [0, 1, 2, 3, 0, 1, 2, 2]
    (note,) = notes(log_of("abcd", "bcde", times=times))
    assert note.startswith("times: 50% of the test items have the time of the item before")
    (note,) = notes(log_of("abcd", "bcde", times=[4] * 8))
    assert note.startswith("times: all are equal")
    doubled = log_of("aabbccdd", "bbccddee", times=[0, 0, 1, 1, 2, 2, 3, 3] * 2)
    said = " ".join(notes(doubled))
    assert "8 of 16 rows repeat an earlier row, and 2 of 2 test items are the item before again" in said
    (note,) = notes(doubled, duplicates="consecutive")
    assert note == "duplicates: 8 of 16 rows left out (consecutive)"
    assert load_settings(tmp_path / "out")[1].duplicates == "consecutive"
    assert notes(log_of("abcd", "bcde")) == []
    with pytest.raises(DataError, match="no question in its test part"):
        notes(doubled, repeats=False)


def test_a_data_set_from_before_repeats_were_recorded_keeps_its_questions(tmp_path):
    sequences = [np.array(s) for s in ([0, 1, 2, 0], [1, 2, 3, 4])]
    letters = tuple("abcdef")
    data = make_dataset("old", Catalog(letters, letters), ["u", "v"], sequences, None, True)
    sets = {split: sample_candidates(data, split, 3, 1) for split in SPLITS}
    save_dataset(
        make_dataset("old", Catalog(letters, letters), ["u", "v"], sequences), sets, Settings(1, 3, 1), tmp_path / "d"
    )
    about = json.loads((tmp_path / "d" / "dataset.json").read_text())
    del about["repeats"], about["duplicates"]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(about))
    loaded = load_dataset(tmp_path / "d")
    assert loaded.repeats
    assert len(loaded.test()) == 2
    settings = load_settings(tmp_path / "d")[1]
    assert (settings.repeats, settings.duplicates) == (True, "keep")


def test_without_repeats_every_user_asks_as_before():
    ring = dataset()
    for split in SPLITS:
        assert (ring.questions(split) == ring.targets(split)).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("duplicates", "last", "prepared with keep"),
        ("repeats", True, "prepared with False"),
        ("text_columns", ["x"], "prepared"),
    ],
)
def test_a_recipe_that_contradicts_its_data_set_is_refused(tiny_run, tmp_path, key, value, message):
    recipe = Recipe.model_validate({"name": "r", "data": {"folder": str(tmp_path / "ring"), key: value}})
    with pytest.raises(ConfigError, match=f"data.{key} is .*{message}"):
        Run(recipe, tmp_path / "runs", QUIET)
    agreeing = {"duplicates": "keep", "repeats": False, "text_columns": []}[key]
    recipe = Recipe.model_validate({"name": "r", "data": {"folder": str(tmp_path / "ring"), key: agreeing}})
    data = Run(recipe, tmp_path / "runs", QUIET).recipe.data
    assert (data.duplicates, data.repeats, data.candidates) == ("keep", False, 5)


def test_a_run_on_a_data_set_with_repeats_ranks_seen_items_in_every_row(tiny_run, tmp_path):
    """Two rounds of a short ring, and a user who has every item."""
    ring = dataset()
    sequences = [(n + np.arange(14)) % 10 for n in range(11)] + [np.arange(30)]
    data = make_dataset("ring", ring.catalog, ring.user_ids[:12], sequences, None, repeats=True)
    save_dataset(data, {s: sample_candidates(data, s, 5, 3) for s in SPLITS}, Settings(2, 5, 3), tmp_path / "ring")
    run = tiny_run()
    assert run.recipe.data.repeats is True
    rows = evaluate(run, bundle=False)
    assert {row.users for row in rows} == {12}
    table = (run.folder / "table.md").read_text()
    assert "4 other items" in table
    assert "whole catalogue, seen items included" in table
    assert "unseen" not in table
    assert set(run.expected(run.dataset.test()).pools) == {29}
    run.export()
    history = [f"id:{item}" for item in ring.catalog.ids[:10]]
    with Recommender.load(run.bundle, threads=1) as recommender:
        assert recommender.bundle.repeats
        assert len(recommender.recommend(history, k=30).items) == 30
        assert len(recommender.recommend(history, k=30, exclude_history=True).items) == 20


# --- The command. ---


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"u{user},i{(user + n) % 9},{user * 10 + n}\n" for user in range(9) for n in range(5))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Lamp {n}\n" for n in range(9)))
    return tmp_path


def prepare(*options, log="log.csv", **more):
    command = ["prepare", "shop", "--interactions", log, "--items", "items.csv", "--k-core", "1", "--candidates", "3"]
    return CliRunner().invoke(app, [*command, "--out", "out", *options], **more)


@pytest.mark.parametrize("log", ["-", "log.csv"])
def test_the_log_may_come_from_standard_input(shop, log):
    process = prepare("--json", log=log, input=(shop / "log.csv").read_bytes())
    assert process.exit_code == 0, process.exception
    data = json.loads(process.stdout)
    assert (data["users"], data["duplicates"], data["repeats"], data["checks"]["notes"]) == (9, "keep", False, [])


def test_options_reach_the_data_set_and_the_notes_are_shown(shop):
    text = (shop / "log.csv").read_text().splitlines(keepends=True)
    (shop / "log.csv").write_text("".join([*text[1:], *text[1:]]).replace(",", "::"))
    process = prepare("--no-header", "--separator", "::", "--duplicates", "last", "--no-repeats")
    assert process.exit_code == 0, process.exception
    assert "45 of 90 rows left out (last)" in process.stderr
    assert json.loads((shop / "out" / "dataset.json").read_text())["duplicates"] == "last"
    settings = load_settings(shop / "out")[1]
    assert (settings.duplicates, settings.repeats) == ("last", False)


@pytest.mark.parametrize(
    "options", [("--duplicates", "some"), ("--items", "-", "--interactions", "/dev/stdin"), ("--separator", '"')]
)
def test_wrong_options_are_refused(shop, options):
    process = prepare(*options)
    assert isinstance(process.exception, UsageError), process.exception


def test_options_of_own_files_are_refused_for_a_data_set_to_pull(shop):
    process = CliRunner().invoke(app, ["prepare", "ml-100k", "--separator", ";"])
    assert isinstance(process.exception, UsageError)
    assert "--separator" in process.exception.message
