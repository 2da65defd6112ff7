"""Clients that are slow, endless, too large or no longer who they were: each is bounded, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import logging
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from callboard_http import cli, streaming
from callboard_runtime.settings import Settings
from waiting import until

from .http_harness import (
    PATIENCE,
    Backstage,
    Front,
    delta,
    events,
    finished,
    headers,
    numbered,
)

RUNS = "/api/v1/agent/runs"
QUICK = {"body_timeout": 0.3, "idle_timeout": 0.5, "max_messages": 5, "max_streams": 3, "max_streams_per_user": 2}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"http": settings.http.model_copy(update=QUICK)})


@pytest.fixture
async def process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The port of a front as `callboard http` serves it."""
    monkeypatch.setattr(cli, "STALLED", 1.0)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serve = cli.serve(
        settings.model_copy(update={"http": settings.http.model_copy(update={"port": 0})}), port.set_result
    )
    task = asyncio.create_task(serve)
    try:
        yield await asyncio.wait_for(port, PATIENCE)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def raw(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that the front says to these bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(_all(reader))
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
    async with asyncio.timeout(PATIENCE):
        said = await answer
    writer.close()
    return said


async def _all(reader: asyncio.StreamReader) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65_536):
            said += part
    return said


def head(path: str = RUNS, method: str = "POST", **more: str) -> bytes:
    given = {"Host": "localhost", **headers(), **{name.replace("_", "-"): value for name, value in more.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


# -- slow clients -----------------------------------------------------------------------------------------------------


async def test_a_head_that_trickles_in_is_cut_off(process: int) -> None:
    """Byte by byte, for longer than the front waits: it closes the connection and has answered nothing."""
    assert await raw(process, b"GET /healthz HTTP/1.1\r\nX-Slow: ", *[b"a"] * 6, pause=0.15) == b""
    assert await raw(process) == b""
    assert b"200 OK" in await raw(process, head("/healthz", "GET", Connection="close"))


async def test_a_second_head_on_a_kept_connection_is_no_way_around_it(process: int) -> None:
    answer = await raw(process, head("/healthz", "GET"), b"GET /healthz HTTP/1.1\r\nX-Slow: ", *[b"a"] * 6, pause=0.15)
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_body_that_trickles_in_is_refused(process: int) -> None:
    answer = await raw(process, head(Content_Length="1000"), *[b"{"] * 6, pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "REQUEST_TIMEOUT"


async def test_a_client_that_takes_nothing_of_an_ordinary_answer_is_cut_off(process: int) -> None:
    """A page of the API may have megabytes: they must not be held for whoever never reads them."""
    with socket.create_connection(("127.0.0.1", process)) as client:
        client.sendall(head("/openapi.json", "GET") * 200)
        ours = client.getsockname()[1]
        await until(lambda: (process, ours) in established())
        await until(lambda: (process, ours) not in established())


def established() -> set[tuple[int, int]]:
    """The local and the remote port of this machine's open IPv4 connections."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = [[int(address.rpartition(":")[2], 16) for address in line[1:3]] for line in lines if line[3] == "01"]
    return {(local, remote) for local, remote in port}


async def test_a_body_is_only_read_for_those_who_may_send_one(process: int) -> None:
    head_of_nobody = b"POST /api/v1/agent/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
    assert (await raw(process, head_of_nobody)).startswith(b"HTTP/1.1 401")


async def test_crowds_of_slow_clients_do_not_keep_others_waiting(process: int) -> None:
    slow = [asyncio.create_task(raw(process, head(Content_Length="9"), b"{", pause=0.2)) for _ in range(50)]
    quick = await asyncio.gather(*(raw(process, head("/healthz", "GET", Connection="close")) for _ in range(20)))
    assert all(b"200 OK" in answer for answer in quick)
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in await asyncio.gather(*slow))


# -- large requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        head("/" + "a" * 10_000, "GET"),
        head("/healthz", "GET", X_Large="a" * 20_000),
        head("/healthz", "GET", **{f"X_{number}": "a" for number in range(200)}),
    ],
    ids=["path", "header", "headers"],
)
async def test_a_head_is_bounded(process: int, sent: bytes) -> None:
    assert b" 400 " in (await raw(process, sent)).partition(b"\r\n")[0]


async def test_what_is_no_request_is_refused_and_its_head_is_not_logged(
    process: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A parser's complaint repeats the line that it is about, which may be the one with the token."""
    broken = head("/healthz", "GET").replace(b"Bearer ", b"Bearer \x00")
    secret = headers()["Authorization"].removeprefix("Bearer ")[:40]
    with caplog.at_level(logging.DEBUG):
        for sent in (
            broken,
            b"\x00\x01\x02\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nA\x00: b\r\n\r\n",
        ):
            assert b" 400 " in (await raw(process, sent)).partition(b"\r\n")[0], sent
    assert secret not in caplog.text
    assert "malformed" in caplog.text
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_smuggled_requests_are_refused(process: int) -> None:
    both = head(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await raw(process, both)
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"callboard_http" not in answer


async def test_a_body_without_an_announced_length_is_bounded(front: Front) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    with contextlib.suppress(aiohttp.ClientError):
        answer = await front.call("POST", RUNS, data=endless())
        assert (answer.status, answer.json["code"]) == (413, "TOO_LARGE")
    assert (await front.call("GET", "/healthz")).status == 200


async def test_a_compressed_bomb_is_bounded(front: Front) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    answer = await front.call("POST", RUNS, data=io.BytesIO(bomb), headers={"Content-Encoding": "gzip"})
    assert answer.status in (400, 413)
    assert (await front.call("GET", "/healthz")).status == 200


def run(**changes: Any) -> dict[str, Any]:
    return {"threadId": "t1", "runId": "r1", "messages": [{"id": "m1", "role": "user", "content": "x"}]} | changes


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": [{"id": f"m{n}", "role": "user", "content": "x"} for n in range(6)]}, "messages"),
        ({"runId": "r" * 201}, "runId"),
        ({"threadId": "ä"}, "threadId"),
        ({"threadId": ".."}, "threadId"),
        ({"tools": [{"name": f"t{n}"} for n in range(257)]}, "tools"),
        ({"context": [{"description": "", "value": ""}] * 257}, "context"),
        ({"resume": [{"interruptId": "i", "status": "resolved"}] * 257}, "resume"),
        ({"messages": [{"id": "m" * 201, "role": "user", "content": "x"}]}, "messages.0.id"),
    ],
)
async def test_members_are_bounded(front: Front, changes: dict[str, Any], field: str) -> None:
    answer = await front.call("POST", RUNS, json=run(**changes))
    assert (answer.status, answer.json["code"]) == (400, "INVALID_INPUT")
    assert answer.json["detail"].startswith(field)


async def test_depth_is_bounded(front: Front) -> None:
    for sent in (b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000):
        answer = await front.call("POST", RUNS, data=sent)
        assert (answer.status, answer.json["code"]) == (400, "INVALID_INPUT")


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_streams_are_bounded_for_one_user_and_for_all(front: Front, stage: Backstage) -> None:
    for user in ("ada", "bob"):
        await stage.begin(await stage.add_run(user=user, run=f"{user}-run", thread=f"{user}-thread"))
    async with contextlib.AsyncExitStack() as stack:
        for user in ("ada", "ada", "bob"):
            path = f"{RUNS}/{user}-run/events?from=start"
            response = await stack.enter_async_context(front.stream(path, as_=headers(user)))
            await events(response, 1)
        own = await front.call("GET", f"{RUNS}/ada-run/events?from=start")
        other = await front.call("GET", f"{RUNS}/bob-run/events?from=start", as_=headers("bob"))
        assert (own.status, own.json["code"]) in ((429, "LIMIT_EXCEEDED"), (503, "UNAVAILABLE"))
        assert (other.status, other.json["code"]) == (503, "UNAVAILABLE")
        assert int(own.headers["Retry-After"]) > 0
        assert int(other.headers["Retry-After"]) > 0


async def test_a_stream_ends_with_its_token(front: Front, stage: Backstage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is told to come back, and has to show a new token; what was open to it before stays gapless."""
    monkeypatch.setattr(streaming, "LEEWAY", 0)
    leg = await stage.add_run()
    await stage.begin(leg)
    path = f"{RUNS}/r1/events?from=start"
    async with front.stream(path, as_=headers(seconds=1.5)) as response:
        shown = await events(response)
    assert shown == numbered(1, 1, leg.sent)
    assert (await front.call("GET", path, as_=headers(seconds=-60))).status == 401
    await stage.emit(leg, delta("went on"))
    await stage.close(leg)
    async with front.stream(f"{RUNS}/r1/events?after=1-1") as response:
        assert await events(response) == numbered(1, 2, [delta("went on"), finished()])


async def test_a_tickets_stream_ends_with_the_token_that_it_was_got_with(
    front: Front, stage: Backstage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LEEWAY", 0)
    leg = await stage.add_run()
    await stage.begin(leg)
    issued = (await front.call("POST", f"{RUNS}/r1/ticket", as_=headers(seconds=2))).json
    async with front.stream(issued["events_url"] + "&from=start", as_={}) as response:
        assert response.status == 200
        assert await events(response) == numbered(1, 1, leg.sent)

    async def expired() -> bool:
        return (await front.call("GET", issued["events_url"], as_={})).status == 401

    await until(expired, "the end of the ticket")


async def test_a_stream_of_a_token_that_lives_on_is_left_alone(front: Front, stage: Backstage) -> None:
    leg = await stage.add_run()
    await stage.begin(leg)
    far = headers(seconds=time.time() * 10)
    async with front.stream(f"{RUNS}/r1/events?from=start", as_=far) as response:
        await events(response, 1)
        await stage.close(leg)
        assert await events(response) == numbered(1, 2, [finished()])
