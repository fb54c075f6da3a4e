"""`report.html`: what it shows, that no text of a user becomes markup, and what is refused."""

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from delrec_lite.config import Recipe
from delrec_lite.console import QUIET
from delrec_lite.errors import DataError, StorageError, UsageError
from delrec_lite.evaluation.beyond import list_metrics, most_recommended, popularity_shares
from delrec_lite.evaluation.expected import ExpectedSampledMetrics
from delrec_lite.evaluation.item_facts import ItemFacts
from delrec_lite.evaluation.metrics import Ranks
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.segments import by_segment
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.pipeline.folder import write_recipe
from delrec_lite.report.accuracy import verdict
from delrec_lite.report.files import read_run
from delrec_lite.report.page import MARK, as_html, page_or_reason, write_page
from tests.command import run as command
from tests.tiny import candidates, dataset

MAIN, TEACHER, POPULAR = "DELRec (GGUF q8_0)", "SASRec", "popularity"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7 * 7 }} $x^$"


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_data(self, data):
        self.texts.append(data)


def ranks(seed):
    rng, test = np.random.default_rng(seed), dataset().test()
    ranked = rank_all(lambda h: rng.random((len(h), 30)).astype(np.float32), test, candidates())
    return replace(ranked, seconds=0.0)  # on a busy machine it rounds to more than nothing, and is drawn


def report(names=(POPULAR, TEACHER, MAIN), title=str):
    """A report as `eval` writes it, of random rankings."""
    data = dataset()
    entries = {name: ranks(n) for n, name in enumerate(names)}
    facts = ItemFacts.of(data, [of.lists for of in entries.values()])
    expected = ExpectedSampledMetrics.of(data.test(), len(data.catalog), 5)
    rows = [row for n, of in entries.items() for row in rows_for(n, of, expected, list_metrics(of, data.test(), facts))]
    titles = [title(t) for t in data.catalog.titles]
    return {
        "created": "2026-01-02T03:04:05Z",
        "commit": "0123456789ab",
        "machine": {"cpu": "a CPU", "cores_allowed": 2, "features": ["avx2"], "system": "Linux x86_64"},
        "versions": {"numpy": "2.0"},
        "recipe": {"name": "ring"},
        "stages": {"prepare": {"seconds": 0.4, "users": 24, "items": 30, "interactions": 300}},
        "sources": {"tiny": {"mirror": "here", "sha256": {"model": "abc"}}},
        "rows": [asdict(row) for row in rows],
        "segments": by_segment(entries, data),
        "setting": {"candidates": 5, "by_time": False, "repeats": False},
        "comparisons": compare_all(entries, [(names[-1], other) for other in names[:-1]]),
        "main": names[-1],
        "lists": {
            "length": 10,
            "texts": facts.text_source,
            "categories": None,
            "paired_users": 24,
            "popularity_shares": {n: popularity_shares(of.lists, facts.counts) for n, of in entries.items()},
            "most_recommended": {n: most_recommended(of.lists, titles) for n, of in entries.items()},
        },
    }


@pytest.fixture
def folder(tmp_path):
    """A run that was evaluated."""
    return filled(tmp_path / "ring", report())


def filled(folder, content=None, log='{"step": 0, "loss": 5.0, "seconds": 1}\n{"step": 1, "loss": 4.5}\n'):
    (folder / "finetune").mkdir(parents=True)
    write_recipe(folder, Recipe(name="ring"))
    (folder / "finetune" / "metrics.jsonl").write_text(log)
    (folder / "prepare").mkdir()
    facts = {"users": 24, "items": 30, "interactions": 300}
    (folder / "prepare" / "done.json").write_text(json.dumps({"key": "k", "seconds": 0.4, "result": facts}))
    if content is not None:
        (folder / "report.json").write_text(json.dumps(content))
    return folder


