"""An update extends the data set, goes on training, and replaces the bundle only if the new one is not worse."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from delrec_lite.config import Recipe
from delrec_lite.console import QUIET
from delrec_lite.data.prepare import prepare_tables
from delrec_lite.data.readers import Interactions
from delrec_lite.data.store import Settings
from delrec_lite.errors import DataError, GateError, UsageError
from delrec_lite.hub.cache import Pulled
from delrec_lite.hub.registry import DATASETS, Asset, register_dataset
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.updates import compare
from delrec_lite.pipeline.updates.inputs import NewData
from delrec_lite.pipeline.updates.mixture import CONTEXT, Mixture, mix, new_parts
from delrec_lite.pipeline.updates.update import update
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.command import call
from tests.strangers import snapshot
from tests.tiny import ITEMS, dataset


def rows_of(data, add=0):
    """Users walk the ring on, ``add`` steps beyond their sequences; every step an hour."""
    for user, sequence in zip(data.user_ids, data.sequences, strict=True):
        for at in range(len(sequence), len(sequence) + add) if add else range(len(sequence)):
            yield user, f"i{(sequence[0] + at) % ITEMS}", 3600.0 * at


def write_log(path, rows):
    path.write_text("uid,item,at\n" + "".join(f"{u},{i},{t:.0f}\n" for u, i, t in rows))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where the first test keeps the finished run, so that the others need not train."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def shop(tiny_run, tmp_path, finished):
    """A finished run of the ring, its recipe's file, and the log of the next days."""
    data = dataset()
    if not any(finished.iterdir()):
        write_log(finished / "first.csv", rows_of(data))
        titles = "".join(f"{item},{title}\n" for item, title in zip(data.catalog.ids, data.catalog.titles, strict=True))
        (finished / "items.csv").write_text("item,title\n" + titles)
        options = ("--interactions", finished / "first.csv", "--items", finished / "items.csv", "--candidates", 5)
        columns = ("--columns", "user=uid,item=item,time=at", "--k-core", 2, "-q")
        assert call("prepare", "ring", *options, *columns, "--out", tmp_path / "new") == 0
        shutil.rmtree(tmp_path / "ring")
        (tmp_path / "new").rename(tmp_path / "ring")
        run = tiny_run(update={"tolerance": 1.0, "teacher_epochs": 1})
        run.export()
        for name in ("ring", "runs"):
            shutil.copytree(tmp_path / name, finished / name)
    for name in ("ring", "runs"):
        shutil.copytree(finished / name, tmp_path / name, dirs_exist_ok=True)
    recipe = tiny_run.recipe(update={"tolerance": 1.0, "teacher_epochs": 1})
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(exclude_unset=True)))
    write_log(tmp_path / "second.csv", rows_of(data, add=3))
    return tmp_path


def run_update(folder, *words):
    return call("update", folder / "r.yaml", "--runs", folder / "runs", *words)


def bundle_of(folder):
    return folder / "runs" / "r" / "r.delrec"


def updated(folder, capsys, *words):
    """The JSON of an update that succeeds."""
    capsys.readouterr()
    assert run_update(folder, "--json", *words) == 0
    return json.loads(capsys.readouterr().out)


