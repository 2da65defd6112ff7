"""Readers who come without a cursor, for a run, a thread or a whole session; and cursors that are past retention."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from sqlalchemy import delete, insert, update

from callboard_http.deps import DEPS
from callboard_runtime.domain.event_batch import AguiEvent, EventId
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.domain.state_snapshot import ActiveRun, PendingToolCall, RunStatus, StateSnapshot, ToolCallStatus
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import Settings
from unit.agui_page import Page
from waiting import until

from .http_harness import (
    Backstage,
    Event,
    Front,
    Leg,
    delta,
    events,
    finished,
    headers,
    make_settings,
    numbered,
    serving,
    started,
)

EVENTS = "/api/v1/agent/runs/r1/events"
CONNECT = "/api/v1/agent/agui/default/connect"
SESSION = "/api/v1/agent/sessions/t1/events"
SSE = {"Accept": "text/event-stream"}
USER_MESSAGE = {"id": "u1", "role": "user", "content": "hello"}
TEXT_START = {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}
TEXT_END = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
CALL_START = {"type": "TOOL_CALL_START", "toolCallId": "c1", "toolCallName": "find", "parentMessageId": "m1"}


async def speaking(stage: Backstage) -> Leg:
    """A run in the middle of its answer: three words, one of them committed, one in the tail, the user's row."""
    leg = await stage.add_run()
    await add_message(stage, leg, 1, USER_MESSAGE)
    await active(stage, leg)
    await stage.begin(leg)
    await stage.emit(leg, TEXT_START, delta("one "))
    await stage.commit(leg)
    await stage.emit(leg, delta("two "))
    return leg


async def add_message(stage: Backstage, leg: Leg, seq: int, message: dict[str, Any]) -> None:
    row = {"message_id": message["id"], "role": message["role"], "content": message["content"]}
    await stage.execute(
        insert(t.MessageRow).values(session_id=leg.key.session_id, seq=seq, run_id=leg.key.run_id, **row)
    )


async def active(stage: Backstage, leg: Leg | None, *calls: PendingToolCall, session: Leg | None = None) -> None:
    """Have the actor's state say that this leg is the session's present one, or that there is none."""
    key = (leg or session).key  # type: ignore[union-attr]
    run = ActiveRun(run_id=key.run_id, client_run_id=leg.run, leg=key.leg, leg_run_id=leg.run) if leg else None
    state = StateSnapshot.new(key.session_id, active=run, pending_tool_calls=calls, shared_state={"colour": "red"})
    row = t.SessionRow
    await stage.execute(update(row).where(row.id == key.session_id).values(state_snapshot=state.to_json()))


def messages(shown: list[Event]) -> list[AguiEvent]:
    return next(event["messages"] for _, event in shown if event["type"] == "MESSAGES_SNAPSHOT")


def kinds(shown: list[Event]) -> list[str]:
    return [event["type"] for _, event in shown]


# -- one run ----------------------------------------------------------------------------------------------------------


async def test_in_the_middle_of_a_text(front: Front, stage: Backstage):
    leg = await speaking(stage)
    async with front.stream(EVENTS) as response:
        shown = await events(response, 4)
        assert kinds(shown) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "TEXT_MESSAGE_START"]
        assert messages(shown) == [USER_MESSAGE, {"id": "m1", "role": "assistant", "content": "one two "}]
        assert shown[2][1]["snapshot"] == {"colour": "red"}
        assert shown[3] == ("1-4", TEXT_START)
        assert [event_id for event_id, _ in shown[:3]] == [None] * 3
        await stage.emit(leg, delta("three"), TEXT_END)
        await stage.close(leg)
        rest = await events(response)
        assert rest == numbered(1, 5, [delta("three"), TEXT_END, finished()])
        page = Page.of(event for _, event in shown + rest)
        assert page.said()[-1]["content"] == "one two three"


