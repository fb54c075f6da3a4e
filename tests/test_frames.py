"""Frames in, frames out: fit, recommend, evaluate and export from Python are what the commands do."""

import json
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import delrec_lite
from delrec_lite import Dataset, DelRec, Recommender
from delrec_lite.config import Recipe, load_recipe, shipped_recipes
from delrec_lite.data.store import load_candidates, load_dataset
from delrec_lite.errors import ConfigError, DataError, StorageError, UsageError
from delrec_lite.frames.recipes import for_frames, read_recipe
from delrec_lite.scoring.run import Options, score
from tests.command import run as call
from tests.frames import interactions, items, tiny_recipe
from tests.scoring import table_file
from tests.tiny import dataset as ring


def users_of(data):
    return zip(data.user_ids, data.sequences, strict=True)


PREPARED = {"k_core": 2, "candidates": 5, "quiet": True}


class Capsule:
    """A table that speaks Arrow's PyCapsule interface and nothing else, with views of texts as newer packages have."""

    def __init__(self, frame):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        texts = [field.name for field in table.schema if pa.types.is_large_string(field.type)]
        for name in texts:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string_view()))
        self._table = table
        self.column_names = self._table.column_names

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def polars(frame):
    return pytest.importorskip("polars", reason="polars is not installed").from_pandas(frame)


KINDS = {
    "pandas": lambda frame: frame,
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "capsule": Capsule,
    "polars": polars,
}


@pytest.fixture(scope="module")
def dataset():
    return Dataset.from_frames(interactions(), items(), name="ring", **PREPARED)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("frames") / "runs"


@pytest.fixture(scope="module")
def model(tiny_base, dataset, runs):
    with DelRec(tiny_recipe(tiny_base), runs, quiet=True).fit(dataset) as fitted:
        yield fitted


# --- Data sets. ---


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_every_kind_give_one_data_set(dataset, kind):
    convert = KINDS[kind]
    other = Dataset.from_frames(convert(interactions()), convert(items()), name="ring", **PREPARED)
    assert other.prepared.fingerprint == dataset.prepared.fingerprint
    assert other.kind == ("arrow" if kind == "capsule" else kind)


def test_a_data_set_of_frames_is_the_one_that_prepare_writes(dataset, tmp_path):
    interactions().rename(columns={"datetime": "timestamp"}).to_csv(tmp_path / "log.csv", index=False)
    items().to_csv(tmp_path / "items.csv", index=False)
    own = ["--interactions", "log.csv", "--items", "items.csv", "--k-core", 2, "--candidates", 5]
    assert call("prepare", "ring", *own, "-q", cwd=tmp_path).returncode == 0
    dataset.save(tmp_path / "saved")
    command, python = tmp_path / "data" / "ring", tmp_path / "saved"
    assert load_dataset(command).fingerprint == load_dataset(python).fingerprint == dataset.prepared.fingerprint
    for split, sets in load_candidates(command).items():
        assert sets.fingerprint == load_candidates(python)[split].fingerprint
    written = [json.loads((folder / "dataset.json").read_text()) for folder in (command, python)]
    assert written[0].pop("source")["columns"]["time"] == "timestamp"
    assert written[1].pop("source")["columns"]["time"] == "datetime"
    assert written[0] == written[1]
    assert np.array_equal(*(np.load(folder / "times.npy") for folder in (command, python)))


@pytest.mark.parametrize(
    "columns",
    [
        {"user": "uid", "item": "sku", "time": "ts", "title": "name"},
        {"user_id": "uid", "item_id": "sku", "datetime": "ts", "title": "name"},
        "user=uid,item=sku,time=ts,title=name",
    ],
)
def test_columns_have_the_caller_s_names(dataset, columns):
    log = interactions().rename(columns={"user_id": "uid", "item_id": "sku", "datetime": "ts"})
    listed = items().rename(columns={"item_id": "sku", "title": "name"})
    other = Dataset.from_frames(log, listed, columns, name="ring", **PREPARED)
    assert other.prepared.fingerprint == dataset.prepared.fingerprint
    assert repr(other) == repr(dataset) == "Dataset('ring', 24 users, 30 items, 365 interactions)"