def bench(path, bundle="b q8_0"):
    result = {
        "workload": "cold",
        "bundle": bundle,
        "threads": 2,
        "ms": {"p50": 12.3, "p95": 20.0},
        "accuracy": {"NDCG@10": 0.4},
        "artifact_bytes": 5_000_000,
        "peak_rss_bytes": 7_000_000,
    }
    path.write_text(json.dumps({"schema": 1, "machine": {"cpu": bundle}, "results": [result]}))
    return path


def test_the_page_of_a_run(folder, tmp_path):
    page = write_page(folder, bench=bench(tmp_path / "bench.json"))
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    said = " ".join(parsed.texts)
    assert page == folder / "report.html"
    assert text.startswith(MARK)
    assert len(text) < 1_000_000
    for word in (
        *("ring", "a CPU", "24 users", "0123456789ab", "Recall@10", "MAP@10", "coverage@10", "Gini@10", "novelty@10"),
        *(
            "text diversity@10",
            "histories of at most",
            "b q8_0, 2 threads",
            "12.3",
            "loss: at the end 4.500",
            "k_core: 5",
        ),
        *(MAIN, TEACHER, POPULAR, "paired tests", "mcnemar-exact", "Most recommended items"),
    ):
        assert word in said, word
    rows = report()["rows"]
    hits = next(row["metrics"]["HR@10"] for row in rows if (row["model"], row["protocol"]) == (MAIN, "full"))
    assert f"{hits:.3f}" in said
    assert parsed.tags.count("h2") == 6
    assert parsed.tags.count("caption") == parsed.tags.count("table") > 8
    assert parsed.tags.count("figure") == parsed.tags.count("svg") == 2
    assert all(label for tag, name, label in parsed.attributes if name == "aria-label")


