"""Peers answer the same requests as we do, floors are counted from the model file, and the page shows every row."""

import os
import re
import signal
from dataclasses import replace
from importlib.metadata import version
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest

from delrec_lite import machine
from delrec_lite.bench.page import as_html
from delrec_lite.bench.peer_prompt import prompt
from delrec_lite.bench.peers import BudgetSpentError, PeerServing, description, torch_precision
from delrec_lite.bench.plan import Plan
from delrec_lite.bench.report import as_csv, as_markdown, compare_reports, footnotes, table_rows
from delrec_lite.bench.roofline import Ceilings, measure_ceilings, work_of
from delrec_lite.bench.runner import bench
from delrec_lite.console import Console
from delrec_lite.errors import UsageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.pictures import marks
from tests.tiny import dataset


def ask_peer(path, name, base=()):
    peer = PeerServing(name, Bundle.open(path), dict(base), [1])
    titles = peer.bundle.items.titles
    try:
        answer = peer.recommend([titles[i] for i in (3, 1, 4)], k=5)
        return [answer.items, answer.tokens_computed, peer.peak_rss_bytes]
    finally:
        peer.close()
        assert peer._process.poll() == 0


def test_the_bundles_own_gguf_answers_as_our_runtime_does(teacher_bundle):
    items, tokens, memory = ask_peer(teacher_bundle[0], "llama-cpp-python, bundle")
    with Recommender.load(teacher_bundle[0], threads=1) as recommender:
        scores = recommender.scores([[3, 1, 4]])[0]
    assert items == [recommender.bundle.items.titles[i] for i in np.argsort(-scores)[:5]]
    assert tokens == len(recommender.bundle.prompt.prefix) + 3
    assert memory > 10e6


def test_the_teacher_alone_is_a_peer(teacher_bundle):
    path, teacher = teacher_bundle
    items, tokens, _ = ask_peer(path, "teacher, ONNX")
    scores = teacher.scores([np.array([3, 1, 4])])[0]
    assert items == [dataset().catalog.titles[i] for i in np.argsort(-scores)[:5]]
    assert tokens == 3


@pytest.mark.parametrize("name", ["transformers fp32", "transformers generate"])
def test_transformers_rank_candidates_with_the_papers_prompt(teacher_bundle, tiny_base, name):
    peer = PeerServing(name, Bundle.open(teacher_bundle[0]), {"folder": str(tiny_base)}, [1])
    titles = peer.bundle.items.titles
    try:
        answer = peer.recommend(titles[:3], candidates=titles[5:9])
    finally:
        peer.close()
    assert set(answer.items) == set(titles[5:9])
    assert answer.tokens_computed > len(titles[:3]) * 2


def test_optimum_exports_the_base_once_and_ranks_as_transformers_does(teacher_bundle, tiny_base, tmp_path):
    if not version("transformers").startswith("4."):
        pytest.skip("optimum needs transformers 4.57: make test-transformers4")
    base = {"folder": str(tiny_base), "onnx": str(tmp_path / "tiny-onnx")}
    answers = []
    for name in ("transformers fp32", "optimum, ONNX", "optimum, ONNX"):
        peer = PeerServing(name, Bundle.open(teacher_bundle[0]), base, [1])
        titles = peer.bundle.items.titles
        try:
            ranking = peer.recommend(titles[:3], k=30)
            answers.append([ranking.items, peer.recommend(titles[:3], 4, titles[5:9]).items])
            assert ranking.tokens_computed > len(titles[:3]) * 2
        finally:
            peer.close()
        exported = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert answers[0] == answers[1] == answers[2]
    assert peer.bytes > sum(path.stat().st_size for path in tiny_base.glob("*.safetensors")) / 2
    assert {path.name for path in tmp_path.iterdir()} == {"tiny-onnx"}
    assert exported == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("name", ["llama-cpp-python, base", "llama.cpp, titles"])
def test_llama_cpp_reads_the_papers_prompt_in_words(teacher_bundle, name):
    bundle = Bundle.open(teacher_bundle[0])
    peer = PeerServing(name, bundle, {"gguf": str(bundle.model_path)}, [1])
    titles = peer.bundle.items.titles
    try:
        answer = peer.recommend(titles[:3], candidates=titles[5:9])
    finally:
        peer.close()
    assert set(answer.items) <= set(titles[5:9])
    assert answer.tokens_computed > 30