async def test_the_last_id_of_the_prelude_is_a_cursor(front: Front, stage: Backstage):
    leg = await speaking(stage)
    async with front.stream(EVENTS) as response:
        cut = (await events(response, 4))[-1][0]
    await stage.emit(leg, delta("three"), TEXT_END)
    await stage.close(leg)
    async with front.stream(EVENTS, headers={"Last-Event-ID": cut}) as response:
        assert await events(response) == numbered(1, 5, [delta("three"), TEXT_END, finished()])


async def test_in_the_middle_of_parallel_calls(front: Front, stage: Backstage):
    leg = await speaking(stage)
    second = CALL_START | {"toolCallId": "c2"}
    arguments = {"type": "TOOL_CALL_ARGS", "toolCallId": "c2", "delta": '{"q": '}
    step = {"type": "STEP_STARTED", "stepName": "answer"}
    await stage.emit(leg, step, TEXT_END, CALL_START, second, arguments)
    await stage.emit(leg, {"type": "TOOL_CALL_END", "toolCallId": "c1"})
    async with front.stream(EVENTS) as response:
        shown = await events(response, 5)
        assert kinds(shown)[3:] == ["STEP_STARTED", "TOOL_CALL_START"]
        assert shown[-1] == ("1-10", second)
        functions = [call["function"] for call in messages(shown)[-1]["toolCalls"]]
        assert functions == [{"name": "find", "arguments": ""}, {"name": "find", "arguments": '{"q": '}]