def changed(frame, column, row, value):
    frame = frame.reset_index(drop=True)
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("log", "listed", "message", "hint"),
    [
        (lambda f: f.drop(columns="user_id"), None, "interactions has no column 'user_id'", "it has: item_id, weight"),
        (lambda f: f.drop(columns="datetime"), None, "interactions has no column 'datetime'", "it has"),
        (None, lambda f: f.drop(columns="title"), "items has no column 'title'", "it has: item_id, price"),
        (lambda f: f.set_index("user_id"), None, "interactions has 'user_id' as its index", "reset_index"),
        (lambda f: f.iloc[:0], None, "interactions has no rows", "three"),
        (lambda f: changed(f, "user_id", 3, None), None, "interactions, row 3: user_id is empty", 'on_bad_row="drop"'),
        (lambda f: changed(f, "item_id", 4, None), None, "interactions, row 4: item_id is empty", 'on_bad_row="drop"'),
        (lambda f: changed(f, "user_id", 3, "NULL"), None, "row 3: user_id is 'NULL', a missing value", "keep_na=True"),
        (lambda f: changed(f, "datetime", 2, None), None, "row 2: datetime is ''", 'on_bad_row="drop"'),
        (lambda f: f.assign(datetime="soon"), None, "row 0: datetime is 'soon', neither a number nor a date", "drop"),
        (lambda f: f.assign(user_id=[[1]] * len(f)), None, "user_id has values of type list<item: int64>", "text"),
        (lambda f: changed(f, "item_id", 1, object()), None, "item_id has values of several types", "as text"),
        (lambda f: changed(f, "item_id", 0, 9999), None, "item '9999' of ring has interactions but no title", "drop"),
        (None, lambda f: f[:-1], "item '29' of ring has interactions but no title", "add it to items"),
        (None, lambda f: f.iloc[:0], "has interactions but no title", "add it to items"),
        (None, lambda f: changed(f, "title", 5, None), "items, row 5: item '5' has an empty title", "LLM|drop"),
        (None, lambda f: pd.concat([f, f[:1].assign(title="Other")]), "items, row 30: item '0' has a second title", ""),
        (None, lambda f: f.rename(columns={"price": "title"}), "items has several columns 'title'", "its own"),
    ],
)
def test_bad_frames_are_refused_in_one_line_that_says_where(log, listed, message, hint):
    frames = (log or (lambda f: f))(interactions()), (listed or (lambda f: f))(items())
    with pytest.raises(DataError) as caught:
        Dataset.from_frames(*frames, name="ring", **(PREPARED | {"k_core": 1}))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert any(part in f"{caught.value.message} {caught.value.hint}" for part in hint.split("|"))
    assert "--" not in f"{caught.value.message} {caught.value.hint}"


