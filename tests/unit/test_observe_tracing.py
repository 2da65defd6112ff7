"""Traces in one process: what is recorded and sampled, what is not; CrewAI neither sends nor replaces anything."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from callboard_runtime.errors import SettingsError, Unavailable
from callboard_runtime.observe import tracing
from callboard_runtime.observe.otel import OtelTracer
from callboard_runtime.observe.start import start_tracing
from callboard_runtime.observe.tracing import NO_SPAN
from callboard_runtime.settings import OtelSettings, Settings

from .crew_world import CREWAI_WARNS, brief, run

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class Recorder:
    """A tracer whose spans are kept."""

    def __init__(self, sample: float = 1.0, *, accept_traceparent: bool = True) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = OtelTracer(provider, accept_traceparent=accept_traceparent)
        tracing.use(self.tracer)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture(autouse=True)
def _off_afterwards() -> Iterator[None]:
    before = tracing.use(None)
    yield
    tracing.use(before)


def test_without_a_tracer_nothing_is_made() -> None:
    assert tracing.span("a", root=True, parent=PARENT) is NO_SPAN
    assert tracing.continued(PARENT) is NO_SPAN
    assert (tracing.traceparent(), tracing.trace_id(), tracing.header_of({"traceparent": PARENT})) == (None,) * 3
    with NO_SPAN as span:
        span.note({"a": 1})
        span.fail("X")
        span.child("b", 1, 2, {})
    span.end()
    assert span.traceparent is None


def test_only_a_root_begins_a_trace() -> None:
    recorder = Recorder()
    with tracing.span("hop") as hop, tracing.span("request", root=True) as root, tracing.span("inner") as inner:
        assert hop is NO_SPAN
        assert tracing.traceparent() == inner.traceparent
        assert root.traceparent is not None
    spans = recorder.spans
    assert set(spans) == {"request", "inner"}
    assert spans["inner"].parent is not None
    assert spans["inner"].parent.span_id == spans["request"].context.span_id


@pytest.mark.parametrize("given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", PARENT[:-1]])
def test_a_header_that_cannot_be_read_begins_a_trace_of_its_own(given: str) -> None:
    recorder = Recorder()
    with tracing.span("request", root=True, parent=given):
        pass
    assert recorder.spans["request"].parent is None


def test_the_callers_flag_decides_whatever_the_share() -> None:
    recorder = Recorder(sample=0.0)
    for name, parent in (("theirs", PARENT), ("unsampled", UNSAMPLED), ("none", None)):
        with tracing.span(name, root=True, parent=parent), tracing.span(f"inside {name}"):
            assert (tracing.traceparent() is None) == (name != "theirs")
    assert set(recorder.spans) == {"theirs", "inside theirs"}


def test_an_untrusted_callers_trace_is_linked_instead() -> None:
    recorder = Recorder(accept_traceparent=False)
    with tracing.span("request", root=True, parent=PARENT):
        pass
    span = recorder.spans["request"]
    assert span.parent is None
    assert [trace.format_trace_id(link.context.trace_id) for link in span.links] == [PARENT.split("-")[1]]


def test_a_failure_is_named_and_not_quoted() -> None:
    recorder = Recorder()
    for name, error in (("ours", Unavailable("secret words")), ("other", ValueError("secret words"))):
        with pytest.raises(type(error)), tracing.span(name, root=True):
            raise error
    assert {n: dict(s.attributes or {})["error.type"] for n, s in recorder.spans.items()} == {
        "ours": "UNAVAILABLE",
        "other": "ValueError",
    }
    assert "secret words" not in "".join(span.to_json() for span in recorder.spans.values())
    with pytest.raises(asyncio.CancelledError), tracing.span("stopped", root=True):
        raise asyncio.CancelledError
    assert recorder.spans["stopped"].status.is_ok or recorder.spans["stopped"].status.is_unset


@CREWAI_WARNS
async def test_a_crews_spans_are_ours_alone_and_hold_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI and LiteLLM open no connection and leave OpenTelemetry's global provider as it is."""
    recorder, before = Recorder(), trace.get_tracer_provider()
    reached: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: reached.append(address))
    with tracing.span("leg", root=True):
        ran = await run(brief("count to 3 zebras"))
    assert ran.outcome is not None
    assert ran.outcome.status == "finished"
    assert set(recorder.spans) == {"leg", "chat callboard-scripted/default"}
    chat = recorder.spans["chat callboard-scripted/default"]
    assert dict(chat.attributes or {}) | {"gen_ai.usage.output_tokens": 3, "gen_ai.operation.name": "chat"} == dict(
        chat.attributes or {}
    )
    assert "zebras" not in "".join(span.to_json() for span in recorder.spans.values())
    assert reached == []
    assert trace.get_tracer_provider() is before
    assert recorder.tracer.provider.get_tracer("x") is not None


def test_fronts_and_actors_need_no_opentelemetry() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import callboard_http.app, callboard_actors.wiring, callboard_runtime.observe.spans"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "callboard_runtime.observe.otel", None)
    settings = Settings(otel=OtelSettings(endpoint="http://127.0.0.1:1"))
    with pytest.raises(SettingsError, match=r"callboard\[otel\]"):
        start_tracing(settings, "http")


def test_an_endpoint_must_be_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_OTEL__ENDPOINT", "collector:4318")
    with pytest.raises(SettingsError, match="CALLBOARD_OTEL__ENDPOINT"):
        Settings()