def test_an_update_goes_on_and_the_next_one_goes_on_from_there(shop, capsys, tiny_run):
    second = ("--interactions", shop / "second.csv")
    before = snapshot(shop / "runs")
    planned = updated(shop, capsys, *second, "--dry-run")
    after = snapshot(shop / "runs")
    assert after == before, "a dry run writes nothing"
    assert planned["counts"]["added"] == 3 * len(dataset().user_ids)
    assert (planned["updated"], planned["counts"]["new_users"], planned["questions"] > 0) == (False, 0, True)
    assert planned["minutes"] is not None
    first = Bundle.open(bundle_of(shop)).manifest

    done = updated(shop, capsys, *second)
    assert done["updated"]
    assert set(done["metrics"]) == {"old", "updated"}
    assert Bundle.open(bundle_of(shop)).manifest != first
    run = Run(tiny_run(update={"tolerance": 1.0, "teacher_epochs": 1}).recipe, shop / "runs", QUIET)
    assert run.dataset.interactions == planned["counts"]["added"] + sum(map(len, dataset().sequences))
    assert run.finetune().computed is False, "the update is the run's training now"
    assert run.export().computed is False
    assert run.distill().result["carried"]
    report = json.loads((shop / "runs/r/updates/001/report.json").read_text())
    assert sorted(report["newest"]["users"]) == sorted(dataset().user_ids)
    assert report["newest"]["all_new"]

    bundle = snapshot(bundle_of(shop))
    again = updated(shop, capsys, *second)
    assert (again["updated"], again["counts"]["added"]) == (False, 0)
    assert again["counts"]["known"] == planned["counts"]["rows"]
    assert snapshot(bundle_of(shop)) == bundle

    third = [("v", f"i{n}", 1e6 + n) for n in range(4)] + [("u0", "fresh", 1e6), ("w", "i3", 1e6)]
    write_log(shop / "third.csv", third)
    (shop / "fresh.csv").write_text("item,title\nfresh,Old River (1949)\nidle,Nobody's Winter\ni0,Renamed\n")
    assert run_update(shop, "--interactions", shop / "third.csv") == DataError.exit_code
    counts = updated(shop, capsys, "--interactions", shop / "third.csv", "--items", shop / "fresh.csv")["counts"]
    assert {name: counts[name] for name in ("new_users", "new_items", "waiting", "idle_items", "retitled")} == {
        **dict.fromkeys(("new_users", "new_items", "waiting", "idle_items", "retitled"), 1)
    }
    catalogue = Bundle.open(bundle_of(shop)).items
    assert sorted(catalogue.ids[:ITEMS]) == sorted(dataset().catalog.ids)
    assert catalogue.titles[ITEMS:] == ["Old River (1949)"]
    assert not (shop / "runs/r/updates/001/finetune").exists(), "what was gone on from is removed"
    assert call("recommend", bundle_of(shop), "--history", "Old River (1949)", "-q") == 0
    waiting = write_log(shop / "fourth.csv", [("w", "i4", 2e6), ("w", "i5", 3e6)])
    assert updated(shop, capsys, "--interactions", waiting)["counts"]["new_users"] == 1


def test_a_worse_bundle_does_not_replace_the_old_one(shop, capsys, monkeypatch):
    before = snapshot(bundle_of(shop))
    recipe = yaml.safe_load((shop / "r.yaml").read_text())
    recipe["update"]["tolerance"] = 0.0
    (shop / "r.yaml").write_text(yaml.safe_dump(recipe))
    real = compare.bundle_ranks
    worse = lambda path, newest, *rest: real(path, newest, *rest) + 20 * ("updates" in path.parts)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr("delrec_lite.pipeline.updates.update.bundle_ranks", worse)
        assert run_update(shop, "--interactions", shop / "second.csv") == GateError.exit_code
    assert "old one stays" in capsys.readouterr().err
    assert snapshot(bundle_of(shop)) == before
    assert not (shop / "runs/r/updates/current.json").exists()


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_an_update_that_is_killed_goes_on(shop, capsys, monkeypatch):
    """Before stage 2, before the update counts, before its bundle has its place, before the old bundle is removed."""
    before = snapshot(bundle_of(shop))
    words = ("--interactions", shop / "second.csv")
    for moment in ("updates.run.UpdateRun._make_finetuned", "generations.make_newest", "generations.put_in_place"):
        with monkeypatch.context() as patched:
            patched.setattr(f"delrec_lite.pipeline.{moment}", interrupt)
            assert run_update(shop, *words) == 130
        assert snapshot(bundle_of(shop)) == before
    made = shop / "runs/r/updates/001/r.delrec"
    new = snapshot(made)
    remove = shutil.rmtree
    with monkeypatch.context() as patched:
        patched.setattr(
            "delrec_lite.files.shutil.rmtree", lambda path, **kw: (interrupt if path == made else remove)(path, **kw)
        )
        assert run_update(shop, *words) == 130
    assert (snapshot(bundle_of(shop)), snapshot(made)) == (new, before)
    assert updated(shop, capsys, *words)["counts"]["added"] == 0
    assert snapshot(bundle_of(shop)) == new
    assert not made.exists()


def test_items_that_were_added_to_the_bundle_stay_and_need_no_list(shop, capsys):
    add_items(bundle_of(shop), {"a": "Last Train", "b": "First Train"})
    log = write_log(shop / "day.csv", [("u0", "a", 1e6)])
    assert updated(shop, capsys, "--interactions", log)["counts"]["new_items"] == 1
    bundle = Bundle.open(bundle_of(shop))
    assert bundle.items.ids[-2:] == ["a", "b"]
    assert bundle.trained == ITEMS + 1


