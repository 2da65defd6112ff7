"""A front on real services, what it reads from put there by hand, and browsers that read it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import jwt
import orjson
from aiohttp import web
from pydantic import SecretStr
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.app import create_app
from callboard_http.deps import DEPS, SERVICES
from callboard_http.event_log import LegKey
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventBatch, EventId, batch
from callboard_runtime.domain.ids import run_uuid, session_uuid, utcnow
from callboard_runtime.persistence import tables as t
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import AuthSettings, HttpSettings, Settings
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore
from waiting import until

SECRET = "an http test's secret of more than thirty-two bytes"
USER = "ada"
PATIENCE = 20.0  # seconds before a wait counts as failed

Event = tuple[str | None, AguiEvent]

_UNREAD: WeakKeyDictionary[aiohttp.ClientResponse, bytes] = WeakKeyDictionary()


def make_settings(postgres: str, redis: str | None, prefix: str, amqp: str, **http: Any) -> Settings:
    return Settings(
        database_url=SecretStr(postgres),
        redis_url=SecretStr(redis) if redis else None,
        redis_prefix=prefix,
        amqp_url=SecretStr(amqp),
        auth=AuthSettings(jwt_secret=SecretStr(SECRET)),
        http=HttpSettings(**({"heartbeat": 0.3, "drain": 0.2} | http)),
    )


def headers(user: str = USER, *roles: str, seconds: float = 600) -> dict[str, str]:
    claims = {"sub": user, "exp": int(time.time() + seconds), "roles": list(roles)}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


@dataclass
class Front:
    """A listening front and a client of it."""

    app: web.Application
    runner: web.AppRunner
    url: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, *, as_: dict[str, str] | None = None, **kwargs: Any) -> Answer:
        given = headers() if as_ is None else as_
        async with self.http.request(method, self.url + path, headers=given | kwargs.pop("headers", {}), **kwargs) as r:
            return Answer(r.status, dict(r.headers), await r.read())

    def stream(self, path: str, *, as_: dict[str, str] | None = None, **kwargs: Any) -> Any:
        given = (headers() if as_ is None else as_) | kwargs.pop("headers", {})
        return self.http.get(self.url + path, headers=given, **kwargs)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Front]:
    """A front on a free port, shut down at the end."""
    app = create_app(settings)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            yield Front(app, runner, url, http)
    finally:
        await runner.cleanup()


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str | None, bytes]]:
    """The frames of a stream as `(id, data)`; comments and `retry:` come as `(None, the line)`.

    May be left and taken up again: what was read beyond the last frame is kept with the response.
    """
    while True:
        while b"\n\n" in (buffer := _UNREAD.get(response, b"")):
            frame, _UNREAD[response] = buffer.split(b"\n\n", 1)
            fields = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
            event_id = fields.get(b"id")
            yield (event_id.decode() if event_id else None, fields.get(b"data", frame))
        part = await response.content.readany()
        if not part:
            return
        _UNREAD[response] = _UNREAD.get(response, b"") + part


async def events(response: aiohttp.ClientResponse, count: int | None = None) -> list[Event]:
    """The stream's events until it ends, or the first `count`."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE):
        async for event_id, data in frames(response):
            if data.startswith(b"{"):
                found.append((event_id, orjson.loads(data)))
                if len(found) == count:
                    break
    return found


def started(run: str = "r1") -> AguiEvent:
    return {"type": "RUN_STARTED", "threadId": "t1", "runId": run}


def finished(run: str = "r1") -> AguiEvent:
    return {"type": "RUN_FINISHED", "threadId": "t1", "runId": run, "outcome": {"type": "success"}}


def delta(text: str) -> AguiEvent:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": text}


def numbered(epoch: int, first: int, given: Sequence[AguiEvent]) -> list[Event]:
    return [(f"{epoch}-{seq}", event) for seq, event in enumerate(given, first)]


@dataclass
class Leg:
    """One leg being played: what was sent so far, and how far the log has come."""

    key: LegKey
    run: str
    epoch: int
    log: EventId  # the session's position
    sent: list[AguiEvent] = field(default_factory=list)  # of this epoch
    first: int = 1


