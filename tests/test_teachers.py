"""Teachers: training data and log, settings, saved folders, and kinds of other packages."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from delrec_lite.config import parse
from delrec_lite.console import QUIET
from delrec_lite.data.types import Dataset
from delrec_lite.errors import BundleError, ConfigError, DataError, StorageError
from delrec_lite.teacher_kinds.registry import TEACHERS, TeacherKind, register_teacher
from delrec_lite.teacher_kinds.settings import TeacherConfig
from delrec_lite.teachers.contract import Teacher, pad
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.teachers.files import CONFIG, WEIGHTS
from delrec_lite.teachers.fit import _batches, fit
from delrec_lite.teachers.store import load_teacher, save_teacher
from tests.teachers import ITEMS, TOY, Toy, circle, tiny


def test_validation_excludes_items_of_the_history(monkeypatch):
    """As in the tables and in serving; otherwise the epoch would be chosen on another task."""
    data = circle()
    valid = data.valid()
    scores = np.zeros((len(valid), ITEMS), np.float32)
    for row, (history, target) in enumerate(zip(valid.histories, valid.targets, strict=True)):
        scores[row, target] = 1.0
        scores[row, history[history != target]] = 2.0
    monkeypatch.setattr(Teacher, "scores", lambda self, histories: scores[: len(histories)])
    metrics = fit(tiny("sasrec", epochs=1), data, QUIET).metrics
    assert {name: metrics[name] for name in ("expected_ndcg@10", "ndcg@10", "hr@10")} == {
        "expected_ndcg@10": 1.0,
        "ndcg@10": 1.0,
        "hr@10": 1.0,
    }


def test_an_ensemble_gives_the_mean_of_the_probabilities():
    members = [fit(tiny(kind, epochs=2), circle(), QUIET) for kind in ("sasrec", "gru4rec")]
    ensemble = Ensemble(members)
    histories = circle().test().histories[:5]

    def softmax(scores):
        return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)

    expected = (softmax(members[0].scores(histories)) + softmax(members[1].scores(histories))) / 2
    np.testing.assert_allclose(np.exp(ensemble.scores(histories)), expected, atol=1e-5)
    for batched, history in zip(ensemble.sequence_scores_many(histories), histories, strict=True):
        np.testing.assert_allclose(batched[-1], ensemble.scores([history])[0], atol=1e-4)
    assert ensemble.item_vectors().shape == (ITEMS, 32)


@pytest.mark.parametrize("kind", TEACHERS.built_in)
def test_a_fit_equals_these_steps_of_torch(kind):
    """Seed, batches, schedule and clipping in full, so that saved teachers stay reproducible bit for bit."""
    data = circle()
    config = tiny(kind, epochs=4, patience=2, weight_decay=0.01)
    fitted = fit(config, data, QUIET)
    torch.manual_seed(config.seed)
    network = TEACHERS[kind].build(config, ITEMS)
    groups = [
        {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in network.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    weights = {}
    for epoch in range(fitted.metrics["epoch"]):
        batches = list(_batches([s for s in data.train() if len(s) > 1], config, epoch + 1))
        network.train()
        for step, batch in enumerate(batches):
            epochs_done = epoch + step / len(batches)
            factor = (
                max(0.01, epochs_done) if epochs_done < 1 else 0.5 * (1 + math.cos(math.pi * (epochs_done - 1) / 3))
            )
            for group in optimiser.param_groups:
                group["lr"] = config.lr * factor
            mask = pad([np.ones(len(w) - 1, dtype=np.int64) for w in batch]).bool()
            states = network.states(pad([w[:-1] for w in batch]))[mask]
            targets = torch.as_tensor(np.concatenate([w[1:] for w in batch]))
            loss = network.loss(states, targets)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        network.eval()
        weights[epoch + 1] = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in fitted.network.state_dict().items():
        assert torch.equal(value, weights[fitted.metrics["epoch"]][name]), name


def test_training_writes_a_log_and_stops_at_its_time_limit(tmp_path: Path):
    fit(tiny("sasrec"), circle(), QUIET, tmp_path, time_limit_s=0)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_test_items_are_never_read():
    data = circle()
    changed = tuple(np.append(s[:-1], ITEMS - 1) for s in data.sequences)
    changed_dataset = Dataset("circle", data.catalog, data.user_ids, changed, "1")
    config = tiny("gru4rec", epochs=2)
    history = [np.array([1, 2, 3])]
    np.testing.assert_array_equal(
        fit(config, data, QUIET).scores(history), fit(config, changed_dataset, QUIET).scores(history)
    )


def test_sampled_negatives_never_contain_the_target():
    torch.manual_seed(0)
    config = tiny("esasrec", negatives=5)
    network = TEACHERS["esasrec"].build(config, ITEMS)
    states, targets = torch.randn(8, config.hidden), torch.arange(8)
    full_loss = type(network).__mro__[1].loss(network, states, targets)
    assert network.loss(states, targets) < full_loss  # over 6 items, not 21
    # A state along the vector of its target: only the target as a negative would give a loss.
    with torch.no_grad():
        network.items.copy_(torch.eye(ITEMS, config.hidden))
    assert network.loss(100 * network.items[:8], targets) < 1e-6
    learned = fit(tiny("esasrec", negatives=5), circle(), QUIET)
    test = circle().test()
    assert (learned.scores(test.histories).argmax(1) == test.targets).mean() > 0.9


@pytest.mark.parametrize(
    ("kind", "settings", "setting"),
    [
        ("gru4rec", {"heads": 2}, "heads"),
        ("sasrec", {"hidden": 10, "heads": 3}, "heads"),
        ("sasrec", {"kind": 1}, "kind"),
        ("esasrec", {"negatives": -1}, "negatives"),
        ("caser", {"window": 0}, "window"),
        ("caser", {"epochs": 1.5}, "epochs"),
        ("caser", {"epochs": float("inf")}, "epochs"),
        ("sasrec", {"lr": float("nan")}, "lr"),
    ],
)
def test_the_errors_of_settings_and_recipe_name_a_wrong_setting(kind, settings, setting):
    with pytest.raises(ConfigError, match=setting):
        TEACHERS[kind].configure(**settings)
    values = ", ".join(f"{name}: {value}" for name, value in settings.items())
    yaml = values.replace("inf", ".inf").replace("nan", ".nan")
    with pytest.raises(ConfigError, match=f"r.yaml.*{setting}"):
        parse(f"name: r\nteacher: {{kind: {kind}, settings: {{{yaml}}}}}", "r.yaml")


def test_the_error_for_an_unknown_kind_lists_the_known_kinds():
    with pytest.raises(ConfigError, match="sasrek") as refused:
        TEACHERS["sasrek"]
    assert "did you mean sasrec?" in refused.value.hint
    for kind in ("sasrek", "[caser, sasrek]"):
        with pytest.raises(ConfigError, match="teacher.kind: no teacher 'sasrek'") as refused:
            parse(f"name: r\nteacher: {{kind: {kind}}}", "r")
        assert re.search(r"did you mean sasrec\? one of caser, .*, toy", refused.value.hint)


def test_kinds_are_read_without_torch():
    code = (
        "import sys; from delrec_lite.config import parse; from delrec_lite.teacher_kinds.registry import *;"
        "parse('name: r\\nteacher: {kind: [esasrec, caser]}', 'r');"
        "print({name: TEACHERS[name].label for name in TEACHERS.built_in}['gru4rec'], 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "GRU4Rec False"


def test_a_registered_kind_is_replaced_and_a_built_in_one_is_not():
    replacement = TeacherKind("toy", "Toy again", TeacherConfig, Toy)
    try:
        assert TEACHERS[register_teacher(replacement).name] is replacement
    finally:
        register_teacher(TOY)
    with pytest.raises(ConfigError, match="comes with delrec-lite"):
        register_teacher(TeacherKind("sasrec", "Other", TeacherConfig, Toy))
    with pytest.raises(ConfigError, match="not a valid name"):
        TeacherKind("../up", "Up", TeacherConfig, Toy)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Creates an installed package with an entry point."""

    def make(name, code, target):
        (tmp_path / f"{name}_package.py").write_text(code)
        metadata = tmp_path / f"{name}_package-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[delrec_lite.teachers]\n{name} = {name}_package{target}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, f"{name}_package", raising=False)

    return make


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        ("import nothing_of_this_name", ":KIND", "cannot be loaded"),
        ("KIND = 3", ":KIND", "is not its record"),
        ("from tests.teachers import TOY", ":TOY", "is not its record"),
    ],
)
def test_a_package_without_its_kind_is_named(package, code, target, message):
    package("broken", code, target)
    assert "broken" in TEACHERS.names()
    with pytest.raises(ConfigError, match=f"broken-package.*{message}"):
        TEACHERS["broken"]