def test_bad_rows_are_dropped_and_counted_where_that_is_asked_for(dataset, capfd):
    log = pd.concat([interactions(), pd.DataFrame({"user_id": ["u1", None], "item_id": [9999, 1]})])
    log["datetime"] = log["datetime"].fillna(pd.Timestamp(2024, 1, 1))
    quiet = PREPARED | {"quiet": False}
    other = Dataset.from_frames(log, items(), name="ring", on_bad_row="drop", **quiet)
    said = capfd.readouterr().err
    assert other.prepared.fingerprint == dataset.prepared.fingerprint
    assert "user_id is empty" in said
    assert "1 interactions with items that have no title" in said
    assert "24 users, 30 items" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interactions": [("u", "i", 1)]}, "interactions is of type list and no frame"),
        ({"items": {"i": "title"}}, "items is of type dict and no frame"),
        ({"columns": {"uid": "user_id"}}, "'uid' does not name a column"),
        ({"columns": ["user_id"]}, "columns is of type list"),
        ({"columns": {"user": ""}}, "has no name"),
        ({"k_core": 0}, "k-core is 0"),
        ({"k_core": "5"}, "k_core is '5'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"test_users": True}, "test_users is True"),
        ({"split": "random"}, "no split is called 'random'"),
        ({"duplicates": "some"}, "some"),
        ({"on_bad_row": "keep"}, "on_bad_row has no value 'keep'"),
        ({"item_columns": "price"}, "item_columns is one text"),
        ({"item_columns": [5]}, r"item_columns\[0\] is 5"),
        ({"text_columns": None}, "text_columns is None"),
        ({"split": None}, "no split is called None"),
        ({"duplicates": None}, "duplicates has no value None"),
        ({"on_bad_row": None}, "on_bad_row has no value None"),
        ({"repeats": "no"}, "repeats is 'no'"),
        ({"keep_na": "no"}, "keep_na is 'no'"),
        ({"name": ""}, "the data set has no name"),
        ({"name": 5}, "name is 5"),
        ({"verb": "read"}, "verb is 'read', and there is no domain"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, words):
    frames = {"interactions": interactions(), "items": items()}
    with pytest.raises(UsageError, match=words):
        Dataset.from_frames(**(frames | PREPARED | arguments))


# --- Recipes. ---


def test_a_recipe_comes_in_four_forms(tiny_base, tmp_path):
    keys = tiny_recipe(tiny_base)
    written = tmp_path / "r.yaml"
    written.write_text(json.dumps(keys))
    recipe = Recipe.model_validate(keys)
    assert read_recipe(keys) == read_recipe(written) == read_recipe(str(written)) == read_recipe(recipe) == recipe
    assert read_recipe({**keys, "finetune": {"lr": np.float64(5e-4), "rank": np.int64(4)}}).finetune.lr == 5e-4
    for name in shipped_recipes():
        assert read_recipe(name) == load_recipe(name)


@pytest.mark.parametrize(
    ("recipe", "error", "words"),
    [
        ("ml-100k-gpuu", ConfigError, "no recipe named"),
        ({"model": {}}, ConfigError, "name"),
        ({"name": "r", "modle": {}}, ConfigError, "unknown key 'modle'"),
        ({"name": "r", "finetune": {"lr": -1}}, ConfigError, "finetune.lr"),
        ({"name": "r", "finetune.lr": 1e-3}, ConfigError, "'finetune.lr' is written as one key"),
        ({"name": "r", "finetune": {"lr": object()}}, ConfigError, "neither text nor number"),
        (5, UsageError, "type int"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_runs(recipe, error, words):
    with pytest.raises(error, match=words):
        DelRec(recipe)


def test_of_a_recipe_for_another_data_set_its_domain_stays(tmp_path):
    shipped = for_frames(read_recipe("ml-100k-cpu"), tmp_path / "d", None)
    assert shipped.data.model_fields_set == {"domain", "folder"}
    assert (shipped.data.domain, shipped.data.folder) == ("movie", str(tmp_path / "d"))
    assert shipped.model == load_recipe("ml-100k-cpu").model
    own = for_frames(read_recipe({"name": "r", "data": {"k_core": 3, "domain": "game"}}), tmp_path, "item")
    assert (own.data.k_core, own.data.domain) == (3, "item")


def test_a_recipe_that_contradicts_the_data_set_is_refused(tiny_base, dataset, tmp_path):
    recipe = tiny_recipe(tiny_base, data={"k_core": 7})
    with pytest.raises(ConfigError, match="data.k_core is 7 in the recipe"):
        DelRec(recipe, tmp_path, quiet=True).fit(dataset)


def test_without_a_recipe_init_writes_one_that_later_fits_read(dataset, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr("delrec_lite.pipeline.run.Run.export", lambda run: fitted.append(run.recipe))
    DelRec(runs=tmp_path, quiet=True).fit(dataset)
    path = tmp_path / "ring.yaml"
    written = path.read_text()
    assert fitted[0].finetune == load_recipe(str(path)).finetune == load_recipe("beauty").finetune
    path.write_text(written.replace("epochs: 5.0", "epochs: 0.25"))
    DelRec(runs=tmp_path, quiet=True).fit(dataset)
    assert fitted[1].finetune.epochs == 0.25


# --- Fit. ---


def test_before_fit_there_is_one_clear_error():
    model = DelRec("ml-100k-cpu")
    for ask in (lambda: model.recommend(["u1"]), model.evaluate, lambda: model.export("x.delrec")):
        with pytest.raises(UsageError, match="this DelRec is not fitted") as caught:
            ask()
        assert "fit(dataset)" in caught.value.hint
    with pytest.raises(UsageError, match="fit got a DataFrame"):
        model.fit(interactions())


def test_fit_computes_each_stage_once_also_in_another_object(model, tiny_base, dataset, runs):
    assert all(stage.computed for stage in model.run.stages.values())
    again = DelRec(tiny_recipe(tiny_base), runs, quiet=True).fit(dataset)
    assert not any(stage.computed for stage in again.run.stages.values())
    assert again.run.folder == runs / "r"


def test_the_commands_go_on_where_fit_was(model, runs):
    done = call("train", runs / "r" / "recipe.yaml", "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finetune"]["seconds"] == model.run.stages["finetune"].seconds


def test_fit_says_where_its_files_are(tiny_base, dataset, runs, capfd):
    DelRec(tiny_recipe(tiny_base), runs).fit(dataset)
    assert f"run: {runs / 'r'}" in capfd.readouterr().err


# --- Recommend. ---


def test_a_frame_has_the_names_of_rectools_and_the_types_that_came_in(model):
    frame = model.recommend(["u0", "u3"], k=4)
    assert list(frame.columns) == ["user_id", "item_id", "score", "rank"]
    assert frame["item_id"].dtype == np.int64
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 2
    assert frame["user_id"].tolist() == ["u0"] * 4 + ["u3"] * 4
    assert len(frame.merge(items(), on="item_id")) == 8
    assert (frame.groupby("user_id")["score"].diff().dropna() <= 0).all()


def test_scores_are_those_of_the_commands_score_and_recommend(model, tmp_path):
    histories = {user: [str(i) for i in sequence] for user, sequence in users_of(ring())}
    bundle = model.run.bundle
    scored = score(bundle, table_file(tmp_path / "u.parquet", histories), tmp_path / "out", Options(k=3), workers=1)
    ours, theirs = model.recommend(list(histories), k=3), scored.to_frame("pandas").sort_values(["user_id", "rank"])
    ours = ours.sort_values(["user_id", "rank"])
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-3)  # another number of threads
    same = ours["item_id"].astype(str).to_numpy() == theirs["item_id"].to_numpy()
    assert same.mean() > 0.9
    with Recommender.load(bundle) as recommender:
        answer = recommender.recommend([f"id:{item}" for item in histories["u5"]], k=3)
    assert ours[ours["user_id"] == "u5"]["item_id"].astype(str).tolist() == [item.id for item in answer.items]
    frame = answer.to_frame("pandas")
    assert frame["item_id"].tolist() == [item.id for item in answer.items]
    assert list(frame.columns) == ["rank", "item_id", "title", "score", "probability"]


@pytest.mark.parametrize("kind", KINDS)
def test_users_come_in_every_form_and_the_answer_is_of_their_kind(model, kind):
    user, history = "u7", [int(item) for item in ring().sequences[7]]
    log = interactions()[lambda frame: frame["user_id"] == user]
    titles = [ring().catalog.titles[item] for item in history]
    convert = KINDS[kind]
    wanted = model.recommend([user], k=3)
    forms = {
        "users": convert(pd.DataFrame({"user_id": [user]})),
        "interactions": convert(log),
        "in order": convert(log.sort_values("datetime")[["user_id", "item_id"]]),
        "histories": convert(pd.DataFrame({"user_id": [user], "history": [history]})),
        "text histories": convert(pd.DataFrame({"user_id": [user], "history": [" ".join(map(str, history))]})),
    }
    for form, users in forms.items():
        answer = model.recommend(users, k=3)
        assert type(answer).__module__.split(".")[0] == {"capsule": "pyarrow", "arrow": "pyarrow"}.get(kind, kind), form
        rows = pa.table(answer) if kind != "pandas" else pa.Table.from_pandas(answer, preserve_index=False)
        assert rows["item_id"].to_pylist() == wanted["item_id"].tolist(), form
        assert rows["user_id"].to_pylist() == [user] * 3, form
    plain = {"ids": {user: history}, "titles": {user: titles}, "texts": {user: [f"id:{i}" for i in history]}}
    for form, users in plain.items():
        assert model.recommend(users, k=3).equals(wanted), form
    listed = model.recommend([titles, np.array(history)], k=3)
    assert listed["user_id"].tolist() == [0, 0, 0, 1, 1, 1]
    assert listed["item_id"].tolist() == wanted["item_id"].tolist() * 2
    assert model.recommend(pd.Series([user]), k=3).equals(model.recommend(np.array([user]), k=3))


def test_asked_for_kinds_and_options(model):
    title = ring().catalog.titles[4]
    table = model.recommend(["u1"], k=30, candidates=[3, np.int64(4), "5"], exclude=[title], to="arrow")
    assert sorted(table["item_id"].to_pylist()) == [3, 5]
    assert model.recommend({"new": []}, k=2)["user_id"].tolist() == ["new", "new"]  # the most popular
    kept = model.recommend({"a": [1, 2]}, k=30, exclude_history=False)["item_id"].tolist()
    assert {1, 2} <= set(kept)
    assert not {1, 2} & set(model.recommend({"a": [1, 2]}, k=30)["item_id"].tolist())


def test_items_that_the_catalogue_lacks_are_left_out_and_counted(model, capfd, monkeypatch):
    monkeypatch.setattr(model._console, "say", lambda text: print(text, file=sys.stderr))
    answer = model.recommend({"a": [1, 2, 4711]}, k=3)
    assert answer.equals(model.recommend({"a": [1, 2]}, k=3))
    assert "1 of 3 items, such as '4711'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("users", "error", "words"),
    [
        ("u1", UsageError, "one text and no list"),
        ([], UsageError, "users is empty"),
        (["u1", "nobody", "none"], UsageError, "user 'nobody' and 1 more of 3 has no interactions"),
        (["u1", ["i"]], UsageError, "ids and lists"),
        ([None], UsageError, "missing id"),
        (["u1", 5], UsageError, "several types"),
        ({"a": "Toy Story"}, UsageError, "one text and no list"),
        ({"a": [4711]}, DataError, "no item of history is in the catalogue"),
        ({"a": [1.5]}, UsageError, "neither a title nor an id"),
        (pd.DataFrame({"uid": ["u1"]}), DataError, "neither a column 'item_id' nor 'history'"),
        (pd.DataFrame({"user_id": ["a", None], "item_id": [1, 2]}), DataError, "users, row 1: user_id is empty"),
        (pd.DataFrame({"user_id": ["a"], "history": [5]}), DataError, "no lists"),
    ],
)
def test_users_that_cannot_be_are_refused(model, users, error, words):
    with pytest.raises(error, match=words):
        model.recommend(users)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k is 0"),
        ({"to": "panda"}, "no kind of frame is called 'panda'"),
        ({"on_bad_row": "keep"}, "keep"),
        ({"where": "x"}, "x"),
    ],
)
def test_options_that_cannot_be_are_refused(model, options, words):
    with pytest.raises(UsageError, match=words):
        model.recommend(["u1"], **options)


# --- Values as they come out of databases, spreadsheets and joins. ---


def with_ids(make):
    log, listed = interactions(), items()
    return log.assign(item_id=make(log["item_id"])), listed.assign(item_id=make(listed["item_id"]))


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: [Decimal(int(i)).quantize(Decimal("1.00")) for i in ids],
        lambda ids: pd.arrays.SparseArray(ids),
        lambda ids: pd.Series([np.int64(i) if i % 2 else str(i) for i in ids], ids.index, dtype=object),
    ],
)
def test_an_id_is_the_same_in_every_type(dataset, make):
    log, listed = with_ids(make)
    for frames in ((log, listed), (log, items()), (interactions(), listed)):
        other = Dataset.from_frames(*frames, name="ring", **PREPARED)
        assert other.prepared.fingerprint == dataset.prepared.fingerprint


