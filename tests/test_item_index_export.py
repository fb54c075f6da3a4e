"""Export writes an item index of a large catalogue; it works beside a teacher, and the bench times both ways."""

import json

import numpy as np
import pytest

from delrec_lite.bench.plan import Plan
from delrec_lite.bench.report import footnotes
from delrec_lite.bench.runner import bench
from delrec_lite.export import item_index
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.hybrid import WEIGHT
from delrec_lite.runtime.engines.states import coarse_engine
from delrec_lite.runtime.item_index.fit import Choice
from delrec_lite.runtime.manifest import INDEX, INDEX_FACTS, INDEX_MAPS, MANIFEST
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.verify import verify
from tests.command import run
from tests.conftest import export_tiny
from tests.indexed import with_index
from tests.tiny import ITEMS, dataset


@pytest.fixture
def small(monkeypatch):
    """Thirty items are many, and ten candidates enough."""
    monkeypatch.setattr(item_index, "MIN_ITEMS", 10)
    monkeypatch.setattr("delrec_lite.runtime.item_index.fit.CANDIDATES", (10, ITEMS))


def test_export_writes_an_index_of_a_large_catalogue(tiny_base, tmp_path, small):
    path = export_tiny(tiny_base, tmp_path / "tiny.delrec", "f16,q8_0").path
    bundle = Bundle.open(path)
    facts = bundle.manifest["model"][INDEX_FACTS]
    assert {INDEX, INDEX_MAPS} < set(bundle.manifest["files"])
    assert np.load(path / INDEX).shape == (ITEMS, facts["rank"])
    assert facts["recall"] >= 0.995
    assert facts["states"] > 0
    verified = verify(path, isolated=False)
    assert (verified.top10_overlap, verified.item_index) == (1.0, facts)
    shown = run("verify", path)
    assert (shown.returncode, "item index" in shown.stdout) == (0, True)
    for quant in ("f16", "q8_0"):
        with (
            Recommender.load(path, 1, quant=quant) as indexed,
            Recommender.load(path, 1, quant=quant, exact=True) as exact,
        ):
            assert coarse_engine(indexed.engine) is not None
            for history in dataset().test().histories[:5]:
                titles = [exact.bundle.items.titles[item] for item in history]
                first, second = (r.recommend(titles, k=ITEMS).items for r in (indexed, exact))
                assert [i.score for i in first] == pytest.approx([i.score for i in second], abs=0.02)


def test_export_writes_none_where_none_finds_enough_or_the_catalogue_is_small(tiny_base, tmp_path, small, monkeypatch):
    monkeypatch.setattr(item_index, "choose", lambda *_: None)
    bundle = Bundle.open(export_tiny(tiny_base, tmp_path / "tiny.delrec").path)
    assert INDEX not in bundle.manifest["files"]
    assert INDEX_FACTS not in bundle.manifest["model"]
    assert not item_index.needs_index(Bundle.open(export_tiny(tiny_base, tmp_path / "o.delrec", formats="onnx").path))
    monkeypatch.setattr(item_index, "MIN_ITEMS", ITEMS + 1)
    assert not item_index.needs_index(bundle)


def test_an_engine_that_reads_no_index_scores_every_item(tiny_base, tmp_path, caplog):
    path = export_tiny(tiny_base, tmp_path / "tiny.delrec", formats="both").path
    path = with_index(path, tmp_path / "indexed.delrec", Choice(16, 12, 1.0, 30), [[n] for n in range(ITEMS)])
    with Recommender.load(path, threads=1, engine="onnxruntime") as recommender:
        assert coarse_engine(recommender.engine) is None
        assert len(recommender.recommend([recommender.bundle.items.titles[0]]).items) == 10
    assert [record.message for record in caplog.records if "onnxruntime reads none" in record.message]


def test_beside_a_teacher_the_best_are_mixed_exactly(teacher_bundle, tmp_path):
    histories = [[int(i) for i in history] for history in dataset().test().histories]
    path = with_index(teacher_bundle[0], tmp_path / "t.delrec", Choice(24, 12, 1.0, 30), histories)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["model"][WEIGHT] = 0.4
    (path / MANIFEST).write_text(json.dumps(manifest))
    with Recommender.load(path, 1, fused=True) as indexed, Recommender.load(path, 1, fused=True, exact=True) as exact:
        titles = exact.bundle.items.titles
        assert coarse_engine(indexed.engine) is not None
        for history in histories[:6]:
            asked = [titles[item] for item in history]
            for options in ({"k": 1}, {"k": ITEMS}, {"candidates": titles[:9]}, {"session": "u", "k": 1}):
                first, second = (r.recommend(asked, **options).items for r in (indexed, exact))
                assert [item.id for item in first] == [item.id for item in second]
                # The mean of all log-probabilities, which shifts the teacher's scores, is that of coarse scores.
                assert [i.score for i in first] == pytest.approx([i.score for i in second], abs=0.05)


def test_the_bench_times_a_bundle_without_and_with_its_index(tiny_base, tmp_path, small):
    path = export_tiny(tiny_base, tmp_path / "tiny.delrec").path
    report = bench([path], Plan(["cold", "load"], [1], repeats=1))
    phases = {(result.workload, result.bundle): result.phases for result in report.results}
    assert list(phases) == [(w, n) for w in ("cold", "load") for n in ("tiny f16 exact", "tiny f16")]
    assert ["score" in phases["cold", name] for name in ("tiny f16 exact", "tiny f16")] == [False, True]
    (line,) = [line for line in footnotes(report) if "item index" in line]
    assert line.startswith("tiny f16: item index of ")
    alone = bench([path], Plan(["cold"], [1], repeats=1, exact=True))
    assert [result.bundle for result in alone.results] == ["tiny f16"]
    assert "score" not in alone.results[0].phases
    assert not [line for line in footnotes(alone) if "item index" in line]
