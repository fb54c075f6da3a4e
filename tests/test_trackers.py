"""`--log`: figures of a training reach experiment trackers, and a tracker's trouble does not stop it."""

import importlib.machinery
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
from accelerate import PartialState

from delrec_lite.config import Recipe
from delrec_lite.console import Console
from delrec_lite.errors import DelrecError, MissingPackageError, UsageError
from delrec_lite.pipeline.trackers import PACKAGES, hyper_parameters, parse_trackers, tracked

RECIPE = Recipe(name="shop", teacher={"kind": "sasrec", "settings": {"hidden": 8}})


@pytest.fixture
def fake(monkeypatch):
    """A module in place of a tracker's package, which notes its calls; accelerate's own class uses it, as if first."""
    monkeypatch.setattr(PartialState, "_shared_state", {})

    def install(name, **members):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for key, value in members.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)

    return install


def figures(console):
    console.track("teacher/sasrec", 1, {"epoch": 1, "ndcg@10": 0.25})
    console.track("finetune", 0, {"step": 0, "loss": 3.0})
    console.track("finetune", 1, {"step": 1, "loss": 2.0})


def test_tensorboard_has_the_figures_of_all_stages_and_the_keys(tmp_path):
    pytest.importorskip("tensorboard", reason="make dev installs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    console = Console("quiet")
    with tracked(RECIPE, tmp_path, parse_trackers(["tensorboard"]), console):
        assert list(tmp_path.iterdir()) == [], "nothing is trained yet"
        figures(console)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "shop")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("finetune/loss")] == [(0, 3.0), (1, 2.0)]
    assert [(e.step, e.value) for e in events.Scalars("teacher/sasrec/ndcg@10")] == [(1, 0.25)]
    assert "finetune/step" not in events.Tags()["scalars"]
    (written,) = (tmp_path / "tensorboard" / "shop").glob("*/hparams.yml")
    assert "finetune.lr: 0.0006\n" in written.read_text()
    console.track("finetune", 2, {"loss": 1.0})  # outside of the context nobody follows


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_that_count_by_themselves_get_each_stage_s_step_as_a_figure(fake, tmp_path, name):
    calls = []
    run = SimpleNamespace(
        log=lambda values, step=None: calls.append((values, step)), finish=lambda: calls.append("end")
    )

    def init(project, **settings):
        calls.append((project, settings["name"]))
        return run

    config = SimpleNamespace(update=lambda values, **_: calls.append(values["finetune.lr"]))
    fake(name, init=init, config=config)
    console = Console("quiet")
    with tracked(RECIPE, tmp_path, [name], console, "shop-sweep"):
        figures(console)
    assert calls == [
        ("shop-sweep", "shop"),
        6e-4,
        ({"teacher/sasrec/ndcg@10": 0.25, "teacher/sasrec/step": 1}, None),
        ({"finetune/loss": 3.0, "finetune/step": 0}, None),
        ({"finetune/loss": 2.0, "finetune/step": 1}, None),
        "end",
    ]


def test_mlflow_gets_names_that_it_takes(fake, tmp_path):
    calls = []
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
    fake(
        "mlflow",
        search_experiments=lambda **_: [],
        create_experiment=lambda name, **_: calls.append(name),
        start_run=lambda run_name, **_: calls.append(run_name),
        log_params=lambda params: calls.append(len(params)),
        log_metrics=lambda metrics, step: calls.append((metrics, step)),
        end_run=lambda: calls.append("end"),
        utils=SimpleNamespace(validation=limits),
    )
    console = Console("quiet")
    with tracked(RECIPE, tmp_path, ["mlflow"], console):
        console.track("teacher/sasrec", 1, {"ndcg@10": 0.25})
    assert calls == ["shop", "shop", len(hyper_parameters(RECIPE)), ({"teacher/sasrec/ndcg_at_10": 0.25}, 1), "end"]


def test_a_tracker_that_fails_is_left_out_and_named_once(fake, tmp_path):
    def fail(*_, **__):
        raise ConnectionError("no server\nat all")

    fake(
        "wandb",
        init=lambda **_: SimpleNamespace(log=fail, finish=fail),
        config=SimpleNamespace(update=lambda *_, **__: 0),
    )
    console, said = Console("quiet"), []
    console.say = said.append
    with tracked(RECIPE, tmp_path, ["wandb"], console):
        figures(console)
    assert said == ["  wandb failed and is left out: no server at all"]
    fake("wandb", init=fail)
    with (
        pytest.raises(DelrecError, match="--log wandb cannot start: no server"),
        tracked(RECIPE, tmp_path, ["wandb"], console),
    ):
        figures(console)


def test_what_a_tracker_prints_is_no_result(fake, tmp_path, capsys, monkeypatch):
    at_exit = []
    monkeypatch.setattr("delrec_lite.pipeline.trackers.atexit.register", at_exit.append)
    run = SimpleNamespace(log=lambda *_, **__: print("logged"), finish=lambda: print("finished"))
    fake("trackio", init=lambda **_: print("started") or run, config=SimpleNamespace(update=lambda *_, **__: None))
    console = Console("quiet")
    with tracked(RECIPE, tmp_path, ["trackio"], console):
        figures(console)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    at_exit[0]()
    print("once more")
    out, err = capsys.readouterr()
    assert (out, err.split()) == ("", ["started", *["logged"] * 3, "finished", "once", "more"])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_one_line_with_the_command(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=f"--log {name} needs {name}, which is not installed") as raised:
        parse_trackers([name])
    assert raised.value.hint == f"pip install {name}"


def test_names_are_checked_and_may_be_given_twice(fake):
    fake("wandb")
    assert parse_trackers(["wandb", "wandb"]) == ("wandb",)
    assert parse_trackers([]) == ()
    with pytest.raises(UsageError) as raised:
        parse_trackers(["tensorbord"])
    assert "did you mean tensorboard?" in raised.value.hint


def test_keys_have_values_that_trackers_take():
    values = hyper_parameters(RECIPE)
    assert values["finetune.lr"] == 6e-4
    assert values["teacher.settings.hidden"] == 8
    assert values["model.layers"] == "None"
    assert all(isinstance(value, bool | int | float | str) for value in values.values())
