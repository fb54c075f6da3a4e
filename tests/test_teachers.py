"""One contract for all teachers: they learn, see no future, repeat by seed, and survive a save."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from delrec_lite.console import QUIET
from delrec_lite.data.types import Catalog, Dataset
from delrec_lite.errors import BundleError, ConfigError, DataError, StorageError, UsageError
from delrec_lite.teachers.contract import KINDS, Teacher, TeacherConfig, build, pad
from delrec_lite.teachers.ensemble import Ensemble
from delrec_lite.teachers.fit import _batches, fit
from delrec_lite.teachers.store import CONFIG, WEIGHTS, load_teacher, save_teacher

ITEMS = 21  # the last one is never seen
TINY: dict[str, int | float] = {
    "hidden": 16, "max_length": 6, "lr": 0.02, "batch": 16, "epochs": 12, "patience": 12, "dropout": 0.1
}  # fmt: skip


def _circle(users: int = 40) -> Dataset:
    """After item i comes item i + 1, around a circle of 20."""
    sequences = tuple((np.arange(5 + user % 8) + user) % (ITEMS - 1) for user in range(users))
    names = tuple(str(n) for n in range(ITEMS))
    return Dataset("circle", Catalog(names, names), tuple(str(n) for n in range(users)), sequences, "0")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def teacher(request) -> Teacher:
    return fit(TeacherConfig.for_kind(request.param, **TINY), _circle(), QUIET)


def test_learns_what_follows_what(teacher):
    test = _circle().test()
    assert (teacher.scores(test.histories).argmax(1) == test.targets).mean() > 0.9
    assert teacher.metrics["ndcg@10"] > 0.9


def test_what_a_user_had_does_not_compete_in_validation(monkeypatch):
    """As in the tables, and as a recommender leaves it out: else the epoch is chosen by another task."""
    data = _circle()
    asked = data.valid()
    scores = np.zeros((len(asked), ITEMS), np.float32)
    for row, (history, target) in enumerate(zip(asked.histories, asked.targets, strict=True)):
        scores[row, target] = 1.0
        scores[row, history[history != target]] = 2.0
    monkeypatch.setattr(Teacher, "scores", lambda self, histories: scores[: len(histories)])
    metrics = fit(TeacherConfig.for_kind("sasrec", **TINY | {"epochs": 1}), data, QUIET).metrics
    assert {name: metrics[name] for name in ("expected_ndcg@10", "ndcg@10", "hr@10")} == {
        "expected_ndcg@10": 1.0,
        "ndcg@10": 1.0,
        "hr@10": 1.0,
    }


def test_scores_are_finite_and_cover_the_catalogue(teacher):
    scores = teacher.scores([np.array([ITEMS - 1]), np.array([3, 4, ITEMS - 1, 5])])
    assert scores.shape == (2, ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_only_the_newest_items_are_read(teacher):
    long = np.arange(30) % (ITEMS - 1)
    np.testing.assert_array_equal(teacher.scores([long]), teacher.scores([long[-TINY["max_length"] :]]))


@pytest.mark.parametrize("length", [1, 4, 6, 15])
def test_last_row_of_a_sequence_is_the_score_of_its_history(teacher, length):
    sequence = np.arange(length) % (ITEMS - 1)
    rows = teacher.sequence_scores(sequence)
    assert rows.shape == (length, ITEMS)
    for t in range(length):
        np.testing.assert_allclose(rows[t], teacher.scores([sequence[: t + 1]])[0], atol=1e-4)


def test_many_sequences_give_what_each_gives_alone(teacher):
    sequences = [np.array([5]), np.arange(9), np.array([2, 7, 1])]
    for many, one in zip(teacher.sequence_scores_many(sequences), map(teacher.sequence_scores, sequences), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-4)


def test_a_later_item_changes_no_earlier_row(teacher):
    rows = teacher.sequence_scores(np.array([1, 2, 3, 4, 5]))
    changed = teacher.sequence_scores(np.array([1, 2, 3, 9, 5]))
    np.testing.assert_allclose(rows[:3], changed[:3], atol=1e-5)
    assert np.abs(rows[3] - changed[3]).max() > 1e-2


def test_saved_and_loaded_scores_the_same(teacher, tmp_path: Path):
    save_teacher(teacher, tmp_path / "t")
    save_teacher(teacher, tmp_path / "t")
    loaded = load_teacher(tmp_path / "t")
    histories = _circle().test().histories
    np.testing.assert_array_equal(loaded.scores(histories), teacher.scores(histories))
    assert (loaded.config, loaded.metrics) == (teacher.config, teacher.metrics)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == sorted([CONFIG, WEIGHTS])


def test_several_as_one_give_the_mean_of_their_probabilities():
    members = [fit(TeacherConfig.for_kind(kind, **TINY | {"epochs": 2}), _circle(), QUIET) for kind in KINDS[:2]]
    both = Ensemble(members)
    histories = _circle().test().histories[:5]

    def shares(scores):
        return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)

    expected = (shares(members[0].scores(histories)) + shares(members[1].scores(histories))) / 2
    np.testing.assert_allclose(np.exp(both.scores(histories)), expected, atol=1e-5)
    for many, history in zip(both.sequence_scores_many(histories), histories, strict=True):
        np.testing.assert_allclose(many[-1], both.scores([history])[0], atol=1e-4)
    assert both.item_vectors().shape == (ITEMS, 32)


def test_the_same_seed_gives_the_same_teacher(teacher):
    short = TINY | {"epochs": 2}
    one, same, other = (
        fit(TeacherConfig.for_kind(teacher.config.kind, **short, seed=seed), _circle(), QUIET) for seed in (3, 3, 4)
    )
    question = [np.array([1, 2, 3])]
    np.testing.assert_array_equal(one.scores(question), same.scores(question))
    assert np.abs(one.scores(question) - other.scores(question)).max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_these_steps_of_torch_bit_for_bit(kind):
    """Seed, batches, schedule and clipping written out: a teacher that was saved can be made again."""
    data = _circle()
    config = TeacherConfig.for_kind(kind, **TINY | {"epochs": 4, "patience": 2, "weight_decay": 0.01})
    fitted = fit(config, data, QUIET)
    torch.manual_seed(config.seed)
    network = build(config, ITEMS)
    groups = [
        {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in network.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    states = {}
    for epoch in range(fitted.metrics["epoch"]):
        batches = list(_batches([s for s in data.train() if len(s) > 1], config, epoch + 1))
        network.train()
        for step, batch in enumerate(batches):
            done = epoch + step / len(batches)
            factor = max(0.01, done) if done < 1 else 0.5 * (1 + math.cos(math.pi * (done - 1) / 3))
            for group in optimiser.param_groups:
                group["lr"] = config.lr * factor
            read = pad([np.ones(len(w) - 1, dtype=np.int64) for w in batch]).bool()
            scores = network.scores(network.states(pad([w[:-1] for w in batch]))[read])
            targets = torch.as_tensor(np.concatenate([w[1:] for w in batch]))
            loss = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=config.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        network.eval()
        states[epoch + 1] = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in fitted.network.state_dict().items():
        assert torch.equal(value, states[fitted.metrics["epoch"]][name]), name


def test_training_leaves_a_log_and_keeps_to_its_time(tmp_path: Path):
    fit(TeacherConfig.for_kind("sasrec", **TINY), _circle(), QUIET, tmp_path, time_limit_s=0)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_test_items_are_never_read():
    data = _circle()
    changed = tuple(np.append(s[:-1], ITEMS - 1) for s in data.sequences)
    other = Dataset("circle", data.catalog, data.user_ids, changed, "1")
    config = TeacherConfig.for_kind("gru4rec", **TINY | {"epochs": 2})
    question = [np.array([1, 2, 3])]
    np.testing.assert_array_equal(fit(config, data, QUIET).scores(question), fit(config, other, QUIET).scores(question))


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("bert4rec", {}, "bert4rec"),
        ("sasrec", {"hiden": 3}, "hiden"),
        ("gru4rec", {"heads": 2}, "heads"),
        ("sasrec", {"hidden": 10, "heads": 3}, "heads"),
        ("caser", {"window": 0}, "window"),
        ("caser", {"epochs": 1.5}, "epochs"),
        ("caser", {"epochs": float("inf")}, "epochs"),
        ("sasrec", {"dropout": 1.0}, "dropout"),
        ("sasrec", {"lr": float("nan")}, "lr"),
    ],
)
def test_a_bad_setting_is_named(kind, settings, named):
    with pytest.raises(ConfigError, match=named):
        TeacherConfig.for_kind(kind, **settings)


@pytest.mark.parametrize("history", [np.array([], dtype=np.int64), np.array([ITEMS]), np.array([-1])])
def test_a_history_that_cannot_be_scored_is_refused(teacher, history):
    with pytest.raises(UsageError):
        teacher.scores([history])
    with pytest.raises(UsageError):
        teacher.sequence_scores(history)


def test_nothing_to_train_on_is_said():
    data = _circle(3)
    short = Dataset("short", data.catalog, data.user_ids, tuple(s[:3] for s in data.sequences), "2")
    with pytest.raises(DataError):
        fit(TeacherConfig.for_kind("sasrec", **TINY), short, QUIET)


def test_a_broken_folder_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match=CONFIG):
        load_teacher(tmp_path)
    save_teacher(fit(TeacherConfig.for_kind("caser", **TINY | {"epochs": 1}), _circle(), QUIET), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not tensors at all"):
        (tmp_path / WEIGHTS).write_bytes(broken)
        with pytest.raises(BundleError, match=WEIGHTS):
            load_teacher(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(whole)
    text = (tmp_path / CONFIG).read_text()
    for wrong in (
        text[:50],
        "[]",
        text.replace('"schema": 1', '"schema": 9'),
        text.replace('"hidden"', '"hiden"'),
    ):
        (tmp_path / CONFIG).write_text(wrong)
        with pytest.raises(BundleError, match=CONFIG):
            load_teacher(tmp_path)
    (tmp_path / CONFIG).write_text(text.replace('"hidden": 16', '"hidden": 8'))
    with pytest.raises(BundleError, match="does not fit"):
        load_teacher(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(teacher, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        save_teacher(teacher, tmp_path / "file" / "teacher")
