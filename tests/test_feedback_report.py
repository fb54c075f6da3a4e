"""The report on a feedback log: its figures against counts by hand and known intervals, and the command."""

import json
import math
import re

import numpy as np
import pytest

from delrec_lite.errors import StorageError, UsageError
from delrec_lite.evaluation.proportions import difference, wilson
from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.feedback.report import report
from delrec_lite.server.feedback.store import Store
from tests.command import run
from tests.feedback import click, served


@pytest.fixture
def write(tmp_path):
    """Writes entries to a log; returns its path."""
    path = tmp_path / "log.sqlite"

    def writing(*entries):
        store = Store(path, Limit())
        store.write(entries)
        store.close()
        return path

    return writing


def test_the_interval_of_a_share_is_wilsons():
    scipy = pytest.importorskip("scipy.stats")
    for count, of in ((0, 10), (1, 3), (7, 1000), (10, 10), (1, 1)):
        expected = scipy.binomtest(count, of).proportion_ci(0.95, "wilson")
        found = wilson(count, of)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_two_proportions_are_tested_as_in_a_table_of_two_by_two():
    scipy = pytest.importorskip("scipy.stats")
    first, second = ones(40, 1000), ones(70, 1100)
    found = difference(first, second)
    assert found.method == "two-proportion"
    assert found.difference == pytest.approx(70 / 1100 - 40 / 1000)
    table = [[40, 960], [70, 1030]]
    assert found.p == pytest.approx(scipy.chi2_contingency(table, correction=False).pvalue)
    assert found.low < found.difference < found.high
    assert found.low == pytest.approx(0.00469, abs=2e-4)  # Newcombe's method 10
    assert difference(ones(0, 5), ones(0, 5)).p == 1.0
    assert difference(first, np.zeros((0, 2), np.int64)) is None


def ones(hits, callers):
    return np.array([[n < hits, 1] for n in range(callers)], np.int64)


def test_callers_with_many_lists_are_drawn_whole():
    """Equal shares of lists, but all of a caller's lists are alike: the interval is that of the callers."""
    first = np.array([[20 * (n < 10), 20] for n in range(100)], np.int64)
    second = np.array([[20 * (n < 20), 20] for n in range(100)], np.int64)
    found = difference(first, second)
    assert found.method == "bootstrap over callers"
    error = math.sqrt(0.1 * 0.9 / 100 + 0.2 * 0.8 / 100)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found.p == pytest.approx(math.erfc(0.1 / error / math.sqrt(2)), rel=0.3)
    assert found == difference(first, second), "the same draw every time"
    as_if_apart = difference(ones(200, 2000), ones(400, 2000))
    assert as_if_apart.p < 1e-6 < found.p


def test_without_a_difference_one_comparison_in_twenty_is_below_five_percent():
    rng, below = np.random.default_rng(5), 0
    for seed in range(200):
        lists = rng.integers(1, 6, (2, 300))
        groups = [np.stack([rng.binomial(n, rng.beta(1, 9, 300)), n], 1) for n in lists]
        below += difference(*groups, seed=seed).p < 0.05
    assert 2 <= below <= 20


def test_the_figures_of_a_log(write):
    lists = [served(f"r{n}", ("a", "b", "c") if n % 2 else ("a", "d"), who=f"user:{n % 3}") for n in range(10)]
    events = [click("r1", "a"), click("r1", "b"), click("r3", "a"), click("r0", "d"), click("r1", "a", "purchase", 9.5)]
    path = write(*lists, served("other", ("z",), bundle="new@2"), events)
    found = report(path)
    old, new = found.bundles
    assert (old.bundle, old.lists, old.callers, old.served, old.coverage) == ("tiny@1", 10, 3, 4, 0.1)
    assert (old.clicked.count, old.clicked.of) == (3, 10)
    assert [(share.count, share.of) for share in old.by_rank] == [(2, 10), (2, 10), (0, 5)]
    assert {kind: (e.count, e.lists, e.per_list, e.value) for kind, e in old.events.items()} == {
        "click": (4, 3, 0.4, 0),
        "purchase": (1, 1, 0.1, 9.5),
    }
    assert (new.bundle, new.clicked.count, new.callers, found.comparison) == ("new@2", 0, 0, None)
    assert report(path, "purchase").bundles[0].clicked.count == 1
    with pytest.raises(UsageError, match="no event 'clicks'") as raised:
        report(path, "clicks")
    assert "click, purchase" in raised.value.hint


def test_a_against_b_counts_the_time_in_which_both_were_served(write):
    before = [served(f"before {n}", who=f"user:{n}") for n in range(5)]
    shared = [
        served(f"r{n}", who=f"user:{n // 2}", arm="AB"[n % 4 == 0], bundle=f"tiny@{'AB'[n % 4 == 0]}")
        for n in range(41)
    ]
    comparison = report(
        write(*before, *shared, [click("before 1", "i1"), click("r0", "i1"), click("r1", "i2")])
    ).comparison
    assert (comparison.a.clicked.count, comparison.a.clicked.of) == (1, 30)
    assert (comparison.b.clicked.count, comparison.b.clicked.of, comparison.b.bundles) == (1, 11, ["tiny@B"])
    assert comparison.difference.difference == pytest.approx(1 / 11 - 1 / 30)
    assert "read p once" in comparison.note


def test_an_empty_log_and_one_without_events(write, tmp_path):
    path = write()
    assert report(path).bundles == []
    assert run("feedback", "report", path).stdout == "no list was served yet\n"
    assert report(write(served("r1"))).bundles[0].clicked.share == 0


def test_a_report_does_not_change_or_make_a_log(write, tmp_path):
    missing = tmp_path / "missing.sqlite"
    with pytest.raises(StorageError, match="there is no feedback log"):
        report(missing)
    assert not missing.exists()
    damaged = write(served("r1"), *[served(f"r{n}") for n in range(2, 400)])
    content = bytearray(damaged.read_bytes())
    content[4096 * 3 : 4096 * 12] = bytes(4096 * 9)
    damaged.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read"):
        report(damaged)


def test_the_command_prints_tables_json_and_a_picture(write, tmp_path):
    lists = [served(f"r{n}", who=f"user:{n}", arm="AB"[n % 2], bundle=f"shop@{n % 2}") for n in range(60)]
    path = write(*lists, [click(f"r{n}", "i1") for n in range(0, 60, 3)])
    picture = tmp_path / "clicks.svg"
    human = run("feedback", "report", path, "--plot", picture)
    assert human.returncode == 0, human.stderr
    assert "shop@0" in human.stdout
    assert "33.33% (" in human.stdout
    assert "p = " in human.stdout
    assert "read p once" in human.stdout
    assert "<svg" in picture.read_text()
    found = json.loads(run("feedback", "report", path, "--json").stdout)
    assert found["bundles"][0]["by_rank"][0]["count"] == 10
    assert 0.5 < found["comparison"]["difference"]["p"] <= 1
    assert run("feedback", "report", path, "--plot", picture).returncode == 0, "its own picture is replaced"
    picture.write_text("<svg>mine</svg>")
    again = run("feedback", "report", path, "--plot", picture)
    assert (again.returncode, picture.read_text()) == (8, "<svg>mine</svg>")
    wrong = run("feedback", "report", path, "--event", "buy")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 2)
    assert re.search(r"no event 'buy'", wrong.stderr)
