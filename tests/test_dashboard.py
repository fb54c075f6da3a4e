"""The dashboard and the alerts ask for metrics and labels that a server has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle

DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"
BOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
# Labels that Prometheus adds, and those of a histogram.
ADDED = {"job", "instance"}
QUERY = re.compile(r"\b((?:delrec|process)_\w+)(?:\{(.*?)\})?")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The labels of every metric of a server that has answered."""
    folder = tmp_path_factory.mktemp("dashboard")
    worker = Worker(Recommender.load(tiny_bundle(folder).bundle.folder, threads=1))
    with TestClient(make_api(worker, log=FeedbackLog(folder / "log.sqlite"))) as client:
        client.post("/v1/recommend", json={"history": TITLES[:2], "session": "s"})
        text = client.get("/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_every_metric_and_label_that_is_asked_for_exists(samples, title, expression):
    asked = QUERY.findall(expression)
    assert asked, title
    for name, matchers in asked:
        assert name in samples, f"{title}: no metric {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))
        assert labels <= samples[name] | ADDED, f"{title}: {name} has no label {labels - samples[name] - ADDED}"
    by = re.findall(r"\bby \(([^)]*)\)", expression)
    used = {label.strip() for labels in by for label in labels.split(",")}
    known = set().union(*(samples[name] for name, _ in asked)) | ADDED
    assert used <= known, f"{title}: groups by {used - known}"


def test_every_metric_of_the_server_is_shown(samples):
    shown = {name for _, expression in expressions() for name, _ in QUERY.findall(expression)}
    parts = re.compile(r"_(bucket|count|sum|created|total)$")
    own = {parts.sub("", name) for name in samples if name.startswith("delrec_")}
    assert own <= {parts.sub("", name) for name in shown}


def test_panels_have_titles_places_and_ids_of_their_own():
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        assert not cells & own, panel["title"]
        cells |= own


def test_alerts_say_what_happened():
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert len(rule["annotations"]["summary"]) > 20
