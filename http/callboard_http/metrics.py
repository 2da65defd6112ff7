"""What a front counts, and how all of it reads in Prometheus' text form.

In:  counts of this application, and of the whole process
Out: the text of `/metrics`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from callboard_runtime.observe.metrics import CATALOGUE, REGISTRY, counter, declare, histogram

REQUEST_SECONDS = histogram(
    "callboard_http_request_seconds", "Answers that are no streams, from the request's head.", "route", on="http"
)
LAGGING_READERS = counter(
    "callboard_http_lagging_readers_total", "Readers that fell behind and were switched to the log.", on="http"
)
STALLED_READERS = counter(
    "callboard_http_stalled_readers_total", "Readers that were cut as they took nothing.", on="http"
)

_OPEN_STREAMS = declare("gauge", "callboard_http_open_streams", "Event streams that are open now.", (), "http")
_EVENTS_SENT = declare("counter", "callboard_http_events_sent_total", "Events written to streams.", (), "http")
_RUNS = declare("counter", "callboard_http_runs_accepted_total", "Runs answered with 202.", (), "http")
_REQUESTS = declare("counter", "callboard_http_requests_total", "Answered requests.", ("route", "status"), "http")
_PROBLEMS = declare(
    "counter",
    "callboard_http_problems_total",
    "Requests refused or failed, by problem code.",
    ("route", "code"),
    "http",
)
_INGRESS = declare(
    "counter", "callboard_http_ingress_total", "Answered requests from the broker.", ("key", "status"), "http"
)


@dataclass(slots=True)
class Metrics:
    """Counts of one application since its start; plain numbers, as every event passes by here."""

    events_sent: int = 0
    runs_accepted: int = 0
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # (route, status)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)  # (route, code)
    ingress: Counter[tuple[str, int]] = field(default_factory=Counter)  # (routing key, status)

    def render(self, open_streams: int) -> bytes:
        """The application's metrics and the process's."""
        return generate_latest(_Families(self, open_streams)) + generate_latest(REGISTRY)  # pyright: ignore[reportArgumentType] - it asks for `collect` alone


@dataclass(frozen=True, slots=True)
class _Families:
    metrics: Metrics
    open_streams: int

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(_OPEN_STREAMS, CATALOGUE[_OPEN_STREAMS].text, self.open_streams)
        yield CounterMetricFamily(_EVENTS_SENT, CATALOGUE[_EVENTS_SENT].text, self.metrics.events_sent)
        yield CounterMetricFamily(_RUNS, CATALOGUE[_RUNS].text, self.metrics.runs_accepted)
        yield _labelled(_REQUESTS, self.metrics.requests)
        yield _labelled(_PROBLEMS, self.metrics.problems)
        yield _labelled(_INGRESS, self.metrics.ingress)


def _labelled(name: str, counts: Mapping[Any, int]) -> Metric:
    """A family of counters, each counted under a tuple of label values."""
    family = CounterMetricFamily(name, CATALOGUE[name].text, labels=CATALOGUE[name].labels)
    for values, count in sorted(counts.items()):
        family.add_metric([str(value) for value in values], count)
    return family
