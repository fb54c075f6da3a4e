"""Traces: a span a request with the phases of its answer, off unless asked for, and nothing of a history."""

import sys

import pytest
from fastapi.testclient import TestClient

from delrec_lite.errors import MissingPackageError
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.api import make_api
from delrec_lite.server.tracing import Traces, traces_of
from delrec_lite.server.worker import Worker
from tests.bundles import TITLES, tiny_bundle

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tracing")).bundle.folder


@pytest.fixture
def spans():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = export.InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    exporter.traces = Traces(provider)
    return exporter


@pytest.fixture
def client(bundle, spans):
    worker = Worker(Recommender.load(bundle, threads=1))
    with TestClient(make_api(worker, traces=spans.traces), raise_server_exceptions=False) as opened:
        yield opened


def test_a_request_has_a_span_with_the_phases_of_its_answer(client, spans):
    answer = client.post("/v1/recommend", json={"history": TITLES[:3]}, headers={"traceparent": PARENT})
    *phases, request = spans.get_finished_spans()
    assert [span.name for span in phases] == ["queue", "match", "evaluate", "rank"]
    assert request.name == "POST /v1/recommend"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["delrec.request_id"] == answer.headers["X-Request-Id"]
    assert request.attributes["delrec.bundle"] == answer.json()["bundle"]
    assert request.attributes["delrec.items"] == 10
    assert phases[2].attributes["delrec.tokens_computed"] == 3
    assert {format(span.context.trace_id, "032x") for span in (*phases, request)} == {PARENT.split("-")[1]}
    assert {span.parent.span_id for span in phases} == {request.context.span_id}
    assert format(request.parent.span_id, "016x") == PARENT.split("-")[2]
    times = [(span.start_time, span.end_time) for span in phases]
    assert all(start <= end for start, end in times)
    assert all(first[1] == second[0] for first, second in zip(times, times[1:], strict=False))
    milliseconds = answer.json()["milliseconds"]
    assert (times[2][1] - times[2][0]) / 1e6 == pytest.approx(
        milliseconds["encode"] + milliseconds["prefill"], abs=1e-3
    )
    assert times[3][1] <= request.end_time


def test_no_span_names_a_title_or_a_session(client, spans):
    body = {"history": TITLES[:2], "session": "a session", "candidates": TITLES[4:6]}
    client.post("/v1/recommend", json=body)
    client.get("/v1/items", params={"query": "red river"})
    text = "".join(span.to_json() for span in spans.get_finished_spans())
    assert not [word for word in (*TITLES, "a session", "red river") if word in text]


def test_errors_are_marked_and_monitoring_is_left_out(client, spans, monkeypatch):
    client.post("/v1/recommend", json={})
    client.get("/no such path")
    for path in ("/healthz", "/readyz", "/metrics"):
        client.get(path)
    monkeypatch.setattr(Recommender, "prepare", lambda *_, **__: 1 / 0)
    client.post("/v1/recommend", json={"history": TITLES[:2]})
    wrong, unknown, failed = spans.get_finished_spans()
    assert (wrong.attributes["http.response.status_code"], wrong.status.is_ok) == (422, True)
    assert unknown.name == "GET other"
    assert (failed.attributes["http.response.status_code"], failed.status.is_ok) == (500, False)


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é"])
def test_a_wrong_parent_is_none(client, spans, header):
    client.get("/v1/items", headers={"traceparent": header.encode()})
    assert spans.get_finished_spans()[-1].parent is None


def test_traces_are_off_unless_they_are_asked_for(bundle, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)), traces=traces_of(False, False))) as client:
        assert client.post("/v1/recommend", json={"history": TITLES[:3]}).status_code == 200
    assert not caplog.records
    with pytest.raises(MissingPackageError, match="traces need") as raised:
        traces_of(True, False)
    assert "delrec-lite[otel]" in raised.value.hint
    with caplog.at_level("WARNING", "delrec_lite.server"):  # the environment is for all programs of a machine
        traces_of(False, True)
    assert "otel" in caplog.text


def test_a_collector_that_is_not_there_delays_nobody(bundle, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    traces = traces_of(False, True)
    with TestClient(make_api(Worker(Recommender.load(bundle, threads=1)), traces=traces)) as client:
        assert client.post("/v1/recommend", json={"history": TITLES[:3]}).status_code == 200
