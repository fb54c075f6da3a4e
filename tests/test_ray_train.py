"""Training by Ray Train: its parts without Ray, and two workers of Ray itself where it is installed."""

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from delrec_lite import files, processes
from delrec_lite.config import load_recipe
from delrec_lite.console import QUIET, Console
from delrec_lite.errors import ConfigError, DelrecError, MissingPackageError, StorageError, UsageError
from delrec_lite.pipeline import shared_folder
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.shared_folder import check_equal, check_seen, check_shared
from delrec_lite.processes import LostProcessesError, Processes
from delrec_lite.ray_cluster import join_cluster
from delrec_lite.ray_train import trainer, worker
from delrec_lite.ray_train.messages import SentConsole
from delrec_lite.ray_train.trainer import cause_of, takes_cards, train_with_ray
from tests.launched import start, weights, write_recipe


@pytest.fixture(scope="module")
def recipe(tiny_base, tmp_path_factory):
    return write_recipe(tiny_base, tmp_path_factory.mktemp("recipe"))


# --- without Ray ---


@pytest.mark.parametrize(
    ("device", "cluster", "expected"),
    [
        ("auto", {"CPU": 4}, False),
        ("auto", {"CPU": 8, "GPU": 4}, True),
        ("cpu", {"CPU": 8, "GPU": 4}, False),
        ("cuda", {"CPU": 4, "GPU": 4}, True),
    ],
)
def test_workers_take_cards_where_there_are_some(device, cluster, expected):
    assert takes_cards(device, 4, 1, cluster) == expected


