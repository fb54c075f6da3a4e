"""Metrics of the server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_GROUPS = (1, 2, 4, 8, 16)


class Metrics:
    """Counters of one server.

    Args:
        waiting: Returns how many requests wait now.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        labels = ["path", "status"]
        self.requests = Counter("delrec_requests", "Requests answered", labels, registry=self.registry)
        self.seconds = Histogram(
            "delrec_seconds", "From request to answer", ["path"], buckets=_BUCKETS, registry=self.registry
        )
        self.computed = Counter("delrec_tokens_computed", "Tokens the model evaluated", registry=self.registry)
        self.avoided = Counter("delrec_tokens_avoided", "Tokens found in the cache", registry=self.registry)
        self.hits = Counter("delrec_session_hits", "Requests whose session was known", registry=self.registry)
        self.groups = Histogram(
            "delrec_evaluated_together", "Requests of an evaluation", buckets=_GROUPS, registry=self.registry
        )
        gauge = Gauge("delrec_waiting", "Requests in the queue", registry=self.registry)
        gauge.set_function(waiting)
        self.queued = Histogram(
            "delrec_queue_seconds", "From request to the model", buckets=_BUCKETS, registry=self.registry
        )
        ProcessCollector(registry=self.registry)  # memory, processor time, open files; on Linux

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def evaluated(self, requests: int) -> None:
        """Count one evaluation of so many requests."""
        self.groups.observe(requests)

    def tokens(self, computed: int, avoided: int, prefix: int) -> None:
        """Count an answer's tokens; more avoided tokens than the prefix has mean that the session was cached.

        Counters refuse negative numbers, and a wrong count of an engine must not prevent its answer.
        """
        self.computed.inc(max(0, computed))
        self.avoided.inc(max(0, avoided))
        if avoided > prefix:
            self.hits.inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
