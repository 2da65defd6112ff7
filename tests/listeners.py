"""Readers of event streams by the thousand in one process, as cheap as sockets allow; each checks what it is sent."""

import asyncio
import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import cast
from urllib.parse import urlsplit

FRAME = re.compile(rb"^id: (\d+)-(\d+)\ndata: (.*)$", re.MULTILINE)
SAID_AT = re.compile(rb'"at":([\d.]+)')
REFUSED = b"503"


def request(url: str, path: str, token: str, *, after: int = 0) -> bytes:
    """An HTTP request for the stream at `path`, or for what follows event `after` of epoch 1."""
    head = f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"
    cursor = f"Last-Event-ID: 1-{after}\r\n" if after else ""
    return f"{head}{cursor}Accept: text/event-stream\r\n\r\n".encode()


class Listener(asyncio.Protocol):
    """One stream of one epoch: counts its events, and notes every one that is not the successor of the one before."""

    def __init__(self, asked: bytes, *, after: int = 0, timed: bool = False) -> None:
        """`after`: the last event that it does not ask for.

        `timed`: note how long the newest event of each arrival took from its speaker, in `delays` (seconds).
        """
        self.count = 0
        self.wrong: list[tuple[int, int]] = []  # what was due, and what came
        self.delays: list[float] = []
        self.last_at = 0.0  # when the newest event came
        self.refusals = 0  # how often the front sent it away before it was let in
        self.lost = False
        self.beats = 0
        self._asked, self._rest, self._timed = asked, b"", timed
        self._after = after
        self._digest = hashlib.blake2b(digest_size=16)
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data[9:12])
        text = self._rest + data
        end = text.rfind(b"\n\n") + 2
        whole, self._rest = (text[:end], text[end:]) if end > 1 else (b"", text)
        found = FRAME.findall(whole)
        for _, seq, line in found:
            self._take(int(seq), line)
        if found:
            self._note(found[-1][2])
        else:
            self.beats += whole.count(b": keep-alive")

    def _take(self, seq: int, line: bytes) -> None:
        due = self._after + self.count + 1
        if seq != due:
            self.wrong.append((due, seq))
        self.count += 1
        self._digest.update(line)

    def _note(self, newest: bytes) -> None:
        self.last_at = time.perf_counter()
        if self._timed and (said := SAID_AT.search(newest)):
            self.delays.append(self.last_at - float(said[1]))
        if self._reached is not None and self.count >= self._wanted and not self._reached.done():
            self._reached.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._gone.set()
        if not self.answered.done():
            self.answered.set_result(b"")
        if self._reached is not None and not self._reached.done():
            self._reached.set_result(None)

    @property
    def digest(self) -> bytes:
        """Of all lines, in the order of their coming."""
        return self._digest.digest()

    def reach(self, count: int) -> asyncio.Future[None]:
        """Done when so many events have come, or never will."""
        self._wanted, self._reached = count, asyncio.get_running_loop().create_future()
        if self.count >= count or self.lost:
            self._reached.set_result(None)
        return self._reached

    async def close(self) -> None:
        """Cut the connection; returns when it is gone."""
        self.transport.abort()
        await self._gone.wait()


def digest(lines: Iterable[str]) -> bytes:
    """What a listener's digest is once it was sent exactly these."""
    whole = hashlib.blake2b(digest_size=16)
    for line in lines:
        whole.update(line.encode())
    return whole.digest()


async def listen(
    url: str, requests: Sequence[bytes], *, after: int = 0, at_once: int = 100, timed: int = 0
) -> list[Listener]:
    """A listener for each request, once all are answered; every `timed`-th notes its delays.

    All of them ask for what follows event `after`. One that is refused comes back after a second, as the front asks it
    to. Raises RuntimeError for any other answer.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, asked: bytes) -> Listener:
        refusals = 0
        while True:
            async with gate:
                listener = Listener(asked, after=after, timed=bool(timed) and number % timed == 0)
                status = await _connect(url, listener)
            if status == b"200":
                listener.refusals = refusals
                return listener
            await listener.close()
            if status != REFUSED:
                raise RuntimeError(f"the front answered {status!r}")
            refusals += 1
            await asyncio.sleep(1)

    return list(await asyncio.gather(*(one(number, asked) for number, asked in enumerate(requests))))


async def _connect(url: str, listener: Listener) -> bytes:
    """The status that it is answered with; empty if the connection is cut before."""
    host, _, port = urlsplit(url).netloc.partition(":")
    await asyncio.get_running_loop().create_connection(lambda: listener, host, int(port))
    return await listener.answered


async def all_reach(listeners: Sequence[Listener], count: int, seconds: float = 60.0) -> int:
    """Wait until every listener has so many events; returns how many never got there."""
    waiting = [listener.reach(count) for listener in listeners]
    await asyncio.wait(waiting, timeout=seconds)
    return sum(listener.count < count for listener in listeners)


async def close_all(listeners: Iterable[Listener]) -> None:
    await asyncio.gather(*(listener.close() for listener in listeners))