@dataclass
class Backstage:
    """The actor's and the worker's part, played by hand: rows, tail and lanes."""

    engine: AsyncEngine
    tail: TailStore
    lanes: LanePublisher

    async def add_run(
        self, thread: str = "t1", run: str = "r1", user: str = USER, status: str = "queued", **columns: Any
    ) -> Leg:
        """A session if it is new, a run in it and its first leg, which has no epoch yet."""
        session_id, run_id = session_uuid(user, thread), run_uuid(user, run)
        async with self.engine.begin() as db:
            if not (await db.execute(t.SessionRow.__table__.select().where(t.SessionRow.id == session_id))).first():
                await db.execute(insert(t.SessionRow).values(id=session_id, user_id=user, thread_id=thread))
            row = {"agent_id": "default", "digest": "d", "input": {}, "config": {}, "status": status} | columns
            await db.execute(
                insert(t.RunRow).values(id=run_id, user_id=user, client_run_id=run, session_id=session_id, **row)
            )
            leg = {"run_id": run_id, "leg": 1, "user_id": user, "client_run_id": run, "digest": "d"}
            await db.execute(insert(t.RunLegRow).values(**leg))
        return Leg(LegKey(session_id, run_id, 1), run, 0, ORIGIN)

    async def add_leg(self, before: Leg, run: str, user: str = USER) -> Leg:
        """The next leg of a paused run, under the runId `run`."""
        key = replace(before.key, leg=before.key.leg + 1)
        row = {"run_id": key.run_id, "leg": key.leg, "user_id": user, "client_run_id": run, "digest": "d"}
        async with self.engine.begin() as db:
            await db.execute(insert(t.RunLegRow).values(**row))
        return Leg(key, run, 0, before.log)

    async def take_epoch(self, leg: Leg, epoch: int) -> None:
        """An attempt begins; its opening is to be committed next."""
        leg.epoch, leg.sent = epoch, []
        async with self.engine.begin() as db:
            await db.execute(
                insert(t.RunAttemptRow).values(
                    attempt_id=uuid.uuid4(),
                    run_id=leg.key.run_id,
                    session_id=leg.key.session_id,
                    leg=leg.key.leg,
                    epoch=epoch,
                    process="p",
                )
            )
            legs = t.RunLegRow
            await db.execute(
                update(legs)
                .where(legs.run_id == leg.key.run_id, legs.leg == leg.key.leg, legs.first_epoch.is_(None))
                .values(first_epoch=epoch)
            )
            await db.execute(update(t.RunRow).where(t.RunRow.id == leg.key.run_id).values(status="running"))

    async def begin(self, leg: Leg, epoch: int = 1, *opening: AguiEvent, publish: bool = True) -> None:
        """Take an epoch with its opening, committed before anything is published."""
        await self.take_epoch(leg, epoch)
        position = leg.log
        leg.sent = list(opening) or [started(leg.run)]
        await self.commit(leg)
        if publish:
            whole = batch(epoch, 1, leg.sent)
            await self.tail.append(leg.key.session_id, whole, committed=0, create=True)
            await self.lanes.publish(leg.key.session_id, leg.key.run_id, leg.key.leg, whole, position)

    async def emit(
        self, leg: Leg, *given: AguiEvent, tail: bool = True, live: bool = True, closing: bool = False
    ) -> EventBatch:
        """Events of the present epoch, sent where `tail` and `live` say."""
        sent = batch(leg.epoch, len(leg.sent) + 1, given)
        leg.sent += given
        if tail:
            committed = leg.log.seq if leg.log.epoch == leg.epoch else 0
            await self.tail.append(leg.key.session_id, sent, committed=committed, create=True)
        if live:
            previous = EventId(leg.epoch, sent.first_seq - 1) if sent.first_seq > 1 else leg.log
            await self.lanes.publish(leg.key.session_id, leg.key.run_id, leg.key.leg, sent, previous, closing)
        return sent

    async def commit(self, leg: Leg, upto: int | None = None, closing: bool = False, status: str | None = None) -> None:
        """Bring the epoch's events up to `upto`, or all, into the log."""
        first = leg.log.seq + 1 if leg.log.epoch == leg.epoch else 1
        last = upto or len(leg.sent)
        lines = batch(leg.epoch, first, leg.sent[first - 1 : last]).lines
        async with self.engine.begin() as db:
            if lines:
                row = {"session_id": leg.key.session_id, "epoch": leg.epoch, "first_seq": first, "last_seq": last}
                place = {"run_id": leg.key.run_id, "leg": leg.key.leg, "closing": closing}
                await db.execute(insert(t.EventSegmentRow).values(lines="\n".join(lines), **row, **place))
                leg.log = EventId(leg.epoch, last)
            position = {"log_epoch": leg.log.epoch, "log_seq": leg.log.seq}
            await db.execute(update(t.SessionRow).where(t.SessionRow.id == leg.key.session_id).values(**position))
            if closing:
                legs = t.RunLegRow
                end = {"last_epoch": leg.epoch, "last_seq": last, "ended_at": utcnow()}
                mine = (legs.run_id == leg.key.run_id, legs.leg == leg.key.leg)
                await db.execute(update(legs).where(*mine).values(**end))
                ended = {"status": status or "succeeded"}
                await db.execute(update(t.RunRow).where(t.RunRow.id == leg.key.run_id).values(**ended))

    async def close(self, leg: Leg, *last: AguiEvent, live: bool = True, status: str = "succeeded") -> None:
        """End the leg as the actor does: commit first, publish afterwards."""
        given = last or (finished(leg.run),)
        first = len(leg.sent) + 1
        leg.sent += given
        await self.commit(leg, closing=True, status=status)
        sent = batch(leg.epoch, first, given)
        await self.tail.append(leg.key.session_id, sent, committed=leg.log.seq, create=True)
        if live:
            previous = EventId(leg.epoch, first - 1)
            await self.lanes.publish(leg.key.session_id, leg.key.run_id, leg.key.leg, sent, previous, True)

    async def execute(self, statement: Any) -> None:
        async with self.engine.begin() as db:
            await db.execute(statement)


@asynccontextmanager
async def backstage(settings: Settings) -> AsyncIterator[Backstage]:
    engine = create_engine(settings, pool=3)
    tail = TailStore.from_url(settings.required_redis_url(), settings.redis_prefix)
    lanes = await LanePublisher.connect(settings.required_amqp_url(), "backstage")
    try:
        yield Backstage(engine, tail, lanes)
    finally:
        await lanes.close()
        await tail.close()
        await engine.dispose()


async def listening(front: Front, count: int = 1) -> None:
    """Wait until so many streams are open and bound to their lanes."""
    await until(lambda: len(front.app[DEPS].streams) == count and front.app[SERVICES].sources.hub.connected)


async def played(stage: Backstage, deltas: int = 4) -> Leg:
    """A whole leg in the log."""
    leg = await stage.add_run()
    await stage.begin(leg)
    for number in range(deltas):
        await stage.emit(leg, delta(str(number)))
        await stage.commit(leg)
    await stage.close(leg)
    return leg
