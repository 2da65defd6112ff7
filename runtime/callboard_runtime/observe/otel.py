"""Traces with OpenTelemetry, over a provider of our own.

The global provider stays as it is: what a library in this process traces, prompts among it, does not get into our
export, and nobody can replace our provider by setting theirs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Self

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from callboard_runtime.errors import CallboardError
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN, Attributes, Kind, Span
from callboard_runtime.settings import OtelSettings

EXPORT_TIMEOUT = 5.0  # seconds
LONGEST_ATTRIBUTE = 512  # characters

_W3C = TraceContextTextMapPropagator()
_KINDS: Mapping[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
}


class RecordedSpan(Span):
    """A span that will be exported."""

    __slots__ = ("_context", "_span", "_token", "_tracer")

    def __init__(self, span: trace.Span, tracer: trace.Tracer, context: Context) -> None:
        self._span, self._tracer = span, tracer
        self._context = trace.set_span_in_context(span, context)
        self._token: object = None

    @property
    def traceparent(self) -> str | None:
        return _header(self._context)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def link(self, traceparent: str | None) -> None:
        if (target := _span_context(traceparent)) is not None:
            self._span.add_link(target)

    def fail(self, code: str) -> None:
        self._span.set_attribute("error.type", code)
        self._span.set_status(trace.StatusCode.ERROR)

    def child(self, name: str, began: int, ended: int, attributes: Attributes) -> None:
        span = self._tracer.start_span(name, self._context, attributes=dict(attributes), start_time=began)
        span.end(ended)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> Self:
        self._token = contexts.attach(self._context)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace_: object) -> None:
        contexts.detach(self._token)  # pyright: ignore[reportArgumentType] - a token of `attach`
        if isinstance(error, Exception):
            # The class or the code only: messages of exceptions may hold what users and models said.
            self.fail(error.code if isinstance(error, CallboardError) else type(error).__name__)
        elif error is not None:
            self._span.set_attribute("callboard.ended_by", type(error).__name__)
        self._span.end()


class OtelTracer:
    """Begins spans; a trace's first span decides, by `sample` or the caller's flag, whether all of it is recorded."""

    def __init__(self, provider: TracerProvider, *, accept_traceparent: bool = True) -> None:
        self.provider = provider
        self._accept = accept_traceparent
        self._tracer = provider.get_tracer("callboard")

    def span(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        links: Sequence[str],
        attributes: Attributes | None,
        root: bool,
    ) -> Span:
        given = _span_context(parent)
        context = trace.set_span_in_context(trace.NonRecordingSpan(given), Context()) if given else None
        if root and given is not None and not self._accept:
            context, links = Context(), [*links, parent or ""]
        elif context is None:
            context = contexts.get_current()
        if not root and not trace.get_current_span(context).get_span_context().trace_flags.sampled:
            return NO_SPAN
        targets = [trace.Link(target) for link in links if (target := _span_context(link)) is not None]
        started = self._tracer.start_span(name, context, _KINDS[kind], attributes, targets)
        return RecordedSpan(started, self._tracer, context) if started.is_recording() else NO_SPAN

    @contextmanager
    def continued(self, traceparent: str) -> Generator[None]:
        token = contexts.attach(_W3C.extract({tracing.HEADER: traceparent}, Context()))
        try:
            yield
        finally:
            contexts.detach(token)

    def note(self, attributes: Attributes) -> None:
        """Add attributes to the present span."""
        trace.get_current_span().set_attributes(dict(attributes))

    def traceparent(self) -> str | None:
        return _header(contexts.get_current())

    def trace_id(self) -> str | None:
        present = trace.get_current_span().get_span_context()
        return trace.format_trace_id(present.trace_id) if present.is_valid else None

    def flush(self) -> None:
        self.provider.force_flush()

    def close(self) -> None:
        """Export what is left; waits a few seconds at most."""
        self.provider.shutdown()


def make_tracer(settings: OtelSettings, kind: str) -> OtelTracer:
    """The tracer of a process of this kind (`http`, `actors`, `worker`), exporting in the background."""
    resource = Resource.create(
        {
            "service.name": f"callboard-{kind}",
            "service.namespace": "callboard",
            "service.version": metadata.version("callboard"),
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample)),
        resource=resource,
        span_limits=SpanLimits(max_attribute_length=LONGEST_ATTRIBUTE),
    )
    provider.add_span_processor(_exporting(settings))
    return OtelTracer(provider, accept_traceparent=settings.accept_traceparent)


def _exporting(settings: OtelSettings) -> SpanProcessor:
    if settings.endpoint == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + os.linesep))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    url = f"{(settings.endpoint or '').rstrip('/').removesuffix('/v1/traces')}/v1/traces"
    return BatchSpanProcessor(OTLPSpanExporter(url, headers=_headers(settings), timeout=EXPORT_TIMEOUT))


def _headers(settings: OtelSettings) -> dict[str, str]:
    given = settings.headers.get_secret_value() if settings.headers else ""
    pairs = (part.partition("=") for part in given.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _header(context: Context) -> str | None:
    if not trace.get_current_span(context).get_span_context().trace_flags.sampled:
        return None
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return carrier.get(tracing.HEADER)


def _span_context(traceparent: str | None) -> trace.SpanContext | None:
    """The span that a header names; None for one that cannot be read."""
    if not traceparent:
        return None
    named = trace.get_current_span(_W3C.extract({tracing.HEADER: traceparent}, Context())).get_span_context()
    return named if named.is_valid else None
