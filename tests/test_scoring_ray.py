"""`score --engine ray` gives what the local engine gives: with a stand-in for Ray's contract, and with Ray itself."""

import json
import logging
import sys
import types
import warnings
from contextlib import contextmanager
from functools import cached_property
from unittest.mock import PropertyMock

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delrec_lite.console import Console
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, StorageError
from delrec_lite.ray_cluster import join_cluster
from delrec_lite.scoring.ray_engine import _quiet, score_ray
from delrec_lite.scoring.run import Options, score
from delrec_lite.scoring.scorer import Scorer, bundle_fingerprint
from tests.bundles import tiny_bundle
from tests.scoring import HISTORIES, SMALL, assert_same, expected_rows, rows_of, table_file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("scored")).bundle.folder


@pytest.fixture(scope="module")
def expected(bundle):
    return expected_rows(bundle)


class FakeData:
    """A data set of Ray as far as it is used: rows, and a class that is called with batches of them."""

    def __init__(self, rows, calls=()):
        self._rows, self._calls = rows, list(calls)

    def map_batches(self, kind, fn_constructor_kwargs, batch_size, batch_format, compute, num_cpus, max_task_retries):
        assert (batch_format, num_cpus, max_task_retries) == ("pyarrow", 1, 2)
        assert compute == (1, 2)
        call = (kind, json.loads(json.dumps(fn_constructor_kwargs)), batch_size)  # sent to another process
        return FakeData(self._rows, [*self._calls, call])

    @cached_property
    def _done(self):
        table = pa.Table.from_pylist(self._rows)
        for kind, arguments, size in self._calls:
            actor = kind(**arguments)
            table = pa.concat_tables([actor(table.slice(n, size)) for n in range(0, len(table), size)])
        return table

    def iter_rows(self):
        yield from self._done.to_pylist()


class RayError(Exception):
    """Ray's own: an actor was lost too often."""


@pytest.fixture
def fake_ray(monkeypatch):
    ray, data, exceptions = (types.ModuleType(name) for name in ("ray", "ray.data", "ray.exceptions"))
    ray.is_initialized, ray.cluster_resources = lambda: True, lambda: {"CPU": 1.0}
    data.from_items = lambda rows, override_num_blocks: FakeData(rows)
    data.ActorPoolStrategy = lambda min_size, max_size: (min_size, max_size)
    context = types.SimpleNamespace(enable_progress_bars=True)
    data.DataContext = types.SimpleNamespace(get_current=lambda: context)
    ray.data, exceptions.RayError = data, RayError
    for module in (ray, data, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return data.DataContext


def test_parts_go_through_map_batches(fake_ray, bundle, expected, tmp_path):
    users = table_file(tmp_path / "users.parquet", HISTORIES)
    manifest = score(bundle, users, tmp_path / "recs", SMALL, engine="ray", workers=2)
    assert manifest["state"] == "done"
    assert_same(rows_of(tmp_path / "recs"), expected)
    assert fake_ray.get_current().enable_progress_bars, "the caller's own pipelines show theirs"


def test_what_ray_data_says_of_its_progress_is_not_shown(caplog):
    context = types.SimpleNamespace(enable_progress_bars=True)
    with _quiet(context):
        logging.getLogger("ray.data").info("Starting execution of Dataset")
        warnings.warn("`ray_remote_args` is deprecated", stacklevel=1)
        assert not context.enable_progress_bars
    assert context.enable_progress_bars
    assert not caplog.text


def test_an_error_of_an_actor_is_that_of_a_worker(fake_ray, bundle, tmp_path):
    pq.write_table(pa.table({"user_id": ["a"], "history": [["i1"]]}), tmp_path / "part-00000.parquet")
    job = {"bundle": str(bundle), "fingerprint": "0" * 64}
    with pytest.raises(BundleError, match="another one than this run began with"):
        score_ray(job, tmp_path, tmp_path / "out", ["part-00000.parquet"], 2, print)
    job["fingerprint"] = bundle_fingerprint(bundle)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"part-00000.parquet"):
        score_ray(job, tmp_path, tmp_path / "file", ["part-00000.parquet"], 2, print)
    with pytest.raises(StorageError):
        score(bundle, table_file(tmp_path / "u.parquet", {"a": ["i1"]}), tmp_path / "file", SMALL, engine="ray")


