"""Real processes seen from outside: one trace from the browser to the model, metrics of every process, log lines."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agui_page import interrupts
from callboard_runtime.embedded.paths import free_port
from front_client import RUNS, FrontClient, Json, fresh
from promises import ended
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

from .otlp_collector import Collector, Span, collecting

pytestmark = pytest.mark.timeout(240)

TOKEN = "a-token-for-the-collector"
SAID = "zebra crossing"  # in no span, no metric
ACCEPTED = ["process AcceptRun", "send AcceptRun", f"POST {RUNS}"]
WOKEN = ["send wake-up", *ACCEPTED]
NEEDED = ("database", "schema", "broker")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def callboard(stacks: SharedStacks, collector: Collector) -> Iterator[Callboard]:
    settings = {
        "CALLBOARD_OTEL__ENDPOINT": collector.url,
        "CALLBOARD_OTEL__HEADERS": f"authorization=Bearer {TOKEN}",
        "CALLBOARD_METRICS__PORT": str(free_port()),  # actors and worker share it: the second takes one after it
        "CALLBOARD_LOG_FORMAT": "json",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    stack = stacks.private("observability", stacks.real(), settings)
    stack.ensure(http=1, actors=1, worker=1)
    yield stack
    print(stack.logs())  # shown for a failed test only
    stack.kill_all()


class Caller:
    """A user whose every request names a trace, or whose requests name none."""

    def __init__(self, client: FrontClient, trace: str = "", span: str = "") -> None:
        self.client, self.trace, self.span = client, trace, span


@pytest.fixture
def user() -> str:
    return fresh("user")


@pytest.fixture
async def browser(callboard: Callboard, user: str) -> AsyncIterator[Caller]:
    async with _tracing(callboard.client(user)) as caller:
        yield caller


class _tracing:
    def __init__(self, client: FrontClient) -> None:
        trace, span = secrets.token_hex(16), secrets.token_hex(8)
        client.headers["traceparent"] = f"00-{trace}-{span}-01"
        self.caller = Caller(client, trace, span)

    async def __aenter__(self) -> Caller:
        await self.caller.client.__aenter__()
        return self.caller

    async def __aexit__(self, *error: object) -> None:
        await self.caller.client.__aexit__(*error)


async def span_named(collector: Collector, trace: str, name: str) -> Span:
    found = await until(lambda: collector.named(trace, name), f"span {name!r}")
    return found[0]


# -- traces -----------------------------------------------------------------------------------------------------------


async def test_one_trace_from_the_browser_to_the_model_and_back(
    callboard: Callboard, collector: Collector, browser: Caller
) -> None:
    run = await browser.client.start(f"what time is it, {SAID}?", agent="demo")
    await browser.client.read(run)
    request = await span_named(collector, browser.trace, f"POST {RUNS}")
    assert (request.service, request.parent, request.kind) == ("callboard-http", browser.span, 2)
    leg = await span_named(collector, browser.trace, "invoke_workflow demo")
    assert collector.way_up(leg) == ["invoke_workflow demo", *WOKEN]
    assert leg.attributes["callboard.outcome"] == "finished"
    tool = await span_named(collector, browser.trace, "execute_tool current_time")
    assert collector.way_up(tool)[1] == "invoke_workflow demo"
    chats = [span for span in collector.of(browser.trace) if span.name.startswith("chat ")]
    assert len(chats) == 2
    for chat in chats:
        assert collector.way_up(chat)[1:] == ["invoke_workflow demo", *WOKEN]
        assert chat.attributes["gen_ai.provider.name"] == "callboard-scripted"
        assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    finish = await span_named(collector, browser.trace, "process FinishRun")
    assert collector.way_up(finish)[:3] == ["process FinishRun", "send FinishRun", "invoke_workflow demo"]
    commits = collector.named(browser.trace, "commit")
    assert {collector.way_up(span)[1] for span in commits} >= {"process AcceptRun", "process StartRun"}
    stream = await span_named(collector, browser.trace, "stream events")
    assert stream.service == "callboard-http"
    services = {span.service for span in collector.of(browser.trace)}
    assert services == {"callboard-http", "callboard-actors", "callboard-worker"}
    assert [span for span in collector.of(browser.trace) if span.failed] == []


async def test_a_stream_of_its_own_trace_points_at_the_run(
    callboard: Callboard, collector: Collector, browser: Caller, user: str
) -> None:
    run = await browser.client.start("hang after 3")
    async with callboard.client(user) as other:
        reader, task = other.follow(run)
        await until(lambda: reader.text, "text")
        await browser.client.request("POST", f"{RUNS}/{run}/cancel", {})
        await task
    stream = await until(
        lambda: [span for span in collector.spans if browser.trace in span.links and span.name == "stream events"],
        "a stream that points at the run",
    )
    assert stream[0].trace != browser.trace
    await span_named(collector, browser.trace, "invoke_workflow chat")  # ends behind the model's, in the worker
    [chat] = [span for span in collector.of(browser.trace) if span.name.startswith("chat ")]
    assert (chat.attributes["callboard.outcome"], chat.attributes["callboard.usage.estimated"]) == ("cancelled", True)


async def test_a_pause_ends_the_leg_and_the_next_one_points_back(
    callboard: Callboard, collector: Collector, browser: Caller, user: str
) -> None:
    run = await browser.client.start("please refund order 42", agent="demo")
    [interrupt] = interrupts((await browser.client.read(run)).frames)
    first = await span_named(collector, browser.trace, "invoke_workflow demo")
    assert first.attributes["callboard.outcome"] == "paused"
    async with _tracing(callboard.client(user)) as approver:
        answers: list[Json] = [{"interrupt_id": interrupt["id"], "status": "approved"}]
        await approver.client.request("POST", f"{RUNS}/{run}/resume", {"answers": answers})
        await ended(approver.client, run)
        second = await span_named(collector, approver.trace, "invoke_workflow demo")
    assert second.links == (browser.trace,)
    way = ["invoke_workflow demo", "send wake-up", "process AcceptResume", "send AcceptResume"]
    assert collector.way_up(second)[:4] == way
    assert second.attributes["callboard.leg"] == 2
    tool = await span_named(collector, approver.trace, "execute_tool issue_refund")
    assert collector.way_up(tool)[1] == "invoke_workflow demo"
    # The first model call was replayed, not asked for again.
    assert len([span for span in collector.of(approver.trace) if span.name.startswith("chat ")]) == 1


async def test_a_queued_run_keeps_its_own_trace(callboard: Callboard, collector: Collector, user: str) -> None:
    async with _tracing(callboard.client(user)) as first, _tracing(callboard.client(user)) as second:
        thread = fresh("thread")
        one = await first.client.start("hang after 1", thread=thread)
        two = await second.client.start("count to 2", thread=thread)
        await first.client.request("POST", f"{RUNS}/{one}/cancel", {})
        await ended(second.client, two)
        leg = await span_named(collector, second.trace, "invoke_workflow chat")
    assert collector.way_up(leg) == ["invoke_workflow chat", *ACCEPTED]


async def test_what_the_caller_does_not_sample_is_not_traced(
    callboard: Callboard, collector: Collector, user: str
) -> None:
    unsampled, sampled = secrets.token_hex(16), secrets.token_hex(16)
    for trace, flags in ((unsampled, "00"), (sampled, "01")):
        client = callboard.client(user)
        client.headers["traceparent"] = f"00-{trace}-{secrets.token_hex(8)}-{flags}"
        async with client:
            await client.read(await client.start("count to 2"))
    await span_named(collector, sampled, "process FinishRun")
    assert collector.of(unsampled) == []


async def test_spans_hold_no_content_and_go_out_with_the_token(collector: Collector, browser: Caller) -> None:
    run = await browser.client.start(f"echo {SAID}")
    await browser.client.read(run)
    await span_named(collector, browser.trace, "process FinishRun")
    assert SAID.split()[0] not in repr(collector.spans)
    assert TOKEN not in repr(collector.spans)
    assert {headers["authorization"] for headers in collector.headers} == {f"Bearer {TOKEN}"}


# -- metrics, health, logs --------------------------------------------------------------------------------------------


def lines(callboard: Callboard, kind: str) -> list[Json]:
    [node] = callboard.of(kind)
    return [json.loads(line) for line in node.log.read_text().splitlines()]


def base(callboard: Callboard, kind: str) -> str:
    """Where a process tells of itself."""
    if kind == "http":
        return callboard.fronts[0]
    said = next(line for line in lines(callboard, kind) if line.get("action") == "metrics_listening")
    return f"http://127.0.0.1:{said['port']}"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


def samples(callboard: Callboard, kind: str) -> dict[str, float]:
    """Every sample, its labels left out and its values added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(get(f"{base(callboard, kind)}/metrics")):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def test_every_process_counts(callboard: Callboard, browser: Caller) -> None:
    before = {kind: samples(callboard, kind) for kind in ("http", "actors", "worker")}
    run = await browser.client.start("what time is it?", agent="demo")
    reader = await browser.client.read(run)
    await ended(browser.client, run)

    async def gains() -> dict[str, dict[str, float]] | None:
        now = {kind: samples(callboard, kind) for kind in before}
        gained = {k: {name: now[k][name] - before[k].get(name, 0) for name in now[k]} for k in now}
        return gained if gained["worker"]["callboard_worker_legs_total"] else None

    gained = await until(gains, "the leg to be counted")
    front, actors, worker = gained["http"], gained["actors"], gained["worker"]
    assert front["callboard_http_runs_accepted_total"] == 1
    assert front["callboard_http_events_sent_total"] >= len(reader.frames)
    assert front["callboard_command_seconds_count"] == 1
    assert actors["callboard_runs_accepted_total"] == actors["callboard_runs_ended_total"] == 1
    assert actors["callboard_actors_epochs_total"] == 1
    assert actors["callboard_actors_commands_total"] >= 6
    assert actors["callboard_outbox_sent_total"] >= 2
    assert actors["callboard_actors_commit_commands_sum"] >= 6
    assert worker["callboard_worker_legs_total"] == 1
    assert worker["callboard_model_calls_total"] == 2
    assert worker["callboard_model_tokens_total"] > 0
    assert worker["callboard_tool_calls_total"] == 1
    assert worker["callboard_events_emitted_total"] > 0
    now = {kind: samples(callboard, kind) for kind in before}
    assert now["actors"]["callboard_actors_owned_partitions"] >= 1
    assert now["actors"]["callboard_actors_waiting_commands"] == 0
    assert now["worker"]["callboard_worker_slots"] == 100
    for kind in now:
        assert now[kind]["callboard_ready"] == 1
        assert now[kind]["callboard_heartbeat_age_seconds"] < 60
        assert now[kind]["callboard_database_connections"] >= 1
        assert now[kind]["process_cpu_seconds_total"] > 0


