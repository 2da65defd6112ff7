"""The test as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from html import escape

from callboard_runtime.load import svg
from callboard_runtime.load.plan import Plan
from callboard_runtime.load.samples import Sample
from callboard_runtime.load.stats import MARKS, Summary, mark_values
from callboard_runtime.load.tester import Outcome

MAX_DOTS = 4000  # per series; more would only make the file heavy
SHOWN_FAULTS = 50

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--bad:#c0392b}
body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.25rem .8rem;border-bottom:1px solid var(--line)}
td+td,th+th{text-align:right;font-variant-numeric:tabular-nums}th{font-weight:600;text-align:left}
svg{width:100%;height:auto;margin:.5rem 0}.bad{color:var(--bad);font-weight:600}pre{white-space:pre-wrap}
"""


def render(url: str, plan: Plan, outcome: Outcome, summary: Summary, finished_at: datetime) -> str:
    """The report as HTML text."""
    parts = [
        f"<h1>Load test of {escape(url)}</h1>",
        f"<p>{finished_at:%Y-%m-%d %H:%M:%S %Z} · {_verdict(summary)}</p>",
        _table(("figure", "value"), overview(summary)),
        "<h2>Latency, ms</h2>",
        _table(("", "runs", "p50", "p95", "p99", "max"), latencies(summary)),
        *plots(outcome.samples),
        _errors(summary),
        _faults(summary),
        "<h2>Plan</h2>",
        f"<pre>{escape(json.dumps(asdict(plan), indent=1))}</pre>",
    ]
    head = f"<meta charset=utf-8><title>Load test of {escape(url)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def overview(summary: Summary) -> list[tuple[str, str]]:
    """The figures that are no latencies, as text."""
    return [
        ("runs", f"{summary.runs:,}"),
        ("succeeded", f"{summary.succeeded:,}"),
        ("runs per second", f"{summary.runs_per_second:.2f}"),
        ("events", f"{summary.events:,}"),
        ("events per second", f"{summary.events_per_second:,.0f}"),
        ("legs", f"{summary.legs:,}"),
        ("reconnects", f"{summary.reconnects:,}"),
        ("arrivals missed", f"{summary.missed:,}"),
        ("sessions compared with their log", f"{summary.verified_sessions:,}"),
        ("events lost, doubled or out of order", f"{len(summary.faults):,} faults"),
        ("seconds", f"{summary.elapsed:.1f}"),
    ]


def latencies(summary: Summary) -> list[tuple[str, ...]]:
    """A row per mark, in milliseconds."""
    found = [(MARKS[mark], spread) for mark, spread in summary.spreads.items()]
    return [
        (name, f"{s.count:,}", *(f"{1000 * value:,.0f}" for value in (s.p50, s.p95, s.p99, s.most)))
        for name, s in found
    ]


def plots(samples: Sequence[Sample]) -> list[str]:
    """Latency over time, its distribution, and throughput."""
    shown = {"token": "TTFT", "ended": "run ended"}
    over_time = [svg.Series(name, _over_time(samples, mark)) for mark, name in shown.items()]
    spread = [svg.Series(name, _distribution(mark_values(samples, mark))) for mark, name in shown.items()]
    return [
        svg.dots("Latency by start of the run", "seconds since the test began", "ms", over_time, log_y=True),
        svg.lines("Share of runs that took at most so long", "percent of runs", "ms", spread, log_y=True),
        svg.lines("Runs that ended per second", "seconds since the test began", "runs/s", [_throughput(samples)]),
    ]


def _over_time(samples: Sequence[Sample], mark: str) -> list[svg.Point]:
    points = [(s.began, 1000 * value) for s in samples if s.error is None and (value := getattr(s.marks, mark))]
    return points[:: max(1, len(points) // MAX_DOTS)]


def _distribution(values: Sequence[float]) -> list[svg.Point]:
    ordered = sorted(values)
    step = max(1, len(ordered) // 400)
    places = sorted({*range(0, len(ordered), step), len(ordered) - 1} if ordered else ())
    return [(100 * (place + 1) / len(ordered), 1000 * ordered[place]) for place in places]


def _throughput(samples: Sequence[Sample]) -> svg.Series:
    ends = Counter(int(s.began + s.marks.ended) for s in samples if s.marks.ended is not None)
    return svg.Series("runs/s", [(second, ends[second]) for second in range(max(ends, default=-1) + 1)])


def _verdict(summary: Summary) -> str:
    if summary.faults:
        return f'<span class="bad">{len(summary.faults)} faults: events were lost, doubled or out of order</span>'
    return "every event came once and in order"


def _errors(summary: Summary) -> str:
    if not summary.errors:
        return ""
    return "<h2>Errors</h2>" + _table(("code", "runs"), [(code, f"{n:,}") for code, n in summary.errors.items()])


def _faults(summary: Summary) -> str:
    if not summary.faults:
        return ""
    items = "".join(f"<li>{escape(fault)}</li>" for fault in summary.faults[:SHOWN_FAULTS])
    return f"<h2>Faults</h2><ul class=bad>{items}</ul>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def as_json(url: str, plan: Plan, summary: Summary, finished_at: datetime) -> Mapping[str, object]:
    """The same for programs; times in seconds."""
    return {"url": url, "finished_at": finished_at.isoformat(), "plan": asdict(plan), "summary": asdict(summary)}
