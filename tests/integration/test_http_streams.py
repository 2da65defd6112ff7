"""Event streams on real services: replay, tail, live, holes, losses, cuts, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, func, update

from callboard_http.deps import SERVICES
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import Settings
from services import TcpProxy
from waiting import until

from .http_harness import (
    Backstage,
    Front,
    delta,
    events,
    finished,
    frames,
    headers,
    listening,
    make_settings,
    numbered,
    played,
    serving,
)

EVENTS = "/api/v1/agent/runs/r1/events?from=start"


async def test_a_finished_leg_is_replayed_and_ends(front: Front, stage: Backstage):
    leg = await played(stage)
    async with front.stream(EVENTS) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "no-cache" in response.headers["Cache-Control"]
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in response.headers
        assert await events(response) == numbered(1, 1, leg.sent)


async def test_log_then_tail_then_live(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, delta("committed"))
    await stage.commit(leg)
    await stage.emit(leg, delta("in the tail"), live=False)
    async with front.stream(EVENTS) as response:
        assert await events(response, 3) == numbered(1, 1, leg.sent)
        await stage.emit(leg, delta("live"), tail=False)
        await stage.close(leg)
        assert await events(response) == numbered(1, 4, [delta("live"), finished()])


async def test_a_waiting_run_starts_and_streams_live(front: Front, stage: Backstage):
    leg = await stage.add_run()
    async with front.stream(EVENTS) as response:
        await listening(front)
        await stage.begin(leg)
        await stage.emit(leg, delta("a"), delta("b"))
        await stage.close(leg)
        assert await events(response) == numbered(1, 1, leg.sent)


async def test_a_hole_in_what_arrives_live_is_filled_from_the_tail(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.emit(leg, delta("lost on the way"), live=False)
        await stage.emit(leg, delta("seen"))
        assert await events(response, 2) == numbered(1, 2, leg.sent[1:])


async def test_a_tail_that_could_not_be_read_is_read_again(
    settings: Settings, stage: Backstage, redis_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
):
    """Nothing may come live or be committed while a model thinks: what Redis holds must not wait for that."""
    proxy = await tcp_proxy(redis_url)
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, delta("in the tail"), live=False)
    behind = settings.model_copy(update={"redis_url": SecretStr(proxy.url(redis_url))})
    await proxy.refuse()
    async with serving(behind) as front, front.stream(EVENTS) as response:
        assert await events(response, 1) == numbered(1, 1, leg.sent[:1])
        await proxy.accept()
        assert await events(response, 1) == numbered(1, 2, leg.sent[1:])


async def test_a_hole_without_redis_waits_for_the_commit(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.emit(leg, delta("lost"), live=False, tail=False)
        await stage.emit(leg, delta("beyond the hole"), tail=False)
        await stage.emit(leg, delta("beyond it, too"), tail=False)
        silence = asyncio.create_task(events(response, 3))
        done, _ = await asyncio.wait([silence], timeout=0.5)
        assert not done
        await stage.commit(leg)
        assert await silence == numbered(1, 2, leg.sent[1:])


async def test_a_lost_last_batch_is_found_at_the_heartbeat(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.close(leg, live=False)
        assert await events(response) == numbered(1, 2, [finished()])


async def test_repeated_and_overlapping_batches_are_seen_once(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        first = await stage.emit(leg, delta("a"), delta("b"))
        key = leg.key
        await stage.lanes.publish(key.session_id, key.run_id, key.leg, first, EventId(1, 1), False)
        leg.sent = leg.sent[:2]  # b goes again, with c
        await stage.emit(leg, delta("b"), delta("c"), tail=False)
        await stage.close(leg)
        assert await events(response) == numbered(1, 2, [delta("a"), delta("b"), delta("c"), finished()])


async def test_cut_and_resumed_at_every_id_nothing_is_missing_or_doubled(front: Front, stage: Backstage):
    leg = await played(stage)
    whole = numbered(1, 1, leg.sent)
    for cut in range(1, len(whole)):
        async with front.stream(EVENTS, headers={"Last-Event-ID": whole[cut - 1][0]}) as response:
            assert await events(response) == whole[cut:]
        async with front.stream(EVENTS, params={"after": whole[cut - 1][0]}) as response:
            assert await events(response) == whole[cut:]
    assert (await front.call("GET", EVENTS, headers={"Last-Event-ID": whole[-1][0]})).status == 204


async def test_the_header_is_newer_than_the_url(front: Front, stage: Backstage):
    leg = await played(stage)
    async with front.stream(EVENTS, params={"after": "1-1"}, headers={"Last-Event-ID": "1-4"}) as response:
        assert await events(response) == numbered(1, 1, leg.sent)[4:]


async def test_cut_in_the_tail_and_resumed_there(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, delta("a"), delta("b"), delta("c"))
    for cut in range(1, 4):
        async with front.stream(EVENTS, params={"after": f"1-{cut}"}) as response:
            assert await events(response, 4 - cut) == numbered(1, 1, leg.sent)[cut:]


@pytest.mark.parametrize(
    "cursor",
    ["x", "1", "1-", "-1", "1-1-1", "1_0-2", "１-2", "9" * 50 + "-1", "9" * 30 + "-1", f"{2**63}-1", f"1-{2**63}"],
)
async def test_a_malformed_cursor_is_a_400(front: Front, stage: Backstage, cursor: str):
    await played(stage)
    answer = await front.call("GET", EVENTS, params={"after": cursor})
    assert (answer.status, answer.json["code"]) == (400, "INVALID_INPUT")


async def test_a_cursor_of_an_epoch_that_nobody_was_given_is_a_409(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, delta("a"))
    for cursor in ("2-1", "999-999"):
        answer = await front.call("GET", EVENTS, params={"after": cursor})
        assert (answer.status, answer.json["code"]) == (409, "CONFLICT")


async def test_cut_in_events_that_only_the_lane_had_and_resumed_there(front: Front, stage: Backstage):
    """Redis was away while they were sent, and is back with what it had before."""
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, delta("a"), tail=False, live=False)
    await stage.emit(leg, delta("b"), tail=False, live=False)
    async with front.stream(EVENTS, params={"after": "1-3"}) as response:
        await listening(front)
        await stage.close(leg)
        assert await events(response) == numbered(1, 4, leg.sent[3:])


async def test_a_paused_run_streams_one_leg_at_a_time(front: Front, stage: Backstage):
    first = await stage.add_run()
    await stage.begin(first)
    await stage.close(first, {"type": "RUN_FINISHED", "threadId": "t1", "runId": "r1"}, status="awaiting_input")
    assert (await front.call("GET", EVENTS, params={"after": "1-2"})).status == 204
    second = await stage.add_leg(first, "r2")
    async with front.stream(EVENTS, params={"after": "1-2"}) as response:
        await stage.begin(second, 2)
        await stage.close(second)
        assert await events(response) == numbered(2, 1, second.sent)
    async with front.stream(EVENTS, params={"after": "0-0"}) as response:
        assert await events(response) == numbered(1, 1, first.sent)
    for run in ("r1", "r2"):
        async with front.stream(f"/api/v1/agent/runs/{run}/events?from=start") as response:
            assert await events(response) == numbered(2, 1, second.sent)


async def test_events_of_other_runs_of_the_session_are_not_shown(front: Front, stage: Backstage):
    first = await played(stage)
    second = await stage.add_run(run="r2")
    second.log = first.log
    async with front.stream("/api/v1/agent/runs/r2/events", params={"after": str(first.log)}) as response:
        await listening(front)
        await stage.begin(second, 2)
        await stage.close(second)
        assert await events(response) == numbered(2, 1, second.sent)
    assert (await front.call("GET", EVENTS, params={"after": "2-1"})).status == 204


async def test_a_run_that_never_started_gets_its_end_from_its_row(front: Front, stage: Backstage):
    for run, columns, end in (
        ("r1", {"status": "cancelled"}, {"type": "RUN_FINISHED", "threadId": "t1", "runId": "r1"}),
        (
            "r2",
            {"status": "failed", "error_code": "START_DEADLINE", "error_message": "too late"},
            {"type": "RUN_ERROR"},
        ),
    ):
        await stage.add_run(run=run, **columns)
        async with front.stream(f"/api/v1/agent/runs/{run}/events?from=start") as response:
            (first_id, first), (last_id, last) = await events(response)
        assert (first_id, last_id) == (None, None)
        assert first["type"] == "RUN_STARTED"
        assert end.items() <= last.items()
        assert last.get("code") == columns.get("error_code")


async def test_a_waiting_reader_learns_that_its_run_ended_without_an_event(front: Front, stage: Backstage):
    leg = await stage.add_run()
    async with front.stream(EVENTS) as response:
        await listening(front)
        await stage.execute(update(t.RunRow).where(t.RunRow.id == leg.key.run_id).values(status="cancelled"))
        assert [event["type"] for _, event in await events(response)] == ["RUN_STARTED", "RUN_FINISHED"]


async def test_a_poke_makes_readers_look(settings: Settings, stage: Backstage):
    patient = settings.model_copy(update={"http": settings.http.model_copy(update={"heartbeat": 600})})
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(patient) as front, front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.close(leg, live=False)
        await stage.lanes.poke(leg.key.session_id)
        assert await events(response) == numbered(1, 2, [finished()])


async def test_readers_of_a_deleted_session_are_told(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.execute(delete(t.RunRow).where(t.RunRow.id == leg.key.run_id))
        gone = update(t.SessionRow).where(t.SessionRow.id == leg.key.session_id)
        await stage.execute(gone.values(deleted_at=func.now()))
        [(event_id, event)] = await events(response)
    assert (event_id, event["type"], event["code"]) == (None, "RUN_ERROR", "SESSION_DELETED")


async def test_a_run_that_ended_without_an_end_of_its_leg_is_ended_from_its_row(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.execute(update(t.RunRow).values(status="failed", error_code="LOST", error_message="It is lost."))
        await stage.lanes.poke(leg.key.session_id)
        assert await events(response) == [(None, {"type": "RUN_ERROR", "message": "It is lost.", "code": "LOST"})]


async def test_silence_is_filled_with_comments(front: Front, stage: Backstage):
    await stage.add_run()
    async with front.stream(EVENTS) as response:
        async for event_id, data in frames(response):
            assert (event_id, data) == (None, b": keep-alive")
            break


async def test_leaving_ends_the_reader_and_nothing_else(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with front.stream(EVENTS) as response:
        await events(response, 1)
    await listening(front, 0)
    await stage.close(leg)
    async with front.stream(EVENTS) as response:
        assert await events(response) == numbered(1, 1, leg.sent)


async def test_shutdown_sends_readers_elsewhere(settings: Settings, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(settings) as front, front.stream(EVENTS) as response:
        await events(response, 1)
        stopping = asyncio.create_task(front.runner.cleanup())
        assert [frame async for frame in frames(response) if frame[1] != b": keep-alive"] == [(None, b"retry: 1000")]
        await stopping


async def test_a_front_that_lost_the_broker_reads_the_log_and_comes_back(
    settings: Settings, stage: Backstage, tcp_proxy
):
    proxy: TcpProxy = await tcp_proxy(settings.required_amqp_url())
    behind = make_settings(
        settings.required_database_url(),
        settings.required_redis_url(),
        settings.redis_prefix,
        proxy.url(settings.required_amqp_url()),
        heartbeat=600,
    )
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(behind) as front, front.stream(EVENTS) as response:
        await events(response, 1)
        hub = front.app[SERVICES].sources.hub
        await proxy.disconnect_all()
        await until(lambda: not hub.connected)
        await stage.emit(leg, delta("went past"))
        assert await events(response, 1) == numbered(1, 2, [delta("went past")])
        await until(lambda: hub.connected)
        await stage.emit(leg, delta("live again"), tail=False)
        await stage.close(leg)
        assert await events(response) == numbered(1, 3, [delta("live again"), finished()])


async def test_a_ticket_opens_the_stream_without_a_header(front: Front, stage: Backstage):
    leg = await played(stage)
    issued = await front.call("POST", "/api/v1/agent/runs/r1/ticket")
    assert issued.status == 201
    async with front.http.get(front.url + issued.json["events_url"] + "&from=start") as response:
        assert await events(response) == numbered(1, 1, leg.sent)
    assert (await front.call("GET", EVENTS, as_={}, params={"ticket": "x"})).status == 401
    await stage.add_run(run="r2")
    other = f"/api/v1/agent/runs/r2/events?ticket={issued.json['ticket']}"
    assert (await front.call("GET", other, as_={})).status == 401
    assert (await front.call("POST", "/api/v1/agent/runs/r1/ticket", as_=headers("bob"))).status == 404


async def test_an_older_reader_gets_the_older_form_under_the_same_ids(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.close(leg, finished() | {"outcome": {"type": "cancelled"}}, status="cancelled")
    async with front.stream(EVENTS, params={"protocol": "0.0.59"}) as response:
        assert (await events(response))[-1] == (
            "1-2",
            {"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "abort"},
        )
    async with front.stream(EVENTS) as response:
        assert await events(response) == numbered(1, 1, leg.sent)


async def test_without_redis_streams_come_from_log_and_lanes(
    postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str, stage: Backstage
):
    settings = make_settings(postgres_url, None, redis_prefix, embedded_amqp_url)
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(settings) as front, front.stream(EVENTS) as response:
        await events(response, 1)
        await stage.emit(leg, delta("live"))
        await stage.close(leg)
        assert await events(response) == numbered(1, 2, [delta("live"), finished()])


async def test_a_page_of_events_ends_where_it_grows_large(front: Front, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    for number in range(6):
        await stage.emit(leg, delta(f"{number}{'x' * 100_000}"))
        await stage.commit(leg)
    path, after, seen, pages = "/api/v1/agent/sessions/t1/events", "0-0", list[str](), 0
    while after is not None:
        page = (await front.call("GET", path, params={"after": after})).json
        seen += [one["id"] for one in page["events"]]
        after, pages = page["next"], pages + 1
    assert seen == [f"1-{seq}" for seq in range(1, 8)]
    assert pages == 2
