"""OpenTelemetry traces: one span a request, with the phases of its answer; nothing where they are off."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from delrec_lite.errors import MissingPackageError, install_line
from delrec_lite.version import __version__

if TYPE_CHECKING:
    from delrec_lite.runtime.answer import Recommendation

LOG = logging.getLogger("delrec_lite.server")
# Any of these means that someone collects traces.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# Paths that monitoring asks all day.
_UNTRACED = {"/healthz", "/readyz", "/metrics"}
# The phases of ``Recommendation.milliseconds`` that each span covers, in their order.
_PHASES = (("match", ("match",)), ("evaluate", ("encode", "prefill")), ("rank", ("score", "sort")))


class Traces:
    """Spans of the requests to one server.

    Args:
        provider: An OpenTelemetry ``TracerProvider``; None: nothing is traced.
    """

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("delrec_lite.server", __version__)

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Iterator[dict[str, Any]]:
        """The span of one request, a child of the one that its ``traceparent`` names.

        Yields:
            Attributes to add at the end; ``http.response.status_code`` from 500 on marks an error.
        """
        if self._tracer is None or path in _UNTRACED:
            yield {}
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        parent = extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()})
        asked = {"http.request.method": method, "http.route": path}
        with self._tracer.start_as_current_span(f"{method} {path}", parent, SpanKind.SERVER, asked) as span:
            attributes: dict[str, Any] = {}
            try:
                yield attributes
            finally:
                span.set_attributes(attributes)
                if attributes.get("http.response.status_code", 0) >= 500:
                    span.set_status(StatusCode.ERROR)

    def phases(self, recommendation: "Recommendation", began: float) -> None:
        """Add the phases of an answer that was just given: ``queue``, ``match``, ``evaluate``, ``rank``.

        Args:
            recommendation: With the milliseconds of its phases.
            began: When the request was queued, by ``time.perf_counter``.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import get_current_span

        milliseconds = recommendation.milliseconds
        spans = [(name, sum(milliseconds.get(part, 0.0) for part in parts)) for name, parts in _PHASES]
        in_queue = (time.perf_counter() - began) * 1e3 - sum(ms for _, ms in spans)
        end = time.time_ns()
        start = end - int((max(0.0, in_queue) + sum(ms for _, ms in spans)) * 1e6)
        for name, ms in (("queue", max(0.0, in_queue)), *spans):
            span = self._tracer.start_span(name, start_time=start)
            start += int(ms * 1e6)
            if name == "evaluate":
                span.set_attribute("delrec.tokens_computed", recommendation.tokens_computed)
                span.set_attribute("delrec.tokens_avoided", recommendation.tokens_avoided)
            span.end(start)
        get_current_span().set_attributes(
            {
                "delrec.bundle": recommendation.bundle,
                "delrec.basis": recommendation.basis,
                "delrec.items": len(recommendation.items),
            }
        )

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._provider is not None:
            self._provider.shutdown()


def traces_of(wanted: bool, collected: bool) -> Traces:
    """The traces of a server.

    Args:
        wanted: Somebody asked for them.
        collected: The environment names a collector.

    Raises:
        MissingPackageError: They are wanted, and OpenTelemetry is not installed.
    """
    if not wanted and not collected:
        return Traces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        if wanted:
            raise MissingPackageError(
                f"traces need {error.name}, which is not installed", install_line("opentelemetry")
            ) from error
        LOG.warning('{"traces": "off", "hint": "to send them: %s"}', install_line("opentelemetry").replace('"', "'"))
        return Traces()
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    provider = TracerProvider(resource=Resource.create({"service.name": "delrec-lite"}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
