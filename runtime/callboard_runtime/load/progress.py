"""The test while it runs, and its figures at the end, on a terminal."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from callboard_runtime.load.report import latencies, overview
from callboard_runtime.load.samples import Sample
from callboard_runtime.load.stats import Summary, spread
from callboard_runtime.load.tester import LoadTest

REFRESH = 0.5  # seconds
RECENT = 2000  # runs that the figures shown are of
SHOWN_FAULTS = 10


class Progress:
    """Counts samples as they come, and shows where the test stands."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._faults = self._events = 0
        self._errors: Counter[str] = Counter()
        self._tokens: deque[float] = deque(maxlen=RECENT)
        self._began = time.monotonic()

    def count(self, sample: Sample) -> None:
        self._done += 1
        self._events += sample.events
        self._faults += len(sample.faults)
        if sample.error:
            self._errors[sample.error] += 1
        if sample.marks.token is not None:
            self._tokens.append(sample.marks.token)

    async def show(self, test: LoadTest) -> None:
        """Redraw until cancelled."""
        with Live(self._render(test), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(REFRESH)
                live.update(self._render(test), refresh=True)

    def _render(self, test: LoadTest) -> Group:
        elapsed = time.monotonic() - self._began
        table = Table.grid(padding=(0, 3))
        table.add_row(f"{elapsed:.0f} s", f"{self._done} runs", f"{test.in_flight} in flight", f"{self._events} events")
        if found := spread(self._tokens):
            times = ", ".join(f"{name} {1000 * value:.0f}" for name, value in (("p50", found.p50), ("p95", found.p95)))
            table.add_row(f"{self._done / max(elapsed, 0.001):.1f} runs/s", f"TTFT {times} ms")
        errors = ", ".join(f"{count} {code}" for code, count in self._errors.most_common(4))
        faults = Text(f"{self._faults} faults", style="bold red") if self._faults else Text("no faults", style="green")
        return Group(table, Text(f"errors: {errors}", style="yellow") if errors else Text(""), faults)


def print_summary(console: Console, summary: Summary) -> None:
    """The tables of the end."""
    console.print(_table(("figure", "value"), overview(summary)))
    console.print(_table(("latency, ms", "runs", "p50", "p95", "p99", "max"), latencies(summary)))
    if summary.errors:
        console.print(_table(("error", "runs"), [(code, str(count)) for code, count in summary.errors.items()]))
    for fault in summary.faults[:SHOWN_FAULTS]:
        console.print(Text(f"fault: {fault}", style="bold red"))
    if len(summary.faults) > SHOWN_FAULTS:
        console.print(Text(f"… and {len(summary.faults) - SHOWN_FAULTS} more", style="red"))


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]] | list[tuple[str, str]]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table