def test_teachers_are_fitted_on_the_device_of_the_recipe(tiny_run, monkeypatch):
    """A recipe for CUDA trains them there, not on the CPU."""
    devices = []

    def record_device(config, *_, device="cpu", **__):
        devices.append(device)
        return Teacher(TEACHERS[config.kind].build(config, ITEMS), ITEMS, {"ndcg@10": 0.0, "hr@10": 0.0})

    monkeypatch.setattr("delrec_lite.llm.precision.device_for", {"cuda": "GPU", "cpu": "CPU"}.__getitem__)
    monkeypatch.setattr("delrec_lite.teachers.fit.fit", record_device)
    tiny_run("card", model={"device": "cuda"}, teacher={"kind": ["sasrec", "toy"], "settings": {}}).teacher()
    tiny_run("none", model={"device": "cpu"}).teacher()
    assert devices == ["GPU", "GPU", "CPU"]


def test_a_registered_kind_is_fitted_again_when_its_defaults_change(tiny_run):
    class Longer(TeacherConfig):
        max_length: int = 101

    section = {"teacher": {"kind": "toy", "settings": {"epochs": 1, "hidden": 8}}}
    first = tiny_run("first", **section).teacher()
    assert tiny_run("second", **section).teacher().key == first.key
    register_teacher(TeacherKind("toy", "Toy", Longer, Toy))
    try:
        assert tiny_run("third", **section).teacher().key != first.key
    finally:
        register_teacher(TOY)


