"""One contract for all teachers, also registered ones: no future items, reproducible by seed, unchanged by saving."""

import numpy as np
import pytest
import torch

from delrec_lite.console import QUIET
from delrec_lite.errors import ConfigError, UsageError
from delrec_lite.export.retriever import write_retriever
from delrec_lite.runtime.onnx_session import open_session, padded
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Teacher, pad
from delrec_lite.teachers.files import CONFIG, WEIGHTS
from delrec_lite.teachers.fit import fit
from delrec_lite.teachers.store import load_teacher, save_teacher
from tests.teachers import ITEMS, TINY, TOY, circle, tiny

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no card"))]


@pytest.fixture(scope="module", params=TEACHERS.names())
def teacher(request) -> Teacher:
    return fit(tiny(request.param), circle(), QUIET)


def test_the_contract_covers_a_registered_teacher():
    assert TOY.name in TEACHERS.names()


class TestEveryTeacher:
    def test_learns_the_next_item(self, teacher):
        test = circle().test()
        assert (teacher.scores(test.histories).argmax(1) == test.targets).mean() > 0.9
        assert teacher.metrics["ndcg@10"] > 0.9

    def test_scores_are_finite_and_cover_the_catalogue(self, teacher):
        scores = teacher.scores([np.array([ITEMS - 1]), np.array([3, 4, ITEMS - 1, 5])])
        assert scores.shape == (2, ITEMS)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_only_the_newest_items_are_read(self, teacher):
        long = np.arange(30) % (ITEMS - 1)
        np.testing.assert_array_equal(teacher.scores([long]), teacher.scores([long[-TINY["max_length"] :]]))

    @pytest.mark.parametrize("length", [1, 4, 6, 15])
    def test_last_row_of_a_sequence_is_the_score_of_its_history(self, teacher, length):
        sequence = np.arange(length) % (ITEMS - 1)
        rows = teacher.sequence_scores(sequence)
        assert rows.shape == (length, ITEMS)
        for t in range(length):
            np.testing.assert_allclose(rows[t], teacher.scores([sequence[: t + 1]])[0], atol=1e-4)

    def test_a_batch_of_sequences_scores_as_single_sequences(self, teacher):
        sequences = [np.array([5]), np.arange(9), np.array([2, 7, 1])]
        alone = map(teacher.sequence_scores, sequences)
        for batched, single in zip(teacher.sequence_scores_many(sequences), alone, strict=True):
            np.testing.assert_allclose(batched, single, atol=1e-4)

    def test_a_later_item_changes_no_earlier_row(self, teacher):
        rows = teacher.sequence_scores(np.array([1, 2, 3, 4, 5]))
        changed = teacher.sequence_scores(np.array([1, 2, 3, 9, 5]))
        np.testing.assert_allclose(rows[:3], changed[:3], atol=1e-5)
        assert np.abs(rows[3] - changed[3]).max() > 1e-2

    def test_padding_changes_nothing(self, teacher):
        history = np.array([4, 8, 2])
        with torch.inference_mode():
            alone = teacher.network.states(pad([history]))[0]
            for padding in (0, 7, ITEMS - 1):
                longer = pad([history, np.full(6, padding)])
                longer[0, 3:] = padding
                torch.testing.assert_close(teacher.network.states(longer)[0, :3], alone, atol=1e-5, rtol=1e-5)

    def test_saved_and_loaded_scores_the_same(self, teacher, tmp_path):
        save_teacher(teacher, tmp_path / "t")
        save_teacher(teacher, tmp_path / "t")
        loaded = load_teacher(tmp_path / "t")
        histories = circle().test().histories
        np.testing.assert_array_equal(loaded.scores(histories), teacher.scores(histories))
        assert (loaded.config, loaded.metrics) == (teacher.config, teacher.metrics)
        assert sorted(p.name for p in (tmp_path / "t").iterdir()) == sorted([CONFIG, WEIGHTS])

    def test_the_same_seed_gives_the_same_teacher(self, teacher):
        first, repeated, differing = (
            fit(tiny(teacher.config.kind, epochs=2, seed=s), circle(), QUIET) for s in (3, 3, 4)
        )
        history = [np.array([1, 2, 3])]
        np.testing.assert_array_equal(first.scores(history), repeated.scores(history))
        assert np.abs(first.scores(history) - differing.scores(history)).max() > 0

    def test_training_does_not_change_the_random_state(self, teacher):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        fit(tiny(teacher.config.kind, epochs=1), circle(), QUIET)
        assert torch.equal(torch.rand(3), expected)

    def test_nothing_is_computed_on_another_device(self, teacher):
        """``meta`` refuses CPU tensors as a GPU does, and every machine has it."""
        network = TEACHERS[teacher.config.kind].build(teacher.config, ITEMS).to("meta")
        items = torch.zeros(2, 6, dtype=torch.int64, device="meta")
        states = network.train().states(items)
        assert states.shape == (2, 6, TINY["hidden"])
        assert network.scores(states).shape == (2, 6, ITEMS)
        assert network.loss(states[:, 0], items[:, 0]).shape == ()

    @pytest.mark.parametrize("device", DEVICES)
    def test_a_device_trains_and_scores_are_numpy_arrays(self, teacher, device):
        fitted = fit(tiny(teacher.config.kind, epochs=2), circle(), QUIET, device=device)
        assert fitted.network.items.device.type == "cpu"
        on_cpu = fitted.scores(circle().test().histories)
        fitted.network.to(device)
        np.testing.assert_allclose(fitted.scores(circle().test().histories), on_cpu, atol=1e-3)
        assert isinstance(fitted.sequence_scores(np.arange(9)), np.ndarray)
        assert fitted.item_vectors().shape == (ITEMS, TINY["hidden"])

    def test_the_retriever_scores_the_same(self, teacher, tmp_path):
        write_retriever(teacher, tmp_path / "r.onnx")
        session = open_session(tmp_path / "r.onnx", 1)
        histories = [np.arange(n) % ITEMS for n in (1, 2, 6, 7, 20)]
        scores = session.run(None, {"items": padded([[int(item) for item in h] for h in histories])})[0]
        np.testing.assert_allclose(scores, teacher.scores(histories), atol=1e-4)

    @pytest.mark.parametrize("history", [np.array([], dtype=np.int64), np.array([ITEMS]), np.array([-1])])
    def test_a_history_that_cannot_be_scored_is_refused(self, teacher, history):
        with pytest.raises(UsageError):
            teacher.scores([history])
        with pytest.raises(UsageError):
            teacher.sequence_scores(history)

    def test_the_error_for_an_unknown_setting_names_it(self, teacher):
        with pytest.raises(ConfigError, match="hiden") as refused:
            TEACHERS[teacher.config.kind].configure(hiden=3)
        assert "did you mean hidden?" in refused.value.hint
        with pytest.raises(ConfigError, match="teacher.dropout"):
            TEACHERS[teacher.config.kind].configure(dropout=1.0)