def test_unavailable_peers_are_skipped_with_the_reason(teacher_bundle, tmp_path, monkeypatch, capsys):
    from delrec_lite.cli.bench import _peers

    monkeypatch.setenv("DELREC_CACHE", str(tmp_path))
    monkeypatch.setattr("delrec_lite.cli.bench._has_optimum", lambda: True)
    chosen, base = _peers([teacher_bundle[0]], Console())
    assert (set(chosen), base) == ({"llama-cpp-python, bundle", "llama.cpp, titles", "teacher, ONNX"}, {})
    messages = capsys.readouterr().err
    assert "llama-cpp-python, base is left out: no GGUF file" in messages
    assert "optimum, ONNX is left out: tiny is not unpacked" in messages
    (tmp_path / "tiny-bf16").mkdir()
    chosen, base = _peers([teacher_bundle[0]], Console())
    assert "optimum, ONNX" in chosen
    assert base == {"folder": str(tmp_path / "tiny-bf16"), "onnx": str(tmp_path / "tiny-onnx")}
    monkeypatch.setattr("delrec_lite.cli.bench._has_optimum", lambda: False)
    assert "optimum, ONNX" not in _peers([teacher_bundle[0]], Console())[0]
    assert 'optimum, ONNX is left out: not installed: pip install "delrec-lite[peers]"' in capsys.readouterr().err


def test_the_prompt_holds_history_and_candidates_in_order():
    text = prompt(["A", "B"], ["C"])
    assert text.index("A, B") < text.index("Candidates for the next one: C")
    assert "Candidates" not in prompt(["A"], None)


def test_a_peer_without_its_files_says_what_is_missing(teacher_bundle):
    with pytest.raises(UsageError, match="base model is not in the cache"):
        PeerServing("transformers bf16", Bundle.open(teacher_bundle[0]), {}, [1])
    with pytest.raises(UsageError, match="no peer is called"):
        PeerServing("abacus", Bundle.open(teacher_bundle[0]), {}, [1])


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_for_processors_that_have_it(teacher_bundle, tmp_path, monkeypatch, capsys, native):
    from delrec_lite.cli.bench import _peers

    monkeypatch.setattr(machine, "cpu_features", lambda: ("avx2", *(["avx512_bf16"] if native else [])))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path))
    (tmp_path / "tiny-bf16").mkdir()
    chosen, _ = _peers([teacher_bundle[0]], Console())
    assert ("transformers bf16" in chosen) == native
    assert ("transformers bf16 is left out: bf16 is not native" in capsys.readouterr().err) != native
    assert torch_precision("transformers generate") == ("bfloat16" if native else "float32")
    assert torch_precision("transformers generate") in description("transformers generate")
    assert torch_precision("transformers fp32") == "float32"


def test_a_peer_without_time_for_its_start_is_ended_and_has_no_figures(teacher_bundle, monkeypatch, capsys):
    monkeypatch.setattr("delrec_lite.bench.configurations.PeerServing", Remembered)
    monkeypatch.setattr("delrec_lite.bench.peers.WATCH_S", 0.001)  # no interpreter starts in the time given
    report = bench([teacher_bundle[0]], Plan(["cold"], [1], 3, peers=["teacher, ONNX"], peer_seconds=0.01))
    ours, peer = report.results
    assert len(ours.samples_ms) == 3
    assert (peer.ms, peer.samples_ms, peer.accuracy, peer.per_second) == ({}, [], {}, 0.0)
    count = min(32, report.asked["requests"])
    assert peer.unfinished == f"0 of 3 samples, accuracy 0 of {count} requests within 0 s"
    (serving,) = Remembered.made
    assert serving._process.poll() is not None
    (cells,) = [row for row in table_rows(report)[0] if row[0] == "teacher, ONNX"]
    assert set(cells[1:3]) == {"-"}
    assert cells[-1] == peer.unfinished
    assert peer.unfinished in as_markdown(report)
    assert peer.unfinished in as_csv(report)
    assert peer.unfinished in as_html(report)
    assert [ratio.bundle for ratio in compare_reports(report, report)] == ["tiny f16"]


class Remembered(PeerServing):
    made: ClassVar[list[PeerServing]] = []

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.made.append(self)