def test_lost_actors_and_a_folder_that_is_not_shared_are_one_error(fake_ray, bundle, tmp_path, monkeypatch):
    users = table_file(tmp_path / "users.parquet", HISTORIES)
    lost = PropertyMock(side_effect=RayError("The actor died\nunexpectedly."))
    with monkeypatch.context() as patch:
        patch.setattr(FakeData, "_done", lost)
        with pytest.raises(DelrecError, match="lost actors too often: The actor died unexpectedly") as error:
            score(bundle, users, tmp_path / "recs", SMALL, engine="ray", workers=2)
    assert "goes on behind the finished parts" in error.value.hint
    monkeypatch.setattr("delrec_lite.files.SECONDS_TO_APPEAR", 0.1)
    with monkeypatch.context() as patch:  # as on a machine of its own
        patch.setattr("delrec_lite.scoring.ray_engine.score_part", lambda *_: None)
        with pytest.raises(StorageError, match="actors have written parts that are not in .*recs"):
            score(bundle, users, tmp_path / "recs", SMALL, engine="ray", workers=2)
    score(bundle, users, tmp_path / "recs", SMALL, engine="ray", workers=2)
    assert len(rows_of(tmp_path / "recs")) == 4 * len(HISTORIES)


def test_without_ray_the_install_line_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match="--engine ray") as error:
        score_ray({}, tmp_path, tmp_path, ["part-00000.parquet"], 2, print)
    assert 'pip install "delrec-lite[ray]"' in error.value.hint


@pytest.fixture(scope="module")
def real_ray():
    """Ray on this machine, with a processor for reading beside those of the actors."""
    pytest.importorskip("ray.data", reason="Ray is not installed")
    import ray

    join_cluster(ray, 4)
    yield ray
    ray.shutdown()


def test_ray_gives_what_the_local_engine_gives(real_ray, bundle, expected, tmp_path):
    users = table_file(tmp_path / "users.parquet", HISTORIES)
    score(bundle, users, tmp_path / "recs", SMALL, engine="ray", workers=2)
    assert_same(rows_of(tmp_path / "recs"), expected)


def test_a_scorer_is_a_class_for_map_batches(real_ray, bundle, expected, tmp_path):
    users = table_file(tmp_path / "users.parquet", HISTORIES)
    scored = real_ray.data.read_parquet(users).map_batches(
        Scorer,
        fn_constructor_kwargs={"bundle": str(bundle), "k": 4},
        batch_format="pyarrow",
        concurrency=2,
        batch_size=8,
    )
    rows = [(r["user_id"], r["rank"], r["item_id"], r["score"]) for r in scored.iter_rows()]
    assert_same(sorted(rows), sorted(expected))


class Killer(Console):
    """Kills the actors that score when the first part is done."""

    def __init__(self):
        super().__init__("quiet")
        self.killed = []

    @contextmanager
    def progress(self, label, total):
        def tick(steps=1, note=""):
            if not self.killed:
                children = psutil.Process().children(recursive=True)
                self.killed = [child for child in children if "MapWorker" in child.name()]
                for actor in self.killed:
                    actor.kill()

        yield tick


def test_actors_that_are_killed_are_replaced_and_nothing_is_lost_or_twice(real_ray, bundle, expected, tmp_path):
    many = {f"{n:02d}{u}": h for n in range(30) for u, h in HISTORIES.items()}
    users = table_file(tmp_path / "users.parquet", many)
    killer = Killer()
    options = Options(k=4, part_users=len(HISTORIES))
    score(bundle, users, tmp_path / "recs", options, engine="ray", workers=2, console=killer)
    assert len(killer.killed) in (1, 2)
    assert_same([(row[0][2:], *row[1:]) for row in rows_of(tmp_path / "recs")], expected * 30)