@pytest.mark.parametrize(("make", "bits"), [(lambda i: i + 1e17, 64), (lambda i: (i + 2**25).astype("float32"), 32)])
def test_ids_that_floats_cannot_tell_apart_are_refused(make, bits):
    with pytest.raises(DataError, match=f"item_id has ids that are floats of {bits} bits, too large to be exact"):
        Dataset.from_frames(*with_ids(make), name="ring", **PREPARED)
    users = interactions().assign(user_id=lambda frame: make(frame["item_id"]))
    with pytest.raises(DataError, match="user_id has ids that are floats"):
        Dataset.from_frames(users, items(), name="ring", **PREPARED)


def test_objects_and_wide_numbers_of_polars_are_read_by_their_values(dataset):
    package = pytest.importorskip("polars", reason="polars is not installed")
    log = polars(interactions())
    objects = log.with_columns(package.Series("user_id", log["user_id"].to_list(), dtype=package.Object))
    wide = log.with_columns(package.col("item_id").cast(package.Int128))
    for frame in (objects, wide):
        other = Dataset.from_frames(frame, items(), name="ring", **PREPARED)
        assert other.prepared.fingerprint == dataset.prepared.fingerprint


def test_a_class_that_extends_a_frame_is_one():
    class Own(pd.DataFrame):
        pass

    assert Dataset.from_frames(Own(interactions()), items(), name="ring", **PREPARED).kind == "pandas"