def test_sequences_too_short_to_train_on_are_refused():
    data = circle(3)
    short = Dataset("short", data.catalog, data.user_ids, tuple(s[:3] for s in data.sequences), "2")
    with pytest.raises(DataError):
        fit(tiny("sasrec"), short, QUIET)


def test_a_corrupted_folder_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match=CONFIG):
        load_teacher(tmp_path)
    save_teacher(fit(tiny("caser", epochs=1), circle(), QUIET), tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    for corrupted in (content[: len(content) // 2], b"", b"not tensors at all"):
        (tmp_path / WEIGHTS).write_bytes(corrupted)
        with pytest.raises(BundleError, match=WEIGHTS):
            load_teacher(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(content)
    text = (tmp_path / CONFIG).read_text()
    for malformed in (
        text[:50],
        "[]",
        text.replace('"schema": 1', '"schema": 9'),
        text.replace('"hidden"', '"hiden"'),
        text.replace('"kind"', '"sort"'),
        text.replace('"caser"', '"gone"'),
    ):
        (tmp_path / CONFIG).write_text(malformed)
        with pytest.raises(BundleError, match=CONFIG):
            load_teacher(tmp_path)
    (tmp_path / CONFIG).write_text(text.replace('"hidden": 16', '"hidden": 8'))
    with pytest.raises(BundleError, match="does not fit"):
        load_teacher(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError):
        save_teacher(fit(tiny("sasrec", epochs=1), circle(), QUIET), tmp_path / "file" / "teacher")
