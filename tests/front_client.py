"""What a browser does, for tests: post runs, read event streams, come back with the last event id."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import jwt

RUNS = "/api/v1/agent/runs"
SESSIONS = "/api/v1/agent/sessions"
TAKEN_WITHIN = 60.0  # seconds
TERMINAL = frozenset({"RUN_FINISHED", "RUN_ERROR"})
JWT_SECRET = "a secret that only the tests use, long enough"

Json = dict[str, Any]


def token(user: str, **claims: Any) -> str:
    """A bearer token of `user`, valid for an hour."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600, **claims}, JWT_SECRET, algorithm="HS256")


def run_input(text: str, *, thread: str, run: str, **more: Any) -> Json:
    """A RunAgentInput with one user message."""
    message = {"id": f"{run}-user", "role": "user", "content": text}
    return {"threadId": thread, "runId": run, "protocolVersion": "1.0", "messages": [message], **more}


def fresh(kind: str) -> str:
    """An id that nobody used before."""
    return f"{kind}-{uuid.uuid4().hex[:12]}"


class NothingFollows(Exception):
    """The cursor stands at the end of the run: an EventSource stops here."""


class Withdrawn(Exception):
    """The cursor is of an event that a dead worker showed and nobody committed: start anew."""


@dataclass(frozen=True)
class Frame:
    """One server-sent event; the id is None for frames that are not in the log."""

    id: tuple[int, int] | None
    event: Json

    @property
    def type(self) -> str:
        return self.event["type"]


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None


@dataclass
class Reader:
    """Reads one run as an EventSource would: after every cut it comes back with the id of the last event it got.

    `fronts` are tried in turn, all living ones unless given; `frames` is what was shown so far.
    """

    client: "FrontClient"
    run: str
    fronts: Sequence[str] | None = None
    frames: list[Frame] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # how many frames there were when each connection began
    withdrawn: list[tuple[int, int] | None] = field(default_factory=list)  # cursors that had to be given up

    @property
    def connections(self) -> int:
        return len(self.cuts)

    @property
    def last(self) -> tuple[int, int] | None:
        return next((frame.id for frame in reversed(self.frames) if frame.id), None)

    @property
    def text(self) -> str:
        return "".join(f.event["delta"] for f in self.frames if f.type == "TEXT_MESSAGE_CONTENT")

    @property
    def logged(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.id]

    async def read(self) -> Self:
        """Read until the leg's closing event, or until nothing follows, over any number of connections."""
        while not self._over:
            self.cuts.append(len(self.frames))
            try:
                async for frame in self.client.events(self.run, self.last, base=self._front):
                    self.frames.append(frame)
            except NothingFollows:
                break
            except Withdrawn:
                self.withdrawn.append(self.last)
                self.frames.clear()
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)  # as `retry:` makes a browser wait
        return self

    @property
    def _front(self) -> str:
        fronts = self.fronts or self.client.bases
        return fronts[self.connections % len(fronts)]

    @property
    def _over(self) -> bool:
        return bool(self.frames) and self.frames[-1].type in TERMINAL