def test_text_that_is_none_is_refused_with_its_row():
    texts = pd.Series(["\ud800", *["u"] * (len(interactions()) - 1)], dtype=object)
    with pytest.raises(DataError, match="user_id, row 0 is no valid text"):
        Dataset.from_frames(interactions().reset_index(drop=True).assign(user_id=texts), items(), **PREPARED)


def test_one_column_for_two_things_is_refused():
    with pytest.raises(UsageError, match="'item_id' is named for two of user, item and time"):
        Dataset.from_frames(interactions(), items(), {"user": "item_id"}, **PREPARED)
    with pytest.raises(UsageError, match="time has two names, 'datetime' and 'weight'"):
        Dataset.from_frames(interactions(), items(), {"time": "datetime", "timestamp": "weight"}, **PREPARED)


def test_columns_without_names_have_numbers(dataset):
    log = interactions()[["user_id", "item_id", "datetime"]].set_axis([0, 1, 2], axis=1)
    listed = items()[["item_id", "title"]].set_axis([1, 5], axis=1)
    other = Dataset.from_frames(log, listed, {"user": 0, "item": 1, "time": 2, "title": 5}, name="ring", **PREPARED)
    assert other.prepared.fingerprint == dataset.prepared.fingerprint


def test_a_noun_with_a_verb_is_a_domain(dataset, tmp_path):
    books = Dataset.from_frames(interactions(), items(), domain="book", verb="read", **PREPARED)
    about = json.loads((books.save(tmp_path / "books") / "dataset.json").read_text())
    assert (about["domain"], about["verb"]) == ("book", "read")
    recipe = for_frames(read_recipe("ml-100k-cpu"), tmp_path, books.settings.domain, books.settings.verb)
    assert (recipe.data.words.items, recipe.data.words.done) == ("books", "read")
    own = read_recipe({"name": "r", "data": {"name": "ml-100k", "domain": "book", "verb": "read"}})
    assert for_frames(own, tmp_path, None).data.words.done == "read"
    assert for_frames(own, tmp_path, "game").data.words.done == "played"