WRONG = [
    ("uid,item,at\n", (), DataError, "holds no rows"),
    ("", (), DataError, "day.csv"),
    ("user,item,at\nu0,i1,9\n", (), DataError, "no column 'uid'"),
    ("uid,item,at\nu0,i1,yesterday\n", (), DataError, "row 2"),
    ("uid,item,at\nu0,unheard-of,9\n", (), DataError, "give their titles with --items"),
    ("uid,item,at\nU0,I1,9\n", (), DataError, "ids as in the first log"),
    ("uid,item,at\nx,y,9\n", (), DataError, "none of its users"),
    ("uid,item,at\nu0,i1,9\n", ("--on-bad-row", "maybe"), UsageError, "maybe"),
    ("uid,item,at\nu0,i1,9\n", ("--items", "nowhere.csv"), DataError, "nowhere.csv"),
    ("uid,item,at\nu0,i1,9\n", ("--columns", "item=uid"), UsageError, "both 'uid'"),
]


def test_wrong_rows_are_refused_in_one_line(shop, capsys):
    before = stages_of(shop)
    for content, words, code, says in WRONG:
        (shop / "day.csv").write_text(content)
        capsys.readouterr()
        assert run_update(shop, "--interactions", shop / "day.csv", "-q", *words) == code.exit_code, content
        error = capsys.readouterr().err
        assert says in error
        assert error.startswith("error: ")
        assert error.count("\n") <= 2
    assert stages_of(shop) == before


def stages_of(folder):
    """All files of the run but its recipe, which names the folder of the data set."""
    return {path: content for path, content in snapshot(folder / "runs").items() if path != "r/recipe.yaml"}


def test_a_run_that_is_not_finished_is_refused(shop, tmp_path):
    words = ("--interactions", shop / "second.csv")
    assert call("update", shop / "r.yaml", "--runs", tmp_path / "elsewhere", *words) == UsageError.exit_code
    assert not (tmp_path / "elsewhere").exists()
    changed = yaml.safe_load((shop / "r.yaml").read_text())
    changed["finetune"]["epochs"] = 9
    (shop / "r.yaml").write_text(yaml.safe_dump(changed))
    adapter = snapshot(shop / "runs/r/finetune")
    assert run_update(shop, *words) == UsageError.exit_code
    assert snapshot(shop / "runs/r/finetune") == adapter


def test_a_fresh_start_forgets_updates(shop, capsys):
    updated(shop, capsys, "--interactions", shop / "second.csv")
    assert call("train", shop / "r.yaml", "--runs", shop / "runs", "--stage", "teacher", "--fresh", "-q") == 0
    assert not (shop / "runs/r/updates").exists()


def test_training_anew_is_compared(shop, capsys):
    report = updated(shop, capsys, "--interactions", shop / "second.csv", "--compare-anew")
    assert set(report["metrics"]) == {"old", "updated", "anew"}
    assert report["seconds"].keys() == {"update", "anew"}


def test_what_is_trained_is_new_steps_once_a_pass_and_the_replayed_share():
    old = dataset()
    longer = [np.arange(s[0], s[0] + len(s) + 4) % ITEMS for s in old.sequences]
    new = replace(old, sequences=tuple(longer))
    parts = new_parts(old, new)
    assert {part.new_steps for part in parts} == {4}
    mixed = Mixture.of(new, mix(parts, 2.0, 0.75, 10, seed=1))
    fresh = 2 * 4 * len(parts)
    assert mixed.steps == pytest.approx(4 * fresh, rel=0.1)
    assert all(len(part) <= CONTEXT + 4 for part in mixed.parts)
    assert mix(new_parts(new, new), 1.0, 0.5, 10, seed=1) == []


def log_of(rows):
    return Interactions.of(*zip(*rows, strict=True))


def write_new(folder):
    """A day with one new item that three users have, as a log and a list."""
    steps = [(user, f"i{(s[0] + len(s)) % ITEMS}", 3600.0 * len(s)) for user, s in zip(*walks(), strict=True)]
    write_log(folder / "day.csv", [*steps, *((f"u{n}", "fresh", 1e6) for n in range(3))])
    (folder / "fresh.csv").write_text("item,title\nfresh,Old River (1949)\n")
    columns = {"user": "uid", "item": "item", "time": "at"}
    return NewData(str(folder / "day.csv"), str(folder / "fresh.csv"), columns)


