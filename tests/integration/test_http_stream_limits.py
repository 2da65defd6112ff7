"""What one reader, or one user, can have of a front: a slow one is bounded, cut off and misses nothing."""

from __future__ import annotations

import aiohttp
import pytest

from callboard_http.deps import DEPS
from callboard_runtime.settings import Settings

from .http_harness import Backstage, Front, delta, events, headers, listening, numbered, played, serving

EVENTS = "/api/v1/agent/runs/r1/events?from=start"


async def test_a_stalled_reader_is_bounded_and_misses_nothing(settings: Settings, stage: Backstage):
    small = settings.model_copy(update={"http": settings.http.model_copy(update={"reader_buffer_bytes": 64 * 1024})})
    leg = await stage.add_run()
    await stage.begin(leg)
    async with serving(small) as front, front.stream(EVENTS) as slow, front.stream(EVENTS) as quick:
        await listening(front, 2)
        big = "x" * 50_000
        held: list[int] = []
        seen = await events(quick, 1)
        for number in range(200):  # 10 MB: far beyond all socket buffers
            await stage.emit(leg, delta(f"{number}{big}"))
            await stage.commit(leg)
            seen += await events(quick, 1)  # at once: nobody waits for the slow one
            held += [reader._live._held for reader in front.app[DEPS].streams._readers]
        await stage.close(leg)
        whole = numbered(1, 1, leg.sent)
        assert seen + await events(quick) == whole
        assert max(held) <= 64 * 1024
        assert await events(slow) == whole


async def test_a_client_that_takes_nothing_is_cut_and_comes_back(
    front: Front, stage: Backstage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("callboard_http.sse.STALLED", 0.5)
    leg = await stage.add_run()
    await stage.begin(leg)
    for number in range(200):
        await stage.emit(leg, delta(f"{number}{'x' * 50_000}"))
        await stage.commit(leg)
    await stage.close(leg)
    async with front.stream(EVENTS) as response:
        await listening(front, 1)
        await listening(front, 0)
        with pytest.raises(aiohttp.ClientError):
            await events(response)
    async with front.stream(EVENTS) as response:
        assert await events(response) == numbered(1, 1, leg.sent)


async def test_streams_are_limited_per_user(settings: Settings, stage: Backstage):
    one = settings.model_copy(update={"http": settings.http.model_copy(update={"max_streams_per_user": 1})})
    await stage.add_run()
    await stage.add_run(user="bob")
    async with serving(one) as front, front.stream(EVENTS):
        refused = await front.call("GET", EVENTS)
        assert (refused.status, refused.json["code"]) == (429, "LIMIT_EXCEEDED")
        assert int(refused.headers["Retry-After"]) > 0
        async with front.stream(EVENTS, as_=headers("bob")) as other:
            assert other.status == 200


async def test_a_past_that_is_told_counts_as_a_stream_while_it_is(settings: Settings, stage: Backstage):
    one = settings.model_copy(update={"http": settings.http.model_copy(update={"max_streams_per_user": 1})})
    leg, past = await played(stage), "/api/v1/agent/runs/r1/events"
    await stage.add_run(run="r2")
    async with serving(one) as front:
        async with front.stream("/api/v1/agent/runs/r2/events"):
            assert (await front.call("GET", past)).status == 429
        await listening(front, 0)
        for _ in range(2):
            async with front.stream(past) as response:
                assert (await events(response))[-1] == numbered(1, 1, leg.sent)[-1]
