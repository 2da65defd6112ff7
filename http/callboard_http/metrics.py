"""Counters of this process, in Prometheus' text form."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Metrics:
    """Counts since the start."""

    events_sent: int = 0
    runs_accepted: int = 0
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # (route, status)
    ingress: Counter[tuple[str, int]] = field(default_factory=Counter)  # (routing key, status)

    def render(self, open_streams: int) -> str:
        lines = [
            *_family("callboard_http_open_streams", "gauge", "Event streams that are open now.", open_streams),
            *_family("callboard_http_events_sent_total", "counter", "Events written to streams.", self.events_sent),
            *_family("callboard_http_runs_accepted_total", "counter", "Runs answered with 202.", self.runs_accepted),
            "# HELP callboard_http_requests_total Answered requests.",
            "# TYPE callboard_http_requests_total counter",
        ]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'callboard_http_requests_total{{route="{route}",status="{status}"}} {count}')
        lines += [
            "# HELP callboard_http_ingress_total Answered requests from the broker.",
            "# TYPE callboard_http_ingress_total counter",
        ]
        for (key, status), count in sorted(self.ingress.items()):
            lines.append(f'callboard_http_ingress_total{{key="{key}",status="{status}"}} {count}')
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, value: int) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