def test_a_name_that_is_no_folder_s_is_refused_before_anything_is_written(tmp_path):
    runs = tmp_path / "runs"
    for name in ("../shop", "my shop"):
        data = Dataset.from_frames(interactions(), items(), name=name, **PREPARED)
        with pytest.raises(UsageError, match="and its run cannot be"):
            DelRec(runs=runs, quiet=True).fit(data)
    assert not list(tmp_path.iterdir())


def test_a_series_of_histories_has_its_users_in_the_index(model):
    log = interactions().sort_values("datetime")
    histories = log.groupby("user_id")["item_id"].apply(list)[["u3", "u1", "u3"]]
    answer = model.recommend(histories, k=2)
    assert answer["user_id"].tolist() == ["u3", "u3", "u1", "u1", "u3", "u3"]
    assert answer["item_id"].tolist()[:4] == model.recommend(["u3", "u1"], k=2)["item_id"].tolist()


def test_bad_rows_of_users_are_dropped_where_that_is_asked_for(model, capfd):
    rows = pd.DataFrame({"user_id": ["a", None, "b", "c"], "item_id": [1.0, 2.0, np.nan, 4711.0]})
    with pytest.raises(DataError, match="row 1: user_id is empty; row 2: item_id is empty"):
        model.recommend(rows)
    assert model.recommend(rows, k=1, on_bad_row="drop")["user_id"].tolist() == ["a"]
    empty = model.recommend(pd.DataFrame({"user_id": [], "history": []}))
    assert len(empty) == 0
    with pytest.raises(UsageError, match="users is empty"):
        model.recommend({})