def test_the_page_loads_and_runs_nothing(folder):
    parsed = Page(write_page(folder).read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith("#"), (tag, name, value)
    policy = next(value for _, name, value in parsed.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_no_text_of_a_user_becomes_markup(tmp_path):
    content = report((POPULAR, EVIL), lambda title: EVIL)
    content["recipe"]["name"] = content["machine"]["cpu"] = content["lists"]["categories"] = EVIL
    content["stages"][EVIL] = {"seconds": 1.0, "fact": EVIL}
    content["sources"] = {EVIL: {"mirror": EVIL, "sha256": {EVIL: EVIL}}}
    content["versions"] = {EVIL: EVIL}
    for row in content["segments"]:
        row["segment"] = EVIL
    folder = filled(tmp_path / "ring", content, json.dumps({"step": 0, EVIL: 2.0}) + "\n")
    (folder / "recipe.yaml").write_text(f"# {EVIL}\n")
    (folder / "teacher" / "e<b>vil").mkdir(parents=True)
    (folder / "teacher" / "e<b>vil" / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2.0}\n')
    text = as_html(read_run(folder, bench(tmp_path / "bench.json", EVIL)))
    parsed = Page(text)
    assert not {"script", "img"} & set(parsed.tags)
    assert "b" not in {tag for tag in parsed.tags if "vil" in tag}
    assert "onerror" not in {name for _, name, _ in parsed.attributes}
    assert sum(EVIL in said for said in parsed.texts) > 15  # as it is: no template is evaluated, nothing is dropped


def test_a_run_that_is_not_evaluated_has_its_curves(tmp_path):
    folder = filled(tmp_path / "ring", log='{"step": 0, "loss": 5.0}\n{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    said = write_page(folder).read_text(encoding="utf-8")
    assert "Not evaluated yet" in said
    assert "loss: at the end 5.000" in said


def test_a_report_of_an_older_version_is_shown(tmp_path):
    content = report()
    for name in ("lists", "main", "sources"):
        del content[name]
    del content["setting"]["repeats"]
    for row in content["rows"]:
        row["metrics"] = {name: value for name, value in row["metrics"].items() if name in {"HR@1", "HR@10", "NDCG@10"}}
    for row in content["segments"]:
        del row["intervals"]
    text = write_page(filled(tmp_path / "ring", content)).read_text(encoding="utf-8")
    assert "No lists of the whole catalogue were kept" in text
    assert f'<tr class="main"><th scope="row">{MAIN}' in text


def test_a_run_that_changed_after_its_evaluation_is_marked(folder):
    assert "computed again" not in write_page(folder).read_text(encoding="utf-8")
    done = folder / "prepare" / "done.json"
    done.write_text(done.read_text().replace("300", "301"))
    assert "computed again" in write_page(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("difference", "p", "word"),
    [(0.02, 0.01, "better"), (-0.02, 0.01, "worse"), (0.02, 0.4, "no difference was found")],
)
def test_the_verdict_says_no_more_than_the_test(difference, p, word):
    content = report()
    for test in content["comparisons"]:
        test |= {"difference": difference, "p": p}
    assert word in verdict(content)
    content["comparisons"] = []
    assert verdict(content) == ""


def test_a_model_that_ranks_candidates_alone_has_a_page(tmp_path):
    content = report()
    content["rows"] = [row for row in content["rows"] if row["protocol"] == "sampled"]
    content["comparisons"] = [test for test in content["comparisons"] if test["protocol"] == "sampled"]
    content["lists"] |= {"popularity_shares": {}, "most_recommended": {}}
    text = write_page(filled(tmp_path / "ring", content)).read_text(encoding="utf-8")
    assert "HR@1 of 5" in text
    assert "of all" not in text


def test_what_cannot_be_shown_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="no folder of a run"):
        write_page(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    for path, message in ((tmp_path / "no.json", "there is no file"), (tmp_path / "list.json", "no JSON object")):
        with pytest.raises(DataError, match=message):
            write_page(folder, bench=path)
    with pytest.raises(DataError, match="no report of bench"):
        write_page(folder, bench=folder / "report.json")
    broken = bench(tmp_path / "bench.json")
    broken.write_text(broken.read_text().replace("p50", "p51"))
    with pytest.raises(DataError, match="or the report of bench, cannot be read: KeyError"):
        write_page(folder, bench=broken)
    for text in ("{", "[]", '{"rows": 3}', '{"rows": [], "setting": {}}'):
        (folder / "report.json").write_text(text)
        with pytest.raises(DataError):
            write_page(folder)
    assert not (folder / "report.html").exists()


def test_a_page_of_somebody_else_stays(folder, tmp_path):
    target = tmp_path / "page.html"
    target.write_text("<!doctype html>\n<p>mine</p>")
    with pytest.raises(StorageError, match="is no page of a run"):
        write_page(folder, target)
    assert "mine" in target.read_text()
    with pytest.raises(StorageError, match="cannot write"):
        write_page(folder, tmp_path / "no" / "folder" / "page.html")
    target.unlink()
    assert write_page(folder, target) == write_page(folder, target) == target


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_a_package_the_page_is_left_out(folder, monkeypatch, package):
    said = []
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setattr(type(QUIET), "say", lambda self, text: said.append(text))
    page_or_reason(folder, QUIET)
    assert said[0].startswith("  report.html is left out: ")
    assert said[0].endswith(f'{package}, which is not installed: pip install "delrec-lite[plots]"')


def test_the_command_writes_the_page(folder, tmp_path):
    done = command("report", "ring", "--runs", tmp_path, "--json")
    assert "no recipe named 'ring'" in done.stderr
    done = command("report", folder, "--out", tmp_path / "page.html", "--json")
    assert json.loads(done.stdout)["page"] == str(tmp_path / "page.html")
    assert command("report", tmp_path).stderr.startswith(f"error: {tmp_path} is no folder of a run")


def test_the_page_on_a_phone_and_in_the_dark(folder, browser):
    browser.get(write_page(folder).as_uri())
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    grounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_ranks_without_lists_have_no_metrics_of_lists():
    data = dataset()
    assert list_metrics(Ranks(np.ones(3, int), np.empty(0, int), 1.0), data.test(), ItemFacts.of(data, [])) == {}