class FrontClient:
    """One user of one or more fronts. Use it with `async with`."""

    def __init__(self, fronts: Callable[[], Sequence[str]], user: str, **claims: Any) -> None:
        """`fronts` gives the present fronts' addresses; requests go to the first unless they say otherwise."""
        self._fronts, self.user = fronts, user
        self.headers = {"Authorization": f"Bearer {token(user, **claims)}"}
        self._readers: list[asyncio.Task[Reader]] = []
        self.turns = 0  # requests that had to be sent again
        self.refusals: list[Answer] = []  # that it was told to come back after

    @property
    def bases(self) -> list[str]:
        """The fronts that live now, as a balancer would know them."""
        return list(self._fronts()) or ["http://127.0.0.1:9"]

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        self.http = aiohttp.ClientSession(headers=self.headers, connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await self.http.close()

    async def request(self, method: str, path: str, body: Any = None, *, base: str | None = None) -> Answer:
        """One request; whatever the status is."""
        async with self.http.request(method, (base or self.bases[0]) + path, json=body) as response:
            raw = await response.read()
            parsed = json.loads(raw) if "json" in response.content_type else raw.decode()
            return Answer(response.status, parsed, dict(response.headers))

    async def post(self, body: Json, *, base: str | None = None) -> Answer:
        return await self.request("POST", RUNS, body, base=base)

    async def start(self, text: str, *, thread: str | None = None, agent: str = "chat", **more: Any) -> str:
        """Start a run of one message, at any front, and return its id; it is durable then."""
        run = fresh("run")
        props = {"agentId": agent, **more.pop("forwardedProps", {})}
        body = run_input(text, thread=thread or fresh("thread"), run=run, forwardedProps=props, **more)
        answer = await self.post_until_taken(body)
        assert answer.status == 202, answer
        assert answer.body["run_id"] == run
        return run

    async def post_until_taken(self, body: Json) -> Answer:
        """Post a run until it is taken or refused: what met a dead front or a 503 may or may not have been accepted."""
        return await self._insist("POST", RUNS, body)

    async def _insist(self, method: str, path: str, body: Any = None) -> Answer:
        """The same request at the next front, for as long as none can serve it."""
        deadline = time.monotonic() + TAKEN_WITHIN
        while True:
            try:
                answer = await self.request(method, path, body, base=self.bases[self.turns % len(self.bases)])
            except (aiohttp.ClientError, ConnectionError):
                answer = Answer(503, None, {})
            if answer.headers and answer.status in (429, 503):
                self.refusals.append(answer)
            if answer.status != 503 or time.monotonic() > deadline:
                return answer
            self.turns += 1
            await asyncio.sleep(0.1)  # as a balancer would wait before it tries again

    async def cancel(self, run: str) -> Answer:
        return await self.request("POST", f"{RUNS}/{run}/cancel")

    async def run(self, run: str) -> Json:
        return await self._get(f"{RUNS}/{run}")

    async def session(self, thread: str) -> Json:
        return await self._get(f"{SESSIONS}/{thread}")

    async def messages(self, thread: str) -> list[Json]:
        return await self._all(f"{SESSIONS}/{thread}/messages", "messages")

    async def calls(self, thread: str) -> list[Json]:
        """The provider requests of a session."""
        return await self._all(f"{SESSIONS}/{thread}/usage", "calls")

    async def log(self, thread: str) -> list[Frame]:
        """The committed events of a session."""
        items = await self._all(f"{SESSIONS}/{thread}/events", "events")
        return [Frame(_event_id(item["id"]), item["event"]) for item in items]

    async def events(
        self, run: str, after: tuple[int, int] | None = None, *, base: str | None = None
    ) -> AsyncIterator[Frame]:
        """The frames of one connection, until the server ends it.

        Raises NothingFollows for a cursor at the end, Withdrawn for one that is in no log any more, ClientResponseError
        while the front cannot serve.
        """
        headers = {"Last-Event-ID": f"{after[0]}-{after[1]}"} if after else {}
        async with self.http.get(f"{base or self.bases[0]}{RUNS}/{run}/events?from=start", headers=headers) as response:
            if response.status == 204:
                raise NothingFollows
            if response.status == 410 and after and "withdrawn" in await response.text():
                raise Withdrawn
            assert response.status == 200 or response.status >= 500, (response.status, await response.text())
            response.raise_for_status()
            async for frame in frames(response):
                yield frame

    async def read(self, run: str) -> Reader:
        """Read a run to its end."""
        return await Reader(self, run).read()

    def follow(self, run: str, fronts: Sequence[str] | None = None) -> tuple[Reader, asyncio.Task[Reader]]:
        """Read a run in the background: what was read so far, and the task that ends with the run."""
        reader = Reader(self, run, fronts)
        task = asyncio.create_task(reader.read())
        self._readers.append(task)
        return reader, task

    async def _get(self, path: str) -> Json:
        answer = await self._insist("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def _all(self, path: str, name: str) -> list[Json]:
        found: list[Json] = []
        page = await self._get(path)
        while True:
            found += page[name]
            if page["next"] is None:
                return found
            page = await self._get(f"{path}?after={page['next']}")


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """Parse server-sent events; asserts that lines end with LF alone, which AG-UI's clients need."""
    block: list[str] = []
    async for raw in response.content:
        assert not raw.endswith(b"\r\n"), raw
        if line := raw.decode().rstrip("\n"):
            block.append(line)
            continue
        if (frame := _frame(block)) is not None:
            yield frame
        block = []


def _frame(block: Sequence[str]) -> Frame | None:
    fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
    if "data" not in fields:
        return None
    return Frame(_event_id(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))


def _event_id(text: str) -> tuple[int, int]:
    epoch, seq = text.split("-")
    return int(epoch), int(seq)