def test_a_hint_with_a_command_keeps_it(model):
    with pytest.raises(UsageError) as caught:
        model.recommend(["u1"], where="price > 3")
    assert "`delrec-lite catalog columns ... --item-columns`" in caught.value.hint


# --- Evaluate, export, load. ---


def test_the_report_is_the_table_of_eval(model, runs):
    report = model.evaluate()
    done = call("eval", runs / "r" / "recipe.yaml", "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    frame = report.to_frame()
    assert frame["model"].tolist() == [row["model"] for row in rows]
    assert frame["HR@10"].tolist() == [row["metrics"]["HR@10"] for row in rows]
    intervals = report.to_frame("intervals", to="arrow").to_pylist()
    first = rows[0]
    assert {
        (row["metric"], row["mean"], row["low"], row["high"])
        for row in intervals
        if row["model"] == first["model"] and row["protocol"] == first["protocol"]
    } == {(name, first["metrics"][name], *first["intervals"][name]) for name in first["metrics"]}
    comparisons = report.to_frame("comparisons")
    assert {"model", "against", "difference", "low", "high", "p"} <= set(comparisons.columns)
    assert "SASRec" in set(comparisons["against"])
    assert set(report.to_frame("segments")["model"]) == set(frame["model"])
    with pytest.raises(UsageError, match="no part 'metric'") as caught:
        report.to_frame("metric")
    assert "did you mean metrics?" in caught.value.hint


def test_an_exported_bundle_answers_as_the_model_does(model, tmp_path):
    path = model.export(tmp_path / "shop.delrec")
    wanted = model.recommend({"a": [1, 2, 3]}, k=5)
    with DelRec.load(path) as loaded:
        answer = loaded.recommend({"a": [1, 2, 3]}, k=5, to="pandas")
        assert answer["item_id"].astype(int).tolist() == wanted["item_id"].tolist()
        with pytest.raises(UsageError, match="knows no users"):
            loaded.recommend(["u1"])
        with pytest.raises(UsageError, match="has no data set and no run"):
            loaded.evaluate()
    assert call("verify", path).returncode == 0
    model.export(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="is no bundle"):
        model.export(tmp_path / "mine")


def test_importing_the_package_imports_nothing_that_is_heavy():
    code = (
        "import sys, delrec_lite; assert dir(delrec_lite); before = set(sys.modules); "
        "from delrec_lite import DelRec, Dataset; "
        "print([n for n in ('torch', 'pandas', 'polars', 'pyarrow', 'transformers', 'pydantic') if n in sys.modules], "
        "'numpy' in before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[0] + "]" == "[]"
    assert done.stdout.endswith("False\n")
    assert delrec_lite.DelRec is DelRec
