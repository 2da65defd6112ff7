"""`python -m benchmarks.observe_cost`: what a hop pays for being observed, in nanoseconds of CPU."""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from callboard_actors.metrics import command_settled
from callboard_runtime.observe import tracing
from callboard_runtime.observe.metrics import COMMAND_SECONDS, render
from callboard_runtime.observe.otel import OtelTracer
from callboard_runtime.observe.worker import count_batch

TIMES = 50_000
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class _Nowhere(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def _tracer(sample: float) -> OtelTracer:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Nowhere(), max_queue_size=10_000))
    return OtelTracer(provider)


def _root() -> None:
    with tracing.span("a request", kind="server", root=True):
        pass


def _hop() -> None:
    with tracing.span("send a command", kind="client", attributes={"messaging.system": "rabbitmq"}):
        tracing.traceparent()


def _check() -> None:
    if tracing.current is not None:
        _hop()


def _received() -> None:
    span = tracing.span("process a command", kind="consumer", parent=PARENT if tracing.current else None)
    span.child("commit", 1, 2, {})
    span.end()


def _cpu(work: Callable[[], object], times: int = TIMES) -> float:
    work()
    began = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - began) / times


def main() -> None:
    """Print one line per piece of work."""
    hops = {"a hop's look": _check, "a request": _root, "a hop's span": _hop, "a command that came in": _received}
    for name, tracer in (("off", None), ("on, not sampled", _tracer(0)), ("on, sampled", _tracer(1))):
        tracing.use(tracer)
        for what, work in hops.items():
            inside = tracing.continued(PARENT) if name == "on, sampled" else tracing.NO_SPAN
            with inside:
                print(f"traces {name:16} {what:24} {_cpu(work):8.0f} ns")
    tracing.use(None)
    observed = COMMAND_SECONDS.labels("Benchmark")
    counts: dict[str, Callable[[], object]] = {
        "a command's reply time": lambda: COMMAND_SECONDS.labels("Benchmark").observe(0.004),
        "the same, label kept": lambda: observed.observe(0.004),
        "a settled command": lambda: command_settled("Benchmark", "answered"),
        "a batch of events": lambda: count_batch("OK", 12),
    }
    for what, work in counts.items():
        print(f"metrics{'':17} {what:24} {_cpu(work):8.0f} ns")
    print(f"metrics{'':17} {'one scrape':24} {_cpu(render, 50):8.0f} ns")


if __name__ == "__main__":
    main()
