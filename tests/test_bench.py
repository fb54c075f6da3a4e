"""The bench: requests, statistics, order, output formats, comparison; with a fake recommender and one real bundle."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from delrec_lite.bench import report, workloads
from delrec_lite.bench.plan import Plan
from delrec_lite.bench.probe import new_process
from delrec_lite.bench.runner import bench
from delrec_lite.cli.app import app
from delrec_lite.errors import BundleError, DataError, DelrecError, UsageError
from delrec_lite.prompts.format import PromptFormat

PROGRAM = Path(sys.executable).parent / "delrec-lite"
ITEMS, USERS, M = 40, 12, 15


class Fake:
    """A recommender that ranks the item after the last one first, and logs its requests."""

    def __init__(self, folder, name="fake", quant="f16", threads=1, wait=0.0, log=None, ids=None):
        self.name, self.threads, self.wait, self.closed = name, threads, wait, False
        self.log = [] if log is None else log
        self.sessions = []
        ids = ids or [f"i{n}" for n in range(ITEMS)]
        self.bundle = SimpleNamespace(
            folder=folder,
            name=name,
            items=SimpleNamespace(ids=ids, titles=[f"Title {n}" for n in range(ITEMS)]),
            trained=ITEMS,
            repeats=False,
            prompt=SimpleNamespace(prefix=[0] * 7, max_history=50, format=PromptFormat()),
            manifest={
                "model": {"file": "m.gguf", "quant": quant, "base": "tiny"},
                "files": {"m.gguf": {"bytes": 900, "sha256": "ab"}, "catalog.json": {"bytes": 100}},
                "provenance": {"commit": "abc"},
            },
        )

    def recommend(self, history, k=10, candidates=None, session=None):
        self.log.append((self.name, self.threads, len(history), None if candidates is None else len(candidates)))
        self.sessions.append(session)
        time.sleep(self.wait)
        computed = len(history) if session is None else 1
        return SimpleNamespace(milliseconds={"prefill": 1e3 * self.wait, "sort": 0.0}, tokens_computed=computed)

    def tokens(self, history, candidates=None):
        return len(history)

    def recommend_batch(self, histories, k=10):
        self.log.append((self.name, self.threads, "batch", len(histories)))
        time.sleep(self.wait)

    def scores(self, histories):
        return np.array([-((np.arange(ITEMS) - h[-1] - 1) % ITEMS) for h in histories], np.float32)

    def close(self):
        self.closed = True


def golden(folder, **changes):
    """The target is the next item for half of the users, the one after it for the others."""
    folder.mkdir(exist_ok=True)
    histories = [[(u + n) % ITEMS for n in range(5 + 3 * u)][:35] for u in range(USERS)]
    targets = [(h[-1] + 1 + u % 2) % ITEMS for u, h in enumerate(histories)]
    candidates = [[t, *((t + 2 + np.arange(M - 1)) % ITEMS).tolist()] for t in targets]
    stored = {"histories": histories, "targets": targets, "candidates": candidates, **changes}
    (folder / "golden.json").write_text(json.dumps(stored))
    return folder


def probe(job):
    probe.jobs.append(job)
    return {"total": 50.0, "start": 5.0, "import": 5.0, "load": 30.0, "answer": 10.0, "peak_rss_bytes": 2_000_000}


@pytest.fixture(autouse=True)
def no_jobs():
    probe.jobs = []


def run(folder, plan, fakes=None, **changed):
    fakes = [] if fakes is None else fakes

    def load(path, threads):
        fakes.append(Fake(folder, name=Path(path).stem, threads=threads, **changed))
        return fakes[-1]

    return bench([folder], plan, load=load, probe=probe), fakes


def test_summary_against_known_values():
    figures = report.latency_summary([float(n) for n in range(1, 101)])
    assert figures == {"p50": 50.5, "p95": 95.05, "p99": 99.01, "mean": 50.5, "sigma": 29.0115}
    assert report.latency_summary([3.0])["sigma"] == 0


def test_each_workload_sends_its_own_requests(tmp_path):
    golden(tmp_path / "a.delrec")
    timed, (fake,) = run(tmp_path / "a.delrec", Plan(["cold", "rerank", "batch", "load"], [1], repeats=4))
    cold, rerank, batch, load = timed.results
    single = [entry for entry in fake.log if entry[2] != "batch"]
    assert {entry[3] for entry in single[:6]} == {None}, "cold ranks the catalogue"
    assert {entry[3] for entry in single[6:]} == {M}, "rerank gives candidates"
    assert max(entry[2] for entry in single) <= 20
    assert len(single) == 2 * (2 + 4), "2 of each are warm-up"
    assert [entry[3] for entry in fake.log if entry[2] == "batch"] == [USERS] * 5
    assert [len(r.samples_ms) for r in timed.results] == [4] * 4
    assert (cold.users, batch.users) == (1, USERS)
    assert cold.tokens == np.mean([5, 8, 11, 14])
    assert batch.tokens == sum(min(20, 5 + 3 * u) for u in range(USERS))
    assert load.tokens == cold.tokens + 7, "a new process computes the prefix too"
    assert load.phases == {"start": 5, "import": 5, "load": 30, "answer": 10}
    assert load.ms["p50"] == 50
    assert load.accuracy == {}
    assert rerank.peak_rss_bytes == 2_000_000
    assert cold.artifact_bytes == 1000
    assert fake.closed


def test_step_times_the_newest_item_of_a_cached_session(tmp_path):
    golden(tmp_path / "a.delrec")
    timed, (fake,) = run(tmp_path / "a.delrec", Plan(["step"], [1], repeats=2))
    lengths = [entry[2] for entry in fake.log]
    assert lengths == [n for length in (20, 20, 5, 8) for n in (length - 1, length)]
    assert set(fake.sessions) == {"bench"}
    assert timed.results[0].tokens == 1
    assert len(timed.results[0].samples_ms) == 2
    assert timed.results[0].accuracy["protocol"] == "full"


def test_memory_is_that_of_a_process_that_does_only_this_workload(tmp_path):
    golden(tmp_path / "a.delrec")
    run(tmp_path / "a.delrec", Plan(["rerank", "batch"], [3], repeats=1))
    rerank, batch = probe.jobs
    assert all(len(request["candidates"]) == M for request in rerank["requests"])
    assert not rerank["together"]
    assert batch["together"]
    assert len(batch["requests"]) == USERS
    assert {job["threads"] for job in probe.jobs} == {3}


def test_times_are_those_of_the_recommender(tmp_path):
    golden(tmp_path / "a.delrec")
    timed, _ = run(tmp_path / "a.delrec", Plan(["cold", "batch"], [1], repeats=3), wait=0.02)
    cold, batch = timed.results
    assert 20 <= cold.ms["p50"] < 200
    assert cold.phases["prefill"] == 20
    assert cold.per_second == pytest.approx(1e3 / cold.ms["mean"], rel=0.01)
    assert batch.per_second == pytest.approx(1e3 * USERS / batch.ms["mean"], rel=0.01)


def test_configurations_are_interleaved(tmp_path):
    log = []
    folders = [golden(tmp_path / f"{name}.delrec") for name in "ab"]

    def load(path, threads):
        return Fake(Path(path), name=Path(path).stem, threads=threads, log=log)

    timed = bench(folders, Plan(["cold"], [1, 2], repeats=3), load=load, probe=probe)
    turns = [entry[:2] for entry in log]
    assert turns == [("a", 1), ("a", 2), ("b", 1), ("b", 2)] * (2 + 3)
    lengths = [entry[2] for entry in log]
    assert all(len(set(lengths[at : at + 4])) == 1 for at in range(0, len(lengths), 4)), "all get the same request"
    assert [(r.bundle, r.threads) for r in timed.results] == [("a f16", 1), ("a f16", 2), ("b f16", 1), ("b f16", 2)]


def test_accuracy_is_computed_over_all_requests(tmp_path):
    golden(tmp_path / "a.delrec")
    timed, _ = run(tmp_path / "a.delrec", Plan(["cold", "rerank"], [1], repeats=1))
    cold, rerank = (r.accuracy for r in timed.results)
    # In the catalogue the even users' target comes first, the others' second: unless it is in the history.
    assert (cold["protocol"], cold["requests"], cold["HR@1"]) == ("full", USERS, 0.5)
    assert cold["NDCG@10"] == pytest.approx(0.5 + 0.5 / np.log2(3), abs=1e-3)
    assert (rerank["protocol"], rerank["candidates"], rerank["HR@1"]) == ("sampled", M, 1.0)


def test_two_bundles_of_one_name_get_different_labels(tmp_path):
    folders = [golden(tmp_path / name) for name in ("x", "y")]
    timed = bench(folders, Plan(["cold"], [1], 1), load=lambda p, t: Fake(Path(p), name="same"), probe=probe)
    assert len({r.bundle for r in timed.results}) == 2
    assert set(timed.bundles) == {r.bundle for r in timed.results}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"targets": [1]}, BundleError, "does not fit"),
        ({"histories": [[ITEMS]] * USERS}, BundleError, "does not fit"),
        ({"histories": [[]] * USERS}, BundleError, "does not fit"),
        ({"candidates": [[1], [1, 2]]}, BundleError, "cannot be read"),
        ({"targets": "none"}, BundleError, "cannot be read"),
    ],
)
def test_invalid_requests_are_refused(tmp_path, changes, error, words):
    golden(tmp_path / "a.delrec", **changes)
    with pytest.raises(error, match=words):
        run(tmp_path / "a.delrec", Plan(["cold"], [1], 1))


def test_a_bundle_without_requests_needs_a_data_set(tmp_path):
    fakes = []
    with pytest.raises(UsageError) as caught:
        run(tmp_path, Plan(["cold"], [1], 1), fakes)
    assert "--dataset" in caught.value.hint
    assert fakes[0].closed, "a failure frees the model"


@pytest.mark.parametrize(
    "plan",
    [Plan(["cold"], [1], 0), Plan(["cold"], [0]), Plan(["cold"], []), Plan(["fast"], [1]), Plan([], [1])],
)
def test_empty_and_unknown_plans_are_refused(tmp_path, plan):
    with pytest.raises(UsageError):
        run(golden(tmp_path / "a.delrec"), plan)


def test_more_users_than_requests_and_other_catalogues_are_refused(tmp_path):
    folder = golden(tmp_path / "a.delrec")
    with pytest.raises(UsageError, match="13 users in a batch, 12 requests"):
        run(folder, Plan(["batch"], [1], 1, users=13))
    fakes = iter([Fake(folder), Fake(folder, ids=["x"] * ITEMS)])
    with pytest.raises(UsageError, match="another catalogue"):
        bench([folder, tmp_path], Plan(["cold"], [1], 1), load=lambda *_: next(fakes), probe=probe)
    with pytest.raises(UsageError, match="no bundle"):
        bench([], Plan(["cold"], [1], 1), probe=probe)


def test_requests_come_from_the_test_users_of_a_prepared_data_set(tmp_path):
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import candidates, dataset

    tiny = dataset()
    data = make_dataset(tiny.name, tiny.catalog, tiny.user_ids, tiny.sequences)
    save_dataset(data, {s: candidates(s) for s in ("valid", "test")}, Settings(1, 5, 3), tmp_path / "data")
    bundle = Fake(tmp_path).bundle
    with pytest.raises(DataError, match="different catalogues"):
        workloads.requests_of(bundle, tmp_path / "data")
    bundle.items = SimpleNamespace(ids=list(data.catalog.ids), titles=list(data.catalog.titles))
    requests = workloads.requests_of(bundle, tmp_path / "data")
    assert len(requests) == len(data.user_ids)
    user = 4
    request = requests.of("rerank", user + len(requests))
    assert request.history == [data.catalog.titles[i] for i in data.sequences[user][:-1][-20:]]
    assert data.catalog.titles[data.sequences[user][-1]] in request.candidates
    assert requests.of("cold", user).candidates is None


@pytest.mark.parametrize("questions_per_user", [0, 3])
def test_a_chronological_split_gives_a_request_for_each_test_interaction(tmp_path, questions_per_user):
    """Only one user in two has a question, or every user has three."""
    from delrec_lite.data.candidates import sample_candidates
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import dataset

    tiny = dataset()
    ends = np.array([len(s) for s in tiny.sequences])
    last = ends - questions_per_user if questions_per_user else ends - np.arange(len(ends)) % 2
    data = make_dataset(tiny.name, tiny.catalog, tiny.user_ids, tiny.sequences, np.stack([last - 1, last], 1))
    sets = {split: sample_candidates(data, split, 5, 1) for split in ("valid", "test")}
    save_dataset(data, sets, Settings(1, 5, 1, "chronological"), tmp_path / "data")
    bundle = Fake(tmp_path).bundle
    bundle.items = SimpleNamespace(ids=list(data.catalog.ids), titles=list(data.catalog.titles))
    requests = workloads.requests_of(bundle, tmp_path / "data")
    assert len(requests) == len(data.test()) == len(ends) * (questions_per_user or 0.5)
    assert (requests.candidates.items == requests.split.targets[:, None]).any(1).all()


def test_a_data_set_without_a_test_part_is_refused(tmp_path):
    from delrec_lite.data.candidates import SPLITS, sample_candidates
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import dataset

    tiny = dataset()
    ends = np.array([len(s) for s in tiny.sequences])
    data = make_dataset(tiny.name, tiny.catalog, tiny.user_ids, tiny.sequences, np.stack([ends, ends], 1))
    sets = {split: sample_candidates(data, split, 5, 3) for split in SPLITS}
    save_dataset(data, sets, Settings(1, 5, 3, "chronological"), tmp_path / "data")
    bundle = Fake(tmp_path).bundle
    bundle.items = SimpleNamespace(ids=list(data.catalog.ids), titles=list(data.catalog.titles))
    with pytest.raises(DataError, match="no test part"):
        workloads.requests_of(bundle, tmp_path / "data")


@pytest.fixture
def finished(tmp_path):
    return run(golden(tmp_path / "a.delrec"), Plan(["cold", "rerank", "batch", "load"], [1], 3))[0]


def test_a_report_reads_back_with_its_raw_samples(finished, tmp_path):
    report.write_report(finished, tmp_path / "r.json")
    assert report.read_report(tmp_path / "r.json") == finished
    stored = json.loads((tmp_path / "r.json").read_text())
    assert len(stored["results"][0]["samples_ms"]) == 3
    assert stored["machine"]["cpu"]
    assert stored["versions"]["delrec-lite"]
    assert stored["bundles"]["a f16"]["commit"] == "abc"


def test_csv_and_markdown_hold_every_result(finished):
    lines = list(csv.DictReader(io.StringIO(report.as_csv(finished))))
    assert [line["workload"] for line in lines] == ["cold", "rerank", "batch", "load"]
    assert float(lines[0]["p50_ms"]) == finished.results[0].ms["p50"]
    assert lines[3]["HR@1"] == ""
    table = [line for line in report.as_markdown(finished).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    assert len({len(line) for line in table}) == 1
    assert f"batch {USERS}" in table[4]


def slower(finished, factor, workload="cold"):
    results = [
        replace(r, ms={name: v * factor for name, v in r.ms.items()}) if r.workload == workload else r
        for r in finished.results
    ]
    return replace(finished, results=results)


def test_compare_finds_the_regression_and_no_other(finished):
    ratios = report.compare_reports(finished, slower(finished, 1.2))
    assert [r.workload for r in ratios if r.regression] == ["cold"]
    assert ratios[0].p50 == pytest.approx(1.2)
    assert not any(r.regression for r in report.compare_reports(finished, slower(finished, 1.2), threshold=1.25))
    assert not any(r.regression for r in report.compare_reports(slower(finished, 1.2), finished))
    other_threads = replace(finished, results=[replace(r, threads=9) for r in finished.results])
    with pytest.raises(UsageError, match="nothing in common"):
        report.compare_reports(finished, other_threads)
    with pytest.raises(UsageError, match="threshold"):
        report.compare_reports(finished, finished, 0)
    idle = replace(finished, load_before=0.0)
    assert len(report.comparison_warnings(idle, replace(idle, results=idle.results[:3]))) == 1


def test_a_busy_machine_is_reported(finished):
    idle, busy = replace(finished, load_before=0.1), replace(finished, load_before=3.5)
    assert "not idle (load average 3.5" in report.as_markdown(busy)
    assert "not idle" not in report.as_markdown(idle)
    assert report.comparison_warnings(idle, idle) == []
    assert ["second run" in line for line in report.comparison_warnings(idle, busy)] == [True]


def test_compare_exits_with_1_on_a_regression(finished, tmp_path):
    report.write_report(finished, tmp_path / "a.json")
    report.write_report(slower(finished, 1.2), tmp_path / "b.json")
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    call = CliRunner().invoke
    assert call(app, ["bench", "--compare", a, a]).exit_code == 0
    regressed = call(app, ["bench", "--compare", a, b, "--json"])
    assert regressed.exit_code == 1
    assert [r["regression"] for r in json.loads(regressed.stdout)] == [True, False, False, False]
    assert call(app, ["bench", "--compare", a, b, "--threshold", "1.3"]).exit_code == 0
    for wrong in (
        ["x.delrec", "--compare", a, b],
        ["compare", a],
        ["compare", a, b, b],
        ["compare", a, "--compare", a, b],
    ):
        assert isinstance(call(app, ["bench", *wrong]).exception, UsageError)
    (tmp_path / "b.json").write_text('{"schema": 1}')
    assert isinstance(call(app, ["bench", "--compare", a, b]).exception, UsageError)


def test_compare_as_a_word_equals_compare_as_an_option(finished, tmp_path):
    for name, factor in (("a", 1.0), ("b", 1.2)):
        report.write_report(slower(finished, factor), tmp_path / f"{name}.json")
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    for options, code in (([], 1), (["--threshold", "1.3"], 0)):
        by_word, by_option = (
            CliRunner().invoke(app, ["bench", *words, a, b, *options, "--json"])
            for words in (["compare"], ["--compare"])
        )
        assert by_word.exit_code == by_option.exit_code == code
        assert by_word.stdout == by_option.stdout != ""


def test_each_precision_of_a_bundle_is_a_configuration(tmp_path):
    folder, log = golden(tmp_path / "a.delrec"), []

    def load(path, threads, quant=None):
        return Fake(Path(path), name="a", quant=quant, threads=threads, log=log)

    plan = Plan(["cold", "load"], [1, 2], repeats=1, quants=["q4_0", "q8_0"])
    timed = bench([folder], plan, load=load, probe=probe)
    names = [("a q4_0", 1), ("a q4_0", 2), ("a q8_0", 1), ("a q8_0", 2)]
    assert [(r.bundle, r.threads) for r in timed.results] == names * 2
    assert set(timed.bundles) == {"a q4_0", "a q8_0"}
    assert [job["quant"] for job in probe.jobs[-4:]] == ["q4_0", "q4_0", "q8_0", "q8_0"]


def test_a_failing_process_reports_its_error(tmp_path):
    job = {"bundle": str(tmp_path / "none"), "threads": 1, "together": False, "requests": []}
    with pytest.raises(DelrecError, match="no bundle at"):
        new_process(job)


def call(*arguments):
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [PROGRAM, "bench", *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
    )


def test_a_real_bundle_from_the_command_line(tiny_bundle, tmp_path):
    out = tmp_path / "now.json"
    done = call(tiny_bundle, "-r", 1, "--threads", "1", "--out", out, "-o", "json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data == json.loads(out.read_text())
    by_name = {r["workload"]: r for r in data["results"]}
    assert set(by_name) == {"cold", "rerank", "step", "batch", "load"}
    assert set(by_name["cold"]["phases"]) == {"match", "encode", "prefill", "sort"}
    assert by_name["load"]["ms"]["p50"] > by_name["cold"]["ms"]["p50"]
    assert all(20e6 < r["peak_rss_bytes"] < 4e9 for r in data["results"])
    assert by_name["cold"]["artifact_bytes"] > sum(f.stat().st_size for f in tiny_bundle.glob("*.gguf"))
    assert sum(by_name["load"]["phases"].values()) == pytest.approx(by_name["load"]["ms"]["mean"], rel=0.01)
    cold_only = call(tiny_bundle, "-r", 1, "-w", "cold", "--threads", "1")
    assert cold_only.stdout.count("\n| tiny f16 ") == 1
    assert "HR@1" in cold_only.stdout
    assert "warm-up left out" in cold_only.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no bundle to time"),
        (["BUNDLE", "--threads", "two"], 2, "two"),
        (["BUNDLE", "-r", "0"], 2, "at least 1"),
        (["nothing.delrec"], 6, "no bundle at"),
        (["BUNDLE", "--out", "no/such/folder/x.json"], 8, "no/such/folder"),
        (["--compare", "a.json", "b.json"], 2, "no report at a.json"),
    ],
)
def test_bad_input_is_one_clear_line(tiny_bundle, arguments, code, words):
    done = call(*[tiny_bundle if a == "BUNDLE" else a for a in arguments])
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_results_are_plain_json(finished):
    assert json.loads(json.dumps(asdict(finished)))["results"]