def test_a_peer_that_does_not_answer_is_ended_when_its_time_is_spent(teacher_bundle):
    peer = PeerServing("teacher, ONNX", Bundle.open(teacher_bundle[0]), {}, [1])
    try:
        os.kill(peer._process.pid, signal.SIGSTOP)
        peer.seconds = peer.seconds - peer.seconds_left + 0.5
        with pytest.raises(BudgetSpentError, match="teacher, ONNX was not done after"):
            peer.recommend(peer.bundle.items.titles[:3])
        assert peer._process.wait(timeout=60) == -signal.SIGKILL
        with pytest.raises(BudgetSpentError, match="no time left"):
            peer.recommend(peer.bundle.items.titles[:3])
    finally:
        peer.close()


def test_a_stage_may_use_its_share_of_a_peers_time(teacher_bundle):
    peer = PeerServing("teacher, ONNX", Bundle.open(teacher_bundle[0]), {}, [1])
    titles = peer.bundle.items.titles
    try:
        peer.start_stage(2)
        peer._spent += 0.6 * peer.seconds_left
        with pytest.raises(BudgetSpentError):
            peer.recommend(titles[:3])
        peer.start_stage(1)
        assert peer.recommend(titles[:3]).items
    finally:
        peer.close()


@pytest.fixture(scope="module")
def report(teacher_bundle):
    plan = Plan(["cold", "rerank"], [1], 3, peers=["teacher, ONNX"], roofline=True)
    return bench([teacher_bundle[0]], plan)


def test_the_report_has_peers_with_their_accuracy(report, teacher_bundle):
    names = [(r.workload, r.bundle) for r in report.results]
    assert names == [
        ("cold", "tiny f16"),
        ("cold", "teacher, ONNX"),
        ("rerank", "tiny f16"),
        ("rerank", "teacher, ONNX"),
    ]
    for r in report.results:
        assert len(r.samples_ms) == 3
        assert 0 <= r.accuracy["HR@1"] <= r.accuracy["NDCG@10"] <= 1
    assert report.results[1].accuracy["requests"] == min(32, report.results[0].accuracy["requests"])
    assert any("the floor" in line for line in footnotes(report))


def test_the_floor_is_counted_from_the_model_file(teacher_bundle):
    work = work_of(Bundle.open(teacher_bundle[0]), 20)
    size = Bundle.open(teacher_bundle[0]).model_path.stat().st_size
    assert 0 < work.gb * 1e9 < size
    assert work_of(Bundle.open(teacher_bundle[0]), 40).gop == pytest.approx(2 * work.gop, rel=0.3)
    slow = Ceilings(1, read_gb_s=1.0, fp32_gop_s=1.0, int8_gop_s=None)
    assert work.floor_ms(slow) == pytest.approx(1e3 * max(work.gop, work.gb))
    assert work.floor_ms(replace(slow, int8_gop_s=1e9, read_gb_s=1e9)) < 1e-3


def test_the_floor_of_an_onnx_bundle_is_that_of_the_same_network(teacher_bundle, tiny_base, tmp_path):
    exported = export_tiny(tiny_base, tmp_path / "o.delrec", formats="onnx", onnx_quant="int8_block")
    onnx, gguf = work_of(Bundle.open(exported.path), 20), work_of(Bundle.open(teacher_bundle[0]), 20)
    assert onnx.gop == pytest.approx(gguf.gop)
    assert gguf.gb / 3 < onnx.gb < gguf.gb  # eight bits and a scale for 32 weights, against sixteen bits


def test_ceilings_are_measured_and_reported(report):
    ceilings = measure_ceilings(1)
    assert ceilings.read_gb_s > 0.1
    assert ceilings.fp32_gop_s > 0.1
    assert any("Ceilings of 1 threads" in line for line in footnotes(report))
    assert any("times that" in line for line in footnotes(report))


def test_the_page_shows_every_row_and_loads_nothing(report):
    page = as_html(report)
    assert page.count("teacher, ONNX") >= 4
    assert not re.search(r'(src|href)="(?!#)', page)
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    first = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0])
    dots = sum(len(row) for row in marks(first, "samples").values())
    assert dots == sum(len(r.samples_ms) for r in report.results if r.workload == "cold")
