"""One actor process from its settings: what it is made of, in which order that starts, and how it is taken down."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors import metrics
from callboard_actors.app import ActorApp, build_broker
from callboard_actors.connections import Connections
from callboard_actors.dead_letters import DeadLetterWatch
from callboard_actors.groups import CONNECTIONS, Groups, Services
from callboard_actors.mailbox import PartitionMailboxes
from callboard_actors.publisher import ActorPublisher
from callboard_actors.relay import OutboxRelay
from callboard_actors.store import PostgresStore
from callboard_actors.sweeper import Sweeper
from callboard_actors.webhooks import WebhookDeliverer
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.domain.ids import new_id
from callboard_runtime.errors import Unavailable
from callboard_runtime.garbage import leave_loaded_alone
from callboard_runtime.observe import endpoint
from callboard_runtime.observe.health import Check, Health, database_answers, schema_is_there
from callboard_runtime.observe.metrics import watch_engine, watch_heartbeat
from callboard_runtime.persistence.database import close_engine, connect, create_engine
from callboard_runtime.persistence.heartbeats import Heartbeat
from callboard_runtime.settings import Settings
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore

logger = logging.getLogger(__name__)

RETRY = 1.0  # seconds between two tries to reach a service at the start
SAY_EVERY = 5  # tries between two lines that say so


@dataclass(frozen=True, slots=True)
class ActorProcess:
    """A running actor process."""

    app: ActorApp
    relay: OutboxRelay
    sweeper: Sweeper
    dead_letters: DeadLetterWatch
    webhooks: WebhookDeliverer
    checks: Mapping[str, Check]
    look: metrics.DatabaseLook

    def duties(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What runs until the process ends."""
        return self.app.run, self.relay.run, self.sweeper.run, self.dead_letters.run, self.webhooks.run

    def watch(self, health: Health) -> None:
        """Have this process's health and metrics looked after, on the present loop."""
        health.watch(asyncio.get_running_loop(), self.checks, (self._count, self.look))

    async def _count(self) -> None:
        metrics.OWNED.set(len(self.app.owned))
        metrics.WAITING.set(sum(item.owner.waiting for item in self.app.partitions))
        metrics.WAKEUPS_WAITING.set(len(self.relay.dispatcher.waiting))
        metrics.DEAD_LETTERS.set(self.dead_letters.count)


def process_id() -> str:
    """A name for this process that no other one has or had."""
    return f"actors-{socket.gethostname()}-{os.getpid()}-{new_id().hex[:8]}"


async def run_actors(settings: Settings) -> None:
    """Serve until cancelled, then hand over: commits in flight end, channels close, what was committed is sent.

    Waits for services that are not there yet. Raises SettingsError when one is not configured.
    """
    with endpoint.serving(settings.metrics) as health:
        async with actor_process(settings) as process, asyncio.TaskGroup() as duties:
            process.watch(health)
            leave_loaded_alone()
            for duty in process.duties():
                duties.create_task(duty())


@asynccontextmanager
async def actor_process(settings: Settings) -> AsyncGenerator[ActorProcess]:
    """Everything of one process, started; stopped in the reverse order."""
    name = process_id()
    try:
        async with AsyncExitStack() as stack:
            engine = create_engine(settings, name=name)
            watch_engine(engine)
            stack.push_async_callback(close_engine, engine)
            await _until_there("the database", partial(_look, engine))
            heartbeat = await _start_heartbeat(settings, name, stack)
            process = await _start(settings, name, engine, heartbeat, stack)
            stack.callback(logger.info, "handing over", extra={"action": "actors_stopping"})
            yield process
    finally:
        logger.info("stopped", extra={"action": "actors_stopped"})


async def _start(
    settings: Settings, name: str, engine: AsyncEngine, heartbeat: Heartbeat, stack: AsyncExitStack
) -> ActorProcess:
    amqp_url = settings.required_amqp_url()
    tail = TailStore.from_url(settings.required_redis_url(), settings.redis_prefix)
    stack.push_async_callback(tail.close)
    publisher = await ActorPublisher.connect(settings, f"{name}-publisher")
    stack.push_async_callback(publisher.close)
    lanes = await LanePublisher.connect(amqp_url, f"{name}-lanes")
    stack.push_async_callback(lanes.close)
    commands = await CommandClient.connect(amqp_url, f"{name}-commands")
    stack.push_async_callback(commands.close)
    relay = OutboxRelay(engine, settings, name, publisher, lanes, tail)
    stack.push_async_callback(relay.stop)
    connections = await Connections.open(settings, CONNECTIONS, name)
    stack.push_async_callback(connections.close)
    store = PostgresStore(engine, connections, settings, tail, heartbeat.heard_for)
    groups = Groups(Services(store, settings, replier=publisher, committed=relay.committed))
    app = ActorApp(build_broker(amqp_url, name), engine, settings, name, partial(_mailboxes, groups))
    stack.push_async_callback(app.stop)
    await _until_there("the broker", app.start)
    checks: Mapping[str, Check] = {
        "database": database_answers(engine),
        "schema": schema_is_there(engine),
        "broker": lambda: app.connected and publisher.connected and commands.connected,
    }
    letters, look = DeadLetterWatch(await app.broker.connect()), metrics.DatabaseLook(engine)
    sweeper, webhooks = Sweeper(engine, settings, commands), WebhookDeliverer(engine, settings)
    return ActorProcess(app, relay, sweeper, letters, webhooks, checks, look)


def _mailboxes(groups: Groups, partition: int, partition_epoch: int) -> PartitionMailboxes:
    return PartitionMailboxes(partition, partition_epoch, groups)


async def _start_heartbeat(settings: Settings, name: str, stack: AsyncExitStack) -> Heartbeat:
    """Be known as alive before anything is owned; the row goes last."""
    heartbeat = Heartbeat(settings.required_database_url(), name, "actors", interval=settings.worker.heartbeat)
    watch_heartbeat(heartbeat)
    heartbeat.start()
    stack.push_async_callback(asyncio.to_thread, heartbeat.stop)
    while not await asyncio.to_thread(heartbeat.wait_first, RETRY):
        logger.info("waiting for the first heartbeat", extra={"action": "waiting"})
    return heartbeat


async def _look(engine: AsyncEngine) -> None:
    async with connect(engine) as connection:
        await connection.execute(text("SELECT 1 FROM partitions LIMIT 1"))


async def _until_there(what: str, attempt: Callable[[], Awaitable[None]]) -> None:
    tries = 0
    while True:
        try:
            return await attempt()
        # A role that lacks its rights is a ProgrammingError.
        except (Unavailable, *CONNECTION_EXCEPTIONS, ProgrammingError) as error:
            if is_real_cancellation():  # an outage in the same moment must not hide it
                raise asyncio.CancelledError from error
            if tries % SAY_EVERY == 0:
                logger.warning("waiting for %s: %s", what, _first_line(error), extra={"action": "waiting"})
            tries += 1
            await asyncio.sleep(RETRY)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
