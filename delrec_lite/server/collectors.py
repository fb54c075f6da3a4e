"""Metrics that are read when Prometheus asks: what is served, whether it is ready, and the feedback log."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from delrec_lite.server.arms import Arms
from delrec_lite.server.feedback.log import FeedbackLog
from delrec_lite.server.health import Health


class Served(Collector):
    """The bundles, and whether they answer."""

    def __init__(self, arms: Arms, health: Health) -> None:
        self._arms, self._health = arms, health

    def collect(self) -> Iterable[Metric]:
        """Read them."""
        ready = GaugeMetricFamily("delrec_ready", "1: the model answers")
        ready.add_metric([], float(not self._health.problem()))
        yield ready
        bundle = InfoMetricFamily("delrec_bundle", "What is served", labels=["arm"])
        for arm in self._arms:
            label = arm.worker.recommender.bundle.label
            name, _, version = label.rpartition("@")
            bundle.add_metric([arm.name], {"name": name, "version": version})
        yield bundle


class Logged(Collector):
    """The rows of the feedback log."""

    def __init__(self, log: FeedbackLog) -> None:
        self._log = log

    def collect(self) -> Iterable[Metric]:
        """Read them."""
        rows = CounterMetricFamily("delrec_feedback_rows", "Rows written", labels=["kind"])
        for kind in ("list", "event"):
            rows.add_metric([kind], self._log.written[kind])
        yield rows
        dropped = CounterMetricFamily("delrec_feedback_dropped", "Lists that were not written", labels=["reason"])
        for reason in ("queue", "disk"):
            dropped.add_metric([reason], self._log.dropped[reason])
        yield dropped
        waiting = GaugeMetricFamily("delrec_feedback_waiting", "Items and events that wait to be written")
        waiting.add_metric([], self._log.waiting())
        yield waiting
        size = GaugeMetricFamily("delrec_feedback_bytes", "Size of the log on disk")
        size.add_metric([], self._log.bytes())
        yield size


def add_collectors(registry: CollectorRegistry, arms: Arms, health: Health, log: FeedbackLog | None) -> None:
    """Add what the routes do not count themselves."""
    registry.register(Served(arms, health))
    if log is not None:
        registry.register(Logged(log))
