"""The client reads from a real front through a network that breaks: every event once, in order, to the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import update

from callboard_http.deps import DEPS, SERVICES
from callboard_runtime.client import (
    CallboardClient,
    Event,
    EventId,
    EventsMissing,
    EventStream,
    Gone,
    NotFound,
    Patience,
    ServerLost,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
)
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import AuthSettings, Settings
from services import TcpProxy
from waiting import until

from .http_harness import (
    Backstage,
    Front,
    Leg,
    delta,
    finished,
    headers,
    serving,
)

PATIENCE = Patience(total=20, first=0.01, longest=0.1)
Proxies = Callable[[str], Awaitable[TcpProxy]]


def token() -> str:
    return headers()["Authorization"].removeprefix("Bearer ")


def client_of(url: str, patience: Patience = PATIENCE) -> CallboardClient:
    return CallboardClient(url, token=token, patience=patience)


async def collect(stream: EventStream) -> list[Event]:
    async with asyncio.timeout(40):
        return [event async for event in stream]


async def listening(front: Front) -> None:
    await until(lambda: len(front.app[DEPS].streams) == 1 and front.app[SERVICES].sources.hub.connected)


async def played(stage: Backstage, words: int) -> Leg:
    """A whole leg in the log."""
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, *(delta(f"w{number} ") for number in range(words)))
    await stage.commit(leg)
    await stage.close(leg)
    return leg


def ids(events: list[Event]) -> list[str]:
    return [str(event.id) for event in events]


async def test_a_stream_ends_with_the_closing_event(front: Front, stage: Backstage) -> None:
    leg = await played(stage, 3)
    async with client_of(front.url) as client:
        stream = client.events("r1")
        found = await collect(stream)
        assert [event.data for event in found] == leg.sent
        assert ids(found) == ["1-1", "1-2", "1-3", "1-4", "1-5"]
        assert found[-1].closing
        assert (stream.connections, stream.repeated, stream.last_id) == (1, 0, (1, 5))
        rest = await collect(client.events("r1", after="1-3"))
        assert ids(rest) == ["1-4", "1-5"]
        assert await collect(client.events("r1", after=EventId(1, 5))) == [], "204: nothing follows"


@pytest.mark.parametrize("seed", range(4))
async def test_cuts_at_random_points_lose_and_repeat_nothing(
    front: Front, stage: Backstage, tcp_proxy: Proxies, seed: int
) -> None:
    """Events are committed, in the tail or live only while the connection is cut again and again."""
    chance = random.Random(seed)
    proxy = await tcp_proxy(front.url)
    leg = await stage.add_run()
    await stage.begin(leg)
    async with client_of(proxy.url(front.url)) as client:
        stream = client.events("r1")
        reading = asyncio.create_task(collect(stream))
        for number in range(60):
            await stage.emit(leg, *(delta(f"{number}.{part} ") for part in range(chance.randint(1, 4))))
            if chance.random() < 0.4:
                await stage.commit(leg)
            if chance.random() < 0.25:
                await proxy.disconnect_all()
            await asyncio.sleep(chance.choice((0, 0, 0.005, 0.02)))
        await stage.close(leg)
        found = await reading
    assert [event.data for event in found] == leg.sent
    assert ids(found) == [f"1-{seq}" for seq in range(1, len(leg.sent) + 1)]
    assert stream.connections > 2


async def test_a_replay_that_is_cut_in_mid_frame_goes_on_behind_its_last_event(
    front: Front, stage: Backstage, tcp_proxy: Proxies
) -> None:
    """Megabytes through a slow network: connections break inside frames."""
    leg = await stage.add_run()
    await stage.begin(leg)
    for _ in range(20):
        await stage.emit(leg, *(delta("x" * 20_000) for _ in range(10)), live=False, tail=False)
        await stage.commit(leg)
    await stage.close(leg)
    proxy = await tcp_proxy(front.url)
    proxy.delay(0.002)
    async with client_of(proxy.url(front.url)) as client:
        stream = client.events("r1")
        found: list[Event] = []
        cuts = iter(range(0, 200, 37))
        cut_at = next(cuts)
        async with asyncio.timeout(60):
            async for event in stream:
                found.append(event)
                if len(found) > cut_at:
                    cut_at = next(cuts, 10_000)
                    await proxy.disconnect_all()
    assert [event.data for event in found] == leg.sent
    assert stream.connections > 3


async def test_disconnecting_on_purpose_is_a_cut(front: Front, stage: Backstage) -> None:
    leg = await played(stage, 30)
    async with client_of(front.url) as client:
        stream = client.events("r1")
        found: list[Event] = []
        async for event in stream:
            found.append(event)
            if len(found) % 10 == 0:
                stream.disconnect()
    assert [event.data for event in found] == leg.sent
    assert stream.connections == 4
    assert stream.repeated == 0


async def test_a_front_that_goes_away_and_comes_back(settings: Settings, stage: Backstage, tcp_proxy: Proxies) -> None:
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(settings) as first:
        proxy = await tcp_proxy(first.url)
        async with client_of(proxy.url(first.url)) as client:
            stream = client.events("r1")
            reading = asyncio.create_task(collect(stream))
            await listening(first)
            await stage.emit(leg, delta("before"))
            await until(lambda: stream.last_id == (1, 2))
            await proxy.refuse()
            await stage.emit(leg, delta("meanwhile"))
            await stage.close(leg)
            await proxy.accept()
            assert [event.data for event in await reading] == leg.sent


async def test_a_draining_front_sends_its_readers_elsewhere(settings: Settings, stage: Backstage) -> None:
    """The front ends the stream with `retry:`, and answers 503 from there on: the client waits and comes back."""
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(settings) as running, client_of(running.url) as client:
        stream = client.events("r1")
        reading = asyncio.create_task(collect(stream))
        await listening(running)
        await until(lambda: stream.last_id == (1, 1))
        streams = running.app[DEPS].streams
        await streams.drain()
        await until(lambda: stream.connections > 1)
        streams.draining = False
        await stage.close(leg)
        assert [event.data for event in await reading] == leg.sent


async def test_patience_ends_with_the_reason(front: Front, stage: Backstage, tcp_proxy: Proxies) -> None:
    leg = await stage.add_run()
    await stage.begin(leg)
    proxy = await tcp_proxy(front.url)
    async with client_of(proxy.url(front.url), Patience(total=0.3, first=0.01)) as client:
        stream = client.events("r1")
        assert (await anext(aiter(stream))).type == "RUN_STARTED"
        await proxy.refuse()
        with pytest.raises(ServerLost):
            await collect(stream)
        front.app[DEPS].streams.draining = True
        await proxy.accept()
        with pytest.raises(Unavailable) as caught:
            await collect(client.events("r1"))
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "UNAVAILABLE", 1.0)


async def test_a_silent_connection_is_replaced(front: Front, stage: Backstage, tcp_proxy: Proxies) -> None:
    """Frozen, not closed: only silence tells, as the front says something at every heartbeat."""
    leg = await stage.add_run()
    await stage.begin(leg)
    proxy = await tcp_proxy(front.url)
    async with client_of(proxy.url(front.url)) as client:
        stream = client.events("r1", silence=0.8)
        reading = asyncio.create_task(collect(stream))
        await until(lambda: stream.last_id == (1, 1))
        proxy.pause()
        await until(lambda: stream.connections > 1)
        await proxy.disconnect_all()
        proxy.resume()
        await stage.close(leg)
        assert [event.data for event in await reading] == leg.sent


async def test_each_leg_is_a_stream(front: Front, stage: Backstage) -> None:
    first = await stage.add_run()
    await stage.begin(first)
    await stage.close(first, status="awaiting_input")
    second = await stage.add_leg(first, "r1")
    await stage.begin(second, 2)
    await stage.close(second)
    async with client_of(front.url) as client:
        assert ids(await collect(client.events("r1"))) == ["2-1", "2-2"], "without a cursor: the latest leg"
        assert ids(await collect(client.events("r1", after="1-1"))) == ["1-2"]
        assert ids(await collect(client.events("r1", after="1-2"))) == ["2-1", "2-2"]


async def test_a_takeover_is_followed_into_its_epoch(front: Front, stage: Backstage) -> None:
    leg = await stage.add_run()
    await stage.begin(leg)
    async with client_of(front.url) as client:
        stream = client.events("r1")
        reading = asyncio.create_task(collect(stream))
        await listening(front)
        await stage.emit(leg, {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"})
        await stage.commit(leg)
        await stage.emit(leg, delta("never committed"))
        await until(lambda: stream.last_id == (1, 3))
        end = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
        await stage.begin(leg, 2, end, {"type": "MESSAGES_SNAPSHOT", "messages": []})
        await stage.close(leg)
        found = await reading
    logged = [event for event in found if event.id]
    assert [event.id for event in logged][:3] == [(1, 1), (1, 2), (1, 3)]
    assert [event.data for event in found].count(end) == 1
    assert found[-1].data == finished()
    assert [event.id for event in logged][-1] == (2, 3)


async def test_a_snapshot_stands_for_what_led_to_it(front: Front, stage: Backstage) -> None:
    """A leg under way is shown as it stands; the stream goes on from there, also after a cut."""
    leg = await stage.add_run()
    await stage.begin(leg)
    await stage.emit(leg, {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}, delta("so far"))
    async with client_of(front.url) as client:
        stream = client.events("r1", snapshot=True)
        reading = asyncio.create_task(collect(stream))
        await until(lambda: stream.last_id == (1, 3))
        stream.disconnect()
        await stage.emit(leg, delta(" and on"), {"type": "TEXT_MESSAGE_END", "messageId": "m1"})
        await stage.close(leg)
        found = await reading
    shown = next(event for event in found if event.type == "MESSAGES_SNAPSHOT")
    assert shown.data["messages"][-1]["content"] == "so far"
    assert "".join(event.delta for event in found) == " and on"
    assert [event.id for event in found if event.id] == [(1, seq) for seq in range(3, 7)]
    assert (found[0].type, found[-1].type) == ("RUN_STARTED", "RUN_FINISHED")


async def test_a_run_that_never_started_is_told_without_ids(front: Front, stage: Backstage) -> None:
    await stage.add_run(status="failed", error_code="CONFIG_INVALID", error_message="no such agent")
    async with client_of(front.url) as client:
        found = await collect(client.events("r1"))
    assert [(event.id, event.type) for event in found] == [(None, "RUN_STARTED"), (None, "RUN_ERROR")]


async def test_refusals_are_typed(front: Front, stage: Backstage) -> None:
    leg = await played(stage, 1)
    async with client_of(front.url) as client:
        with pytest.raises(NotFound) as caught:
            await collect(client.events("of-nobody"))
        assert (caught.value.code, caught.value.status) == ("NOT_FOUND", 404)
        row = t.SessionRow
        await stage.execute(update(row).where(row.id == leg.key.session_id).values(deleted_at=utcnow()))
        with pytest.raises(Gone):
            await collect(client.events("r1"))
    async with CallboardClient(front.url, token="nonsense") as stranger:
        with pytest.raises(Unauthenticated, match="token"):
            await collect(stranger.events("r1"))


# -- servers that are wrong -------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(body: bytes, content_type: str = "text/event-stream") -> AsyncIterator[str]:
    """A server that says this to everybody."""

    async def say(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/{path:.*}", say)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/under/a/path/"
    await runner.cleanup()


async def test_a_gap_is_raised_and_the_cursor_stays_before_it() -> None:
    body = b'id: 1-1\ndata: {"type":"RUN_STARTED"}\n\nid: 1-3\ndata: {"type":"RUN_FINISHED"}\n\n'
    async with answering(body) as url, client_of(url) as client:
        stream = client.events("r1")
        with pytest.raises(EventsMissing, match="1-3 does not follow 1-1"):
            await collect(stream)
        assert stream.last_id == (1, 1)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>welcome</html>", "text/html"),
        (b"id: 1-1\ndata: {not json\n\n", "text/event-stream"),
        (b'id: one\ndata: {"type":"RUN_STARTED"}\n\n', "text/event-stream"),
    ],
)
async def test_what_is_no_event_stream_is_said(body: bytes, content_type: str) -> None:
    async with answering(body, content_type) as url, client_of(url) as client:
        with pytest.raises(UnexpectedAnswer):
            await collect(client.events("r1"))
        with pytest.raises(UnexpectedAnswer):
            await client.get_run("r1")


async def test_the_token_is_asked_for_at_every_connection(settings: Settings, stage: Backstage) -> None:
    leg = await played(stage, 10)
    given: list[str] = []

    async def fresh() -> str:
        given.append(token())
        return given[-1]

    auth = AuthSettings(jwt_secret=SecretStr("another secret of more than thirty-two bytes"))
    async with serving(settings) as running, serving(settings.model_copy(update={"auth": auth})) as other:
        async with CallboardClient(running.url, token=fresh, patience=PATIENCE) as client:
            stream = client.events("r1")
            async for event in stream:
                if event.id == (1, 5):
                    stream.disconnect()
            assert stream.connections == len(given) == 2
            assert stream.last_id == (1, len(leg.sent))
        async with CallboardClient(other.url, token=fresh, patience=PATIENCE) as refused:
            with pytest.raises(Unauthenticated):
                await collect(refused.events("r1"))
