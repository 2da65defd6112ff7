"""Delivers webhooks: at least once each, with back-off, until the receiver took it or it is too old.

In:  due rows of `webhook_deliveries`, claimed by whichever actor process comes first
Out: signed requests; what came of them, in the same rows

A claim is a lease: the row of a process that dies between the request and the note is due again soon. Every URL has a
loop and a bound of its own, so that a slow one holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.hooks import Endpoint, Hooks
from callboard_actors.metrics import WEBHOOK_ATTEMPTS
from callboard_actors.webhook_post import Outcome, Poster
from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import transaction
from callboard_runtime.settings import Settings, WebhookSettings

logger = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks for what is due
LEASE_MARGIN = 20.0  # seconds beyond the request's own time until another process may try again
HOUSEKEEPING = 300.0  # seconds
PRUNED_AT_ONCE = 5000  # rows
DRAIN = 5.0  # seconds to end what is under way at shutdown

_CLAIM = text("""
UPDATE webhook_deliveries d SET attempts = attempts + 1, attempted_at = now(),
  due_at = now() + make_interval(secs => CAST(:lease AS float8))
WHERE id IN (
  SELECT id FROM webhook_deliveries
  WHERE endpoint = :endpoint AND delivered_at IS NULL AND given_up_at IS NULL AND due_at <= now()
  ORDER BY due_at LIMIT :free FOR UPDATE SKIP LOCKED
) RETURNING id, event_id, body, attempts, extract(epoch FROM now() - created_at)::float8 AS age
""")

_DELIVERED = text("""
UPDATE webhook_deliveries SET delivered_at = now(), given_up_at = NULL, last_status = :status, last_error = NULL,
  body = NULL
WHERE id = :id
""")

# What a later attempt found stands.
_FAILED = text("""
UPDATE webhook_deliveries SET last_status = :status, last_error = :error,
  due_at = now() + make_interval(secs => CAST(:delay AS float8)),
  given_up_at = CASE WHEN :over THEN now() END
WHERE id = :id AND attempts = :attempts AND delivered_at IS NULL
""")

_FORSAKE = text("""
UPDATE webhook_deliveries SET given_up_at = now(), last_error = 'no actor process has this URL in its settings'
WHERE delivered_at IS NULL AND given_up_at IS NULL AND endpoint <> ALL(:endpoints)
  AND created_at < now() - make_interval(secs => CAST(:max_age AS float8))
""")

_PRUNE = text("""
DELETE FROM webhook_deliveries WHERE id IN (
  SELECT id FROM webhook_deliveries
  WHERE created_at < now() - make_interval(secs => CAST(:kept AS float8))
    AND coalesce(delivered_at, given_up_at) < now() - make_interval(secs => CAST(:kept AS float8))
  LIMIT :batch FOR UPDATE SKIP LOCKED
)
""")


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process holds for one attempt; `age` in seconds."""

    id: UUID
    event_id: UUID
    body: dict[str, Any]
    attempts: int
    age: float


def retry_delay(settings: WebhookSettings, attempts: int, asked: float, luck: float) -> float:
    """Seconds until the next try: doubled each time, a part of it by luck (0 to 1), never sooner than asked for."""
    doubled = settings.first_retry * 2.0 ** min(attempts - 1, 60)
    longest = min(doubled, settings.longest_retry)
    return max(longest * (0.5 + luck / 2), min(asked, settings.longest_retry))


def is_over(settings: WebhookSettings, claimed: Claimed, outcome: Outcome, delay: float) -> bool:
    """Whether there is no next try."""
    too_old = claimed.age + delay > settings.max_age
    return outcome.gone or claimed.attempts >= settings.max_attempts or too_old


