"""Users of any chat system that speaks AG-UI: one request in, its events out, timed as they arrive."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson

TIMEOUT = 120.0  # seconds for one run


@dataclass(frozen=True)
class Target:
    """Where runs are posted."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Visit:
    """One run as its user saw it; seconds since the request, the arrivals of text in order."""

    arrivals: list[float] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)  # the first arrival of each type of event
    text: list[str] = field(default_factory=list)
    total: float = 0.0
    error: str | None = None


def run_input(text: str, run: str | None = None) -> dict[str, object]:
    run = run or uuid.uuid4().hex
    return {
        "threadId": f"thread-{run}",
        "runId": run,
        "protocolVersion": "1.0",
        "state": {},
        "messages": [{"id": f"message-{run}", "role": "user", "content": text}],
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }


def session() -> aiohttp.ClientSession:
    """A client without a limit on connections."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


async def visit(http: aiohttp.ClientSession, target: Target, body: dict[str, object], expected: int) -> Visit:
    """One run to its end; an error when it fails, or when its text is not `expected` words in order."""
    seen = Visit()
    began = time.perf_counter()
    try:
        async with http.post(target.url, json=body, headers=target.headers) as response:
            if response.status != 200:
                seen.error = f"HTTP {response.status}"
                return seen
            await _read(response, seen, began)
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.error = type(error).__name__
    seen.total = time.perf_counter() - began
    if seen.error is None and "".join(seen.text).split() != [f"word{number}" for number in range(expected)]:
        seen.error = "the text is not whole"
    return seen


async def _read(response: aiohttp.ClientResponse, seen: Visit, began: float) -> None:
    rest = b""
    async for chunk in response.content.iter_any():
        now = time.perf_counter() - began
        *frames, rest = (rest + chunk).split(b"\n\n")
        for event in filter(None, map(_event, frames)):
            kind = event["type"]
            seen.marks.setdefault(kind, now)
            if kind == "TEXT_MESSAGE_CONTENT":
                seen.arrivals.append(now)
                seen.text.append(event["delta"])
            elif kind == "RUN_ERROR":
                seen.error = str(event.get("code") or event.get("message"))


def _event(frame: bytes) -> dict[str, str] | None:
    _, found, data = frame.partition(b"data: ")
    return orjson.loads(data) if found else None


async def crowd(
    target: Target, text: str, *, tokens: int, runs: int, at_once: int, over: float = 0.0
) -> tuple[list[Visit], float]:
    """`runs` runs, `at_once` at a time; returns them and how many seconds it took.

    Users begin evenly spread over `over` seconds, and come again as soon as they have their answer.
    """
    left = itertools.count(1)
    visits: list[Visit] = []
    async with session() as http:

        async def user(number: int) -> None:
            await asyncio.sleep(over * number / at_once)
            while next(left) <= runs:
                visits.append(await visit(http, target, run_input(text), tokens))

        began = time.perf_counter()
        await asyncio.gather(*map(user, range(at_once)))
        return visits, time.perf_counter() - began