def walks():
    return dataset().user_ids, dataset().sequences


FORMS = {
    "text and two teachers": {
        "model": {"item_text": "rows"},
        "teacher": {
            "kind": ["gru4rec", "esasrec"],
            "text": True,
            "settings": {name: {"epochs": 1, "hidden": 8, "max_length": 8} for name in ("gru4rec", "esasrec")},
        },
    },
    "all weights": {"finetune": {"adapter": "full", "average": 0.5}, "distill": {"epochs": 0.0}},
}


@pytest.mark.parametrize("form", FORMS)
def test_without_training_an_update_scores_old_items_as_before(form, tiny_run, tmp_path):
    """Then a new item's vectors are those of its text, and all else is what the run had."""
    data, settings = dataset(), Settings(2, 5, 3)
    titles = dict(zip(data.catalog.ids, data.catalog.titles, strict=True))
    prepare_tables("ring", log_of(list(rows_of(data))), titles, tmp_path / "ring", settings)
    run = tiny_run(update={"epochs": 0.0, "teacher_epochs": 0, "tolerance": 1.0}, **FORMS[form])
    run.export()
    add_items(run.bundle, {"fresh": "Old River (1949)"}, tmp_path / "added.delrec")
    with Recommender.load(tmp_path / "added.delrec", threads=1) as recommender:
        histories = [run.dataset.sequences[n][:6] for n in range(4)]
        before = recommender.scores(histories)
    result = update(run.recipe, tmp_path / "runs", write_new(tmp_path), QUIET)
    assert (result.plan.optimiser_steps, result.plan.counts.new_items) == (0, 1)
    with Recommender.load(result.bundle, threads=1) as recommender:
        after = recommender.scores(histories)
        taught = recommender.teacher.scores(histories)
    np.testing.assert_allclose(after[:, :ITEMS], before[:, :ITEMS], rtol=1e-2, atol=1e-2)
    # With item text `catalog add` adds a boost, which moves a little with the history.
    difference = before[:, ITEMS] - after[:, ITEMS]
    assert np.ptp(difference) < (1.0 if "model" in FORMS[form] else 0.1) * before.std()
    assert np.isfinite(after).all()
    assert np.isfinite(taught).all()
    assert taught.shape == after.shape == (4, ITEMS + 1)


def test_a_pulled_data_set_grows_inside_its_run(tiny_run, tiny_base, tmp_path, monkeypatch):
    """Also one that an older version prepared, without times: its files are read again."""
    data = dataset()
    titles = dict(zip(data.catalog.ids, data.catalog.titles, strict=True))
    read = lambda _: (log_of(list(rows_of(data))), titles)  # noqa: E731
    register_dataset(Asset("ring-log", "dataset", "none", "", (), reader=read))
    try:
        pulled = Pulled("tiny", tiny_base, "here", True, {"model": "abc"}, "none", 1)
        monkeypatch.setattr(Run, "pulled", {"model": pulled, "data": pulled})
        source = {"name": "ring-log", "k_core": 2, "candidates": 5, "split": "chronological"}
        recipe = Recipe.model_validate(
            {**tiny_run.recipe(update={"tolerance": 1.0, "teacher_epochs": 1}).dump(), "data": source}
        )
        run = Run(recipe, tmp_path / "runs", QUIET)
        run.export()
        (run.dataset_folder / "times.npy").unlink()
        result = update(recipe, tmp_path / "runs", write_new(tmp_path), QUIET)
        again = Run(recipe, tmp_path / "runs", QUIET)
        assert again.dataset.interactions == run.dataset.interactions + result.plan.counts.added
        assert again.export().computed is False
        other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"candidates": 4})})
        assert Run(other, tmp_path / "runs", QUIET).dataset.interactions == run.dataset.interactions, "of another set"
    finally:
        DATASETS.unregister("ring-log")


def test_a_data_set_without_times_has_to_be_prepared_again(shop, capsys):
    (shop / "ring" / "times.npy").unlink()
    assert run_update(shop, "--interactions", shop / "second.csv") == DataError.exit_code
    assert "prepare it again" in capsys.readouterr().err
