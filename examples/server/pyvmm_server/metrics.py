"""Figures of the server, for Prometheus.  Labels never have keys, ids or paths of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from pyvmm_server import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from pyvmm_server.store import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry()
REQUESTS = Counter("pyvmm_server_requests", "Answered requests.", ["route", "method", "status"], registry=REGISTRY)
DURATIONS = Histogram(
    "pyvmm_server_request_seconds",
    "From a request to the beginning of its answer.",
    ["route"],
    registry=REGISTRY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PHASES = Histogram(
    "pyvmm_server_create_seconds",
    "Phases of a new sandbox: save (the parent of a fork), find (its template), start (its machine).",
    ["phase"],
    registry=REGISTRY,
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
FAILURES = Counter(
    "pyvmm_server_machine_failures",
    "Failed machines, by what was done: create, kill, pause, check; ended: without a request; lost: with the node.",
    ["during"],
    registry=REGISTRY,
)
WEBSOCKETS = Gauge("pyvmm_server_websockets", "Open WebSockets to servers in sandboxes.", registry=REGISTRY)
STATES = (store.CREATING, store.RUNNING, store.PAUSED, store.ENDING, store.LOST)
_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
for _during in ("create", "kill", "pause", "check", "ended", "lost"):
    FAILURES.labels(_during)
ProcessCollector(registry=REGISTRY)


class _Sandboxes(Collector):
    """What the records have when they are read."""

    def __init__(self, records: Store) -> None:
        self._records = records

    def collect(self) -> Iterable[Metric]:
        states = GaugeMetricFamily("pyvmm_server_sandboxes", "Sandboxes by their states.", labels=["state"])
        found, counts = self._records.counts()
        for each in STATES:
            states.add_metric([each], found.get(each, 0))
        yield states
        buckets = [(str(most), float(sum(count <= most for count in counts))) for most in _BUCKETS]
        yield HistogramMetricFamily(
            "pyvmm_server_sandboxes_per_key",
            "Running and paused sandboxes of each key that has some.",
            buckets=[*buckets, ("+Inf", float(len(counts)))],
            sum_value=sum(counts),
        )


def text(records: Store) -> bytes:
    """All figures, in the text format of Prometheus."""
    own = CollectorRegistry()
    own.register(_Sandboxes(records))
    return generate_latest(REGISTRY) + generate_latest(own)