async def test_state_changes_of_the_leg_are_told(front: Front, stage: Backstage):
    leg = await speaking(stage)
    snapshot = {"type": "STATE_SNAPSHOT", "snapshot": {"colour": "blue"}}
    change = {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/size", "value": 1}]}
    await stage.emit(leg, snapshot, change)
    async with front.stream(EVENTS) as response:
        page = Page.of(event for _, event in await events(response, 5))
        assert page.state == {"colour": "blue", "size": 1}


async def test_without_redis_the_rest_comes_with_the_commit(
    postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str, stage: Backstage
):
    leg = await speaking(stage)
    deaf = make_settings(postgres_url, None, redis_prefix, embedded_amqp_url)
    async with serving(deaf) as front, front.stream(EVENTS) as response:
        shown = await events(response, 4)
        assert messages(shown)[-1]["content"] == "one "
        assert shown[-1][0] == "1-3"
        await stage.commit(leg)
        assert await events(response, 1) == [("1-4", delta("two "))]


async def test_what_a_dead_attempt_showed_in_the_prelude_is_withdrawn(front: Front, stage: Backstage):
    leg = await speaking(stage)
    await stage.emit(leg, TEXT_END, CALL_START)
    async with front.stream(EVENTS) as response:
        shown = await events(response, 4)
        assert shown[-1] == ("1-6", CALL_START)
        # The tail is lost, the next attempt knows what was committed only.
        opening = [TEXT_END, {"type": "MESSAGES_SNAPSHOT", "messages": [USER_MESSAGE]}]
        await stage.begin(leg, 2, *opening)
        await stage.close(leg)
        rest = await events(response)
        assert rest[0] == (None, {"type": "TOOL_CALL_END", "toolCallId": "c1"})
        page = Page.of(event for _, event in shown + rest)
        assert page.said() == [USER_MESSAGE]
        assert page.verifier.ended


async def test_a_finished_run_is_a_snapshot_and_its_end(front: Front, stage: Backstage):
    leg = await speaking(stage)
    answer = {"id": "m1", "role": "assistant", "content": "one two "}
    await stage.emit(leg, TEXT_END)
    await add_message(stage, leg, 2, answer)
    await stage.close(leg)
    async with front.stream(EVENTS) as response:
        shown = await events(response)
    assert kinds(shown) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    assert messages(shown) == [USER_MESSAGE, answer]
    assert [event_id for event_id, _ in shown] == [None, None, "1-5", "1-6"]


async def test_a_superseded_run_ends_as_it_ended(front: Front, stage: Backstage):
    """Another run came after it; the snapshot is the conversation of today."""
    first = await speaking(stage)
    await stage.emit(first, TEXT_END)
    await stage.close(first, finished() | {"outcome": {"type": "cancelled"}}, status="cancelled")
    second = await stage.add_run(run="r2")
    second.log = first.log
    await add_message(stage, second, 2, {"id": "u2", "role": "user", "content": "again"})
    await active(stage, second)
    await stage.begin(second, 2)
    async with front.stream(EVENTS, params={"protocol": "0.0.59"}) as response:
        shown = await events(response)
    assert kinds(shown)[-1] == "RUN_ERROR"
    assert shown[-1] == ("1-6", {"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "abort"})
    assert shown[0][1]["runId"] == "r1"
    assert [message["id"] for message in messages(shown)] == ["u1", "u2"]


async def test_a_paused_run_names_what_is_still_open(front: Front, stage: Backstage):
    leg = await stage.add_run()
    calls = [
        PendingToolCall(tool_call_id=f"c{n}", tool_name="pay", interrupt_id=f"int-{n}", status=status)
        for n, status in ((1, ToolCallStatus.APPROVED), (2, ToolCallStatus.PENDING_APPROVAL))
    ]
    await active(stage, leg, *calls)
    await stage.begin(leg)
    both = [{"id": f"int-{n}", "reason": "callboard:tool_approval"} for n in (1, 2)]
    await stage.close(leg, finished() | {"outcome": {"type": "interrupt", "interrupts": both}}, status="awaiting_input")
    for path in (EVENTS, CONNECT):
        shown = await reattached(front, path)
        [interrupt] = shown[-1][1]["outcome"]["interrupts"]
        assert (interrupt["id"], interrupt["toolCallId"]) == ("int-2", "c2")
        assert shown[-1][0] == "1-2"


async def test_a_run_that_waits_for_a_worker_is_streamed_from_its_start(front: Front, stage: Backstage):
    leg = await stage.add_run()
    async with front.stream(EVENTS) as response:
        await until(lambda: len(front.app[DEPS].streams) == 1)
        await stage.begin(leg)
        await stage.close(leg)
        assert await events(response) == numbered(1, 1, [started(), finished()])


async def test_from_knows_one_word(front: Front, stage: Backstage):
    await speaking(stage)
    answer = await front.call("GET", EVENTS, params={"from": "end"})
    assert (answer.status, answer.json["code"]) == (400, "INVALID_INPUT")


async def test_several_viewers_see_the_same(front: Front, settings: Settings, stage: Backstage):
    leg = await speaking(stage)
    async with serving(settings) as other:
        streams = [one.stream(path) for one in (front, other) for path in (EVENTS, EVENTS + "?from=start")]
        responses = [await stream.__aenter__() for stream in streams]
        pages = [Page.of(event for _, event in await events(response, 4)) for response in responses]
        await stage.emit(leg, delta("three"), TEXT_END)
        await stage.close(leg)
        for page, response in zip(pages, responses, strict=True):
            for _, event in await events(response):
                page.see(event)
            assert page.said()[-1] == {"id": "m1", "role": "assistant", "content": "one two three"}
            response.close()


# -- a thread ---------------------------------------------------------------------------------------------------------


async def reattached(front: Front, path: str = CONNECT, thread: str = "t1", **more: Any) -> list[Event]:
    """The stream of a reader without a cursor, to its end."""
    body = {"threadId": thread, "runId": "any", "messages": [], "protocolVersion": "1.0"} | more
    method = "POST" if path.endswith("/connect") else "GET"
    options = {"json": body} if method == "POST" else {}
    async with front.http.request(method, front.url + path, headers=headers(), **options) as response:
        assert response.status == 200, await response.text()
        return await events(response)


async def test_an_unknown_thread_is_an_empty_stream(front: Front, stage: Backstage):
    answer = await front.call("POST", CONNECT, json={"threadId": "nobody", "runId": "x", "messages": []})
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/event-stream")


async def test_somebody_elses_thread_is_an_unknown_one(front: Front, stage: Backstage):
    await speaking(stage)
    body = {"threadId": "t1", "runId": "x", "messages": []}
    answer = await front.call("POST", CONNECT, as_=headers("bob"), json=body)
    assert (answer.status, answer.body) == (200, b"")


async def test_a_thread_whose_run_is_at_work_is_followed_to_its_end(front: Front, stage: Backstage):
    leg = await speaking(stage)
    following = asyncio.create_task(reattached(front))
    await until(lambda: len(front.app[DEPS].streams) == 1)
    await stage.emit(leg, delta("three"), TEXT_END)
    await stage.close(leg)
    shown = await following
    assert shown[0][1]["runId"] == "r1"
    assert Page.of(event for _, event in shown).said()[-1]["content"] == "one two three"


async def test_a_thread_whose_run_waits_shows_the_past_at_once(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await add_message(stage, leg, 1, USER_MESSAGE)
    await active(stage, leg)
    body = {"threadId": "t1", "runId": "x", "messages": [], "protocolVersion": "1.0"}
    async with front.http.post(front.url + CONNECT, json=body, headers=headers()) as response:
        shown = await events(response, 3)
        assert messages(shown) == [USER_MESSAGE]
        await stage.begin(leg)
        await stage.close(leg)
        rest = await events(response)
    assert rest == [("1-2", finished())], "the start was told already"
    Page.of(event for _, event in shown + rest)


async def test_an_idle_thread_shows_its_last_end(front: Front, stage: Backstage):
    first = await speaking(stage)
    await stage.emit(first, TEXT_END)
    await stage.close(first)
    second = await stage.add_run(run="r2")
    second.log = first.log
    await stage.begin(second, 2)
    error = {"type": "RUN_ERROR", "message": "no", "code": "MODEL_FAILED"}
    await stage.close(second, error, status="failed")
    await active(stage, None, session=second)
    shown = await reattached(front)
    assert shown[0][1]["runId"] == "r2"
    assert shown[-1] == ("2-2", error)


@pytest.mark.parametrize(("status", "kind"), [("cancelled", "RUN_FINISHED"), ("failed", "RUN_ERROR")])
async def test_a_thread_whose_only_run_never_started(front: Front, stage: Backstage, status: str, kind: str):
    leg = await stage.add_run(status=status)
    await active(stage, None, session=leg)
    shown = await reattached(front)
    assert kinds(shown) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", kind]
    Page.of(event for _, event in shown)


# -- a session --------------------------------------------------------------------------------------------------------


async def test_a_session_is_followed_over_its_runs(front: Front, stage: Backstage):
    first = await speaking(stage)
    async with front.stream(SESSION, headers=SSE) as response:
        assert await events(response, 4) == numbered(1, 1, first.sent)
        await stage.emit(first, TEXT_END)
        await stage.close(first)
        assert await events(response, 2) == numbered(1, 5, [TEXT_END, finished()])
        second = await stage.add_run(run="r2")
        second.log = first.log
        await stage.begin(second, 2)
        assert await events(response, 1) == numbered(2, 1, [started("r2")])
        cut = "2-1"
    await stage.emit(second, delta("unseen"))
    async with front.stream(SESSION, headers=SSE | {"Last-Event-ID": cut}) as response:
        assert await events(response, 1) == numbered(2, 2, [delta("unseen")])
        await stage.close(second, live=False)
        assert await events(response, 1) == numbered(2, 3, [finished("r2")]), "found at the heartbeat"


async def test_a_session_page_is_json_unless_a_stream_is_asked_for(front: Front, stage: Backstage):
    await speaking(stage)
    answer = await front.call("GET", SESSION)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert len(answer.json["events"]) == 3


async def test_the_readers_of_a_deleted_session_are_told(front: Front, stage: Backstage):
    leg = await speaking(stage)
    async with front.stream(SESSION, headers=SSE) as of_session, front.stream(EVENTS) as of_run:
        for response in (of_session, of_run):
            await events(response, 4)
        row = t.SessionRow
        for table in (t.MessageRow, t.EventSegmentRow, t.RunRow):
            await stage.execute(delete(table).where(table.session_id == leg.key.session_id))
        await stage.execute(update(row).where(row.id == leg.key.session_id).values(deleted_at=utcnow()))
        for response in (of_session, of_run):
            [(event_id, error)] = await events(response)
            assert (event_id, error["code"]) == (None, "SESSION_DELETED")
    for options in ({"headers": SSE}, {}):
        assert (await front.call("GET", SESSION, **options)).status == 410
    assert (await front.call("POST", CONNECT, json={"threadId": "t1", "runId": "x", "messages": []})).status == 410


# -- cursors ----------------------------------------------------------------------------------------------------------


async def pruned(stage: Backstage) -> Leg:
    """A long run, whose first segments are gone."""
    leg = await speaking(stage)
    await stage.commit(leg)
    await stage.emit(leg, delta("three"))
    await stage.commit(leg)
    segment = t.EventSegmentRow
    await stage.execute(delete(segment).where(segment.session_id == leg.key.session_id, segment.last_seq < 4))
    return leg


@pytest.mark.parametrize(
    ("path", "cursor", "status"),
    [
        (EVENTS, {"after": "1-2"}, 410),
        (EVENTS, {"after": "1-3"}, 200),
        (EVENTS, {"after": "0-0"}, 410),
        (EVENTS, {"from": "start"}, 410),
        (EVENTS, {"after": "3-1"}, 409),
        (EVENTS, {"after": "one"}, 400),
        (SESSION, {"after": "1-2"}, 410),
        (SESSION, {}, 410),
        (SESSION, {"after": "1-4"}, 200),
        (SESSION, {"after": "9-9"}, 409),
        (SESSION, {"after": "-"}, 400),
    ],
)
async def test_cursors(front: Front, stage: Backstage, path: str, cursor: dict[str, str], status: int):
    await pruned(stage)
    async with front.stream(path, params=cursor, headers=SSE) as response:
        assert response.status == status
        if status != 200:
            codes = {400: "INVALID_INPUT", 409: "CONFLICT", 410: "GONE"}
            assert orjson.loads(await response.read())["code"] == codes[status]


async def test_a_finished_run_past_retention_is_still_a_snapshot(front: Front, stage: Backstage):
    leg = await speaking(stage)
    await stage.close(leg)
    await stage.execute(delete(t.EventSegmentRow).where(t.EventSegmentRow.session_id == leg.key.session_id))
    shown = await reattached(front, EVENTS)
    assert shown[-1] == ("1-5", finished())
    assert (await front.call("GET", EVENTS, params={"after": "1-4"})).status == 410
    assert (await front.call("GET", EVENTS, params={"after": "1-5"})).status == 204


async def test_a_session_that_began_with_a_later_epoch_has_lost_nothing(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg, 4)
    await stage.close(leg)
    async with front.stream(EVENTS, params={"after": "0-0"}) as response:
        assert await events(response) == numbered(4, 1, leg.sent)


async def test_the_tail_may_hold_the_end_already(front: Front, stage: Backstage):
    """The snapshot was read just before the end was committed: the end comes from the log, not with the prelude."""
    leg = await speaking(stage)
    await stage.emit(leg, TEXT_END, finished())
    async with front.stream(EVENTS) as response:
        shown = await events(response, 3)
        assert kinds(shown) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT"]
        assert shown[-1][0] == str(EventId(1, 5))
        await stage.commit(leg, closing=True, status=RunStatus.SUCCEEDED)
        assert await events(response) == numbered(1, 6, [finished()])