@pytest.mark.parametrize(
    ("device", "cores", "cluster", "words"),
    [
        ("auto", 1, {"CPU": 3}, "4 workers take 4 processor cores, and there are 3"),
        ("auto", 2, {"CPU": 7}, "4 workers take 8 processor cores"),
        ("auto", 1, {"CPU": 8, "GPU": 3}, "4 workers take 4 cards, and there are 3"),
        ("cuda", 1, {"CPU": 8}, "4 workers take 4 cards, and there are 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_one_error(device, cores, cluster, words):
    with pytest.raises(UsageError, match=words) as error:
        takes_cards(device, 4, cores, cluster)
    assert "--workers" in error.value.hint


def test_the_cause_is_the_worker_that_failed_by_itself():
    lost, own = LostProcessesError("process 0 lost the other processes"), ConfigError("bad", "do")
    assert cause_of({0: lost, 1: own}) is own
    assert cause_of({0: lost, 1: OSError(28, "full")}).errno == 28
    killed = cause_of({0: lost, 1: RuntimeError("the actor died\nof a signal")})
    assert isinstance(killed, LostProcessesError)
    assert killed.message == "worker 1: the actor died of a signal"


@pytest.fixture
def attempts(monkeypatch):
    """Each attempt's ``fresh``; what an attempt does is taken from ``attempts.ends``."""

    @contextmanager
    def cluster(*_):
        yield type("Ray", (), {"cluster_resources": staticmethod(lambda: {"CPU": 2})})

    class Attempts(list):
        ends = ()

        def fit(self, job, *_):
            self.append(job.fresh)
            end = self.ends[len(self) - 1]
            if isinstance(end, Exception):
                raise end
            return end

    made = Attempts()
    monkeypatch.setattr(trainer, "ray_cluster", cluster)
    monkeypatch.setattr(trainer, "shown", lambda _: cluster())
    monkeypatch.setattr(trainer, "_fit", made.fit)
    return made


def test_lost_workers_are_replaced_and_nothing_is_deleted_again(attempts, recipe, tmp_path, capsys):
    attempts.ends = (LostProcessesError("worker 1: killed"), LostProcessesError("worker 0: killed"), {"finetune": {}})
    done = train_with_ray(load_recipe(str(recipe)), tmp_path, 2, fresh=True, console=Console())
    assert (done, attempts) == ({"finetune": {}}, [True, False, False])
    assert "once more from the last checkpoint (2 of 3)" in capsys.readouterr().err


def test_an_error_of_a_worker_is_not_tried_again_and_losses_have_an_end(attempts, recipe, tmp_path):
    attempts.ends = (ConfigError("bad"),)
    with pytest.raises(ConfigError, match="bad"):
        train_with_ray(load_recipe(str(recipe)), tmp_path, 2)
    assert len(attempts) == 1
    attempts.clear()
    attempts.ends = [LostProcessesError("worker 1: killed")] * 9
    with pytest.raises(DelrecError, match="workers were lost 4 times: worker 1: killed") as error:
        train_with_ray(load_recipe(str(recipe)), tmp_path, 2)
    assert "checkpoint" in error.value.hint
    assert len(attempts) == 4
    with pytest.raises(UsageError, match="--workers"):
        train_with_ray(load_recipe(str(recipe)), tmp_path, 0)


def test_without_ray_the_install_line_is_named(monkeypatch, recipe, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match="ray_train needs ray") as error:
        train_with_ray(load_recipe(str(recipe)), tmp_path, 1)
    assert 'pip install "delrec-lite[ray]"' in error.value.hint
    assert list(tmp_path.iterdir()) == []


class Queue:
    """Ray's, as far as ``SentConsole`` uses it."""

    def __init__(self):
        self.sent = []
        self.actor = self.put_nowait = self
        self.remote = self.sent.append


def job(recipe, runs, **changes):
    """What a worker is given."""
    sent = load_recipe(str(recipe)).model_dump(mode="json", exclude_unset=True)
    fields = {"recipe": sent, "runs": str(runs), "stage": "teacher", "fresh": False, "folder": str(Path.cwd())}
    return {**fields, "environment": {}, "messages": Queue(), **changes}


def test_a_worker_trains_and_sends_what_it_says(recipe, tmp_path):
    given = job(recipe, tmp_path)
    done = worker.train(given)
    assert done.keys() == {"prepare", "teacher"}
    assert json.loads((tmp_path / "r" / "teacher" / "done.json").read_text())["result"] == {
        kind: done["teacher"][kind] for kind in ("sasrec", "gru4rec", "caser")
    }
    assert given["messages"].sent[0] == "prepare ..."
    assert not SentConsole(Queue()).shows_bars


def test_errors_of_a_worker_are_of_this_program(recipe, tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="does not see /no/such/folder") as error:
        worker.train(job(recipe, tmp_path, folder="/no/such/folder"))
    assert "storage that all machines share" in error.value.hint
    with pytest.raises(DelrecError, match="AttributeError: .*no_stage"):
        worker.train(job(recipe, tmp_path, stage="no_stage"))
    second = Processes(2, 1)
    monkeypatch.setattr("delrec_lite.processes.join", lambda _: second)
    monkeypatch.setattr(Processes, "from_first", lambda *_: "0.0.1")
    with pytest.raises(DelrecError, match=r"worker 1 has delrec-lite \S+, the first one 0.0.1"):
        worker.train(job(recipe, tmp_path))


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two."""
    monkeypatch.setattr(processes, "_joined", Processes(2, 1))
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    monkeypatch.setattr(files, "SECONDS_TO_APPEAR", 0.2)


def test_a_folder_that_is_not_shared_is_noticed_whatever_is_in_it(second, tmp_path, monkeypatch):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    # The first process makes its mark in the folder that it sees.
    monkeypatch.setattr(Processes, "from_first", lambda _, make: shared_folder._mark(theirs))
    with pytest.raises(StorageError, match=f"process 1, on .*, does not see what the first process has in {ours}"):
        check_shared(ours)
    check_shared(theirs)
    with pytest.raises(StorageError, match="does not see"):
        check_seen(tmp_path / "gone", "DELREC_CACHE names it")
    check_seen(ours, "DELREC_CACHE names it")
    with pytest.raises(StorageError, match="process 1, on .*, has another copy of the data set"):
        check_equal({"fingerprint": "a"}, {"fingerprint": "b"}, "the data set")
    check_equal({"fingerprint": "a"}, {"fingerprint": "a"}, "the data set")


def test_one_process_and_the_first_of_several_leave_no_mark(tmp_path, monkeypatch):
    check_shared(tmp_path)
    monkeypatch.setattr(processes, "_joined", Processes(2, 0))
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    monkeypatch.setattr(Processes, "from_first", lambda _, make: make())
    check_shared(tmp_path)
    check_equal(1, 2, "the data set")  # what the others have is theirs to check
    assert list(tmp_path.iterdir()) == []


def test_teachers_are_divided_among_the_processes():
    kinds = ("a", "b", "c", "d", "e")
    shares = [Processes(2, n).share(kinds) for n in range(2)]
    assert shares == [("a", "c", "e"), ("b", "d")]
    assert Processes().share(kinds) == kinds


# --- with Ray ---


@pytest.fixture(scope="module")
def real_ray():
    """Ray on this machine; the workers of all tests are its children."""
    os.environ.pop("RAY_ADDRESS", None)
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'delrec-lite[ray]'")
    join_cluster(ray, 4)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def two_workers(real_ray, recipe, tmp_path_factory):
    runs = tmp_path_factory.mktemp("two")
    done = train_with_ray(load_recipe(str(recipe)), runs, 2)
    return runs, done


def test_two_workers_train_the_weights_of_one_process(recipe, two_workers, tmp_path):
    Run(load_recipe(str(recipe)), tmp_path, QUIET, shipped=False).finetune()
    expected, result = weights(tmp_path), weights(two_workers[0])
    assert expected.keys() == result.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor, atol=1e-5, rtol=0)
    assert any(torch.count_nonzero(tensor) for name, tensor in expected.items() if "lora_B" in name)


def test_a_run_of_two_workers_is_a_run(recipe, two_workers):
    runs, done = two_workers
    assert done.keys() == {"prepare", "teacher", "distill", "finetune"}
    lines = [json.loads(line) for line in (runs / "r/finetune/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert sorted(path.name for path in runs.iterdir()) == [".r.lock", "r"]
    run = Run(load_recipe(str(recipe)), runs, QUIET, shipped=False)
    assert not run.finetune().computed


def trained(real_ray, recipe, runs):
    """The command, beside the workers of this cluster."""
    words = ("-m", "delrec_lite.ray_train", recipe, "--workers", "2", "--runs", runs)
    return start(*words, RAY_ADDRESS=real_ray.get_runtime_context().gcs_address)


def wait_for(condition, process):
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_worker_that_is_killed_is_replaced_from_the_checkpoint_on(real_ray, recipe, two_workers, tmp_path):
    process = trained(real_ray, recipe, tmp_path)
    stage = tmp_path / "r" / "finetune"
    wait_for((stage / "checkpoint.safetensors").is_file, process)
    workers = [child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in child.name()]
    assert len(workers) == 2
    workers[-1].kill()
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors.decode()
    assert "a worker was lost; once more from the last checkpoint (1 of 3)" in errors.decode()
    assert out.decode().strip() == str(stage)
    unbroken, resumed = weights(two_workers[0]), weights(tmp_path)
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
    assert not list(tmp_path.rglob("*.part"))


def test_an_error_of_a_worker_is_one_line(real_ray, tiny_base, tmp_path):
    bad = write_recipe(tiny_base, tmp_path, data={"k_core": 3})
    process = trained(real_ray, bad, tmp_path / "runs")
    _, errors = process.communicate(timeout=900)
    lines = errors.decode().strip().splitlines()
    assert process.returncode == ConfigError.exit_code
    assert lines[-2].startswith("error: data.k_core is 3 in the recipe")
    assert "Traceback" not in errors.decode()
    assert list((tmp_path / "runs").iterdir()) == []