async def test_every_process_says_that_it_is_ready(callboard: Callboard) -> None:
    for kind in ("http", "actors", "worker"):
        assert json.loads(get(f"{base(callboard, kind)}/healthz")) == {"status": "ok"}
        ready = json.loads(get(f"{base(callboard, kind)}/readyz"))
        assert ready["status"] == "ready"
        assert {name: ready["checks"][name] for name in NEEDED} == dict.fromkeys(NEEDED, True)
        assert ready["checks"].get("actors") is (True if kind == "http" else None)


async def test_every_process_says_that_the_migration_is_still_to_come(callboard: Callboard) -> None:
    await callboard.query("ALTER TABLE audit_log RENAME TO to_come")  # which nobody asks for by the way
    try:
        for kind in ("http", "actors", "worker"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(f"{base(callboard, kind)}/readyz")
            with caught.value as answer:
                checks = json.loads(answer.read())["checks"]
            assert (answer.code, checks["schema"], checks["database"], checks["broker"]) == (503, False, True, True)
    finally:
        await callboard.query("ALTER TABLE to_come RENAME TO audit_log")
    await test_every_process_says_that_it_is_ready(callboard)


async def test_log_lines_inside_a_run_name_it(callboard: Callboard, browser: Caller) -> None:
    run = await browser.client.start("fail 401")
    await ended(browser.client, run)
    await until(
        lambda: [line for line in lines(callboard, "worker") if line.get("trace_id") == browser.trace], "a line"
    )
    failed = next(line for line in lines(callboard, "worker") if line.get("trace_id") == browser.trace)
    [row] = await callboard.query("SELECT id, session_id FROM runs WHERE client_run_id = $1", run)
    assert (failed["run_id"], failed["session_id"]) == (str(row["id"]), str(row["session_id"]))
    password = callboard.urls.amqp.split("@")[0].rpartition(":")[2]
    for kind in ("http", "actors", "worker"):
        assert f":{password}@" not in callboard.of(kind)[0].log.read_text()