class WebhookDeliverer:
    """One process's deliverer; `run` works until cancelled, `stop` ends what is under way."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings.webhooks
        self._endpoints = Hooks.of(settings.webhooks).endpoints
        self._posts: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            poster = Poster(self._settings)
            stack.push_async_callback(poster.close)
            stack.push_async_callback(self._settle)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for endpoint in self._endpoints:
                tasks.create_task(EndpointLoop(self._engine, self._settings, endpoint, poster, self._posts).run())
            tasks.create_task(_forever("looking after webhooks", HOUSEKEEPING, self._look_after))

    async def _settle(self) -> None:
        """Wait for requests under way, for a few seconds; the others are tried again when their leases end."""
        if self._posts:
            _, pending = await asyncio.wait(self._posts, timeout=DRAIN)
            for post in pending:
                post.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _look_after(self) -> None:
        """Give up what nobody sends any more, and forget what ended long ago."""
        values = {"endpoints": [endpoint.id for endpoint in self._endpoints], "max_age": self._settings.max_age}
        async with transaction(self._engine) as connection:
            await connection.execute(_FORSAKE, values)
        while await self._forget() == PRUNED_AT_ONCE:  # noqa: ASYNC110 - a full batch: there is more
            await asyncio.sleep(TICK)

    async def _forget(self) -> int:
        values = {"kept": self._settings.kept, "batch": PRUNED_AT_ONCE}
        async with transaction(self._engine) as connection:
            return (await connection.execute(_PRUNE, values)).rowcount


class EndpointLoop:
    """The deliveries of one URL: as many at once as its bound allows."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: WebhookSettings,
        endpoint: Endpoint,
        poster: Poster,
        posts: set[asyncio.Task[None]],
    ) -> None:
        self._engine, self._settings, self._endpoint, self._poster = engine, settings, endpoint, poster
        self._all, self._own = posts, set[asyncio.Task[None]]()

    async def run(self) -> None:
        await _forever(f"webhook {self._endpoint.shown}", TICK, self._round)

    async def _round(self) -> None:
        """Take what is due; while there is more than fits, go on as soon as a request ends."""
        while True:
            free = self._settings.concurrency - len(self._own)
            claimed = await self._claim(free) if free else []
            for delivery in claimed:
                self._begin(delivery)
            if len(claimed) < free:
                return
            await asyncio.wait(self._own, return_when=asyncio.FIRST_COMPLETED)

    async def _claim(self, free: int) -> list[Claimed]:
        lease = self._settings.timeout + LEASE_MARGIN
        values = {"endpoint": self._endpoint.id, "free": free, "lease": lease}
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(_CLAIM, values)).all()
        return [Claimed(row.id, row.event_id, row.body, row.attempts, row.age) for row in rows]

    def _begin(self, delivery: Claimed) -> None:
        post = asyncio.create_task(self._deliver(delivery))
        for posts in (self._own, self._all):
            posts.add(post)
            post.add_done_callback(posts.discard)

    async def _deliver(self, delivery: Claimed) -> None:
        try:
            outcome = await self._poster.post(self._endpoint.url, delivery.event_id, delivery.body)
            await self._note(delivery, outcome)
        except Unavailable as error:
            # The lease ends, and it is delivered once more: with the same id.
            logger.info("a delivery could not be noted: %s", error, extra={"action": "webhook_unnoted"})
        except Exception:
            logger.exception("delivering a webhook failed", extra={"action": "webhook_failed"})

    async def _note(self, delivery: Claimed, outcome: Outcome) -> None:
        over = False
        if outcome.delivered:
            statement, values = _DELIVERED, {"id": delivery.id, "status": outcome.status}
        else:
            delay = retry_delay(self._settings, delivery.attempts, outcome.retry_after, random.random())  # noqa: S311
            over = is_over(self._settings, delivery, outcome, delay)
            values = {"id": delivery.id, "attempts": delivery.attempts, "delay": delay, "over": over}
            statement, values = _FAILED, values | {"status": outcome.status, "error": outcome.error}
        async with transaction(self._engine) as connection:
            await connection.execute(statement, values)
        self._tell(delivery, outcome, over)

    def _tell(self, delivery: Claimed, outcome: Outcome, over: bool) -> None:
        result = "delivered" if outcome.delivered else "given_up" if over else "failed"
        WEBHOOK_ATTEMPTS.labels(result).inc()
        if outcome.delivered:
            return
        logger.log(
            logging.WARNING if over else logging.INFO,
            "webhook %s: event %s, try %d: %s",
            self._endpoint.shown,
            delivery.event_id,
            delivery.attempts,
            outcome.error,
            extra={"action": f"webhook_{result}"},
        )


async def _forever(what: str, every: float, step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step until cancelled; outages are waited out, and a failure costs one round."""
    while True:
        try:
            await step()
        except Unavailable as error:
            logger.info("%s waits: %s", what, error, extra={"action": "webhooks_wait"})
        except Exception:
            logger.exception("%s failed", what, extra={"action": "webhooks_failed"})
        if is_real_cancellation():  # an outage in the same moment must not hide it
            raise asyncio.CancelledError
        await asyncio.sleep(every)
