"""The broker as a whole: one listening socket, its connections, virtual hosts and timers."""

import asyncio
import contextlib
import logging
import secrets
from urllib.parse import quote

from callboard_runtime.embedded.amqp.channel import Channel
from callboard_runtime.embedded.amqp.connection import Connection
from callboard_runtime.embedded.amqp.handshake import Credentials, Limits
from callboard_runtime.embedded.amqp.queue import Queue
from callboard_runtime.embedded.amqp.queue_state import MemoryGauge
from callboard_runtime.embedded.amqp.vhost import VirtualHost

logger = logging.getLogger(__name__)

_STOP_TIMEOUT = 2.0  # seconds for the clients to answer connection.close


class QueueTimers:
    """One timer per queue that has something to expire."""

    def __init__(self) -> None:
        self._handles: dict[Queue, tuple[float, asyncio.TimerHandle]] = {}

    def arm(self, vhost: VirtualHost, queue: Queue) -> None:
        deadline = queue.next_deadline()
        if deadline is None or queue.deleted:
            return
        armed = self._handles.get(queue)
        if armed is not None and armed[0] <= deadline:
            return
        self.disarm(queue)
        handle = asyncio.get_running_loop().call_at(deadline, self._fire, vhost, queue)
        self._handles[queue] = (deadline, handle)

    def disarm(self, queue: Queue) -> None:
        armed = self._handles.pop(queue, None)
        if armed is not None:
            armed[1].cancel()

    def clear(self) -> None:
        for queue in list(self._handles):
            self.disarm(queue)

    def _fire(self, vhost: VirtualHost, queue: Queue) -> None:
        del self._handles[queue]
        vhost.attend(queue)


class EmbeddedBroker:
    """An AMQP 0-9-1 broker in this process and its memory: stopping it loses all queues and messages.

    Speaks to unmodified clients. Virtual hosts come into being when a client opens them. Publishes beyond
    `limits.memory_high_water` are refused with a nack.
    """

    def __init__(self, user: str = "callboard", password: str | None = None, limits: Limits | None = None) -> None:
        self.credentials = Credentials(user, secrets.token_urlsafe(24) if password is None else password)
        self.limits = limits or Limits()
        self.gauge = MemoryGauge(self.limits.memory_high_water)
        self.connections: set[Connection] = set()
        self.reply_channels: dict[str, Channel] = {}
        self._vhosts: dict[str, VirtualHost] = {}
        self._timers = QueueTimers()
        self._server: asyncio.Server | None = None
        self._host = ""

    async def __aenter__(self) -> "EmbeddedBroker":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen (0: any free port) and return the URL with credentials. Raises OSError when the port is taken."""
        if self._server is not None:
            raise RuntimeError("the broker is already running")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port)
        self._host = host
        logger.info("listening on port %d", self.port, extra={"action": "amqp_started"})
        return self.url

    @property
    def url(self) -> str:
        """For clients on this machine; holds the password."""
        user, password = (quote(part, safe="") for part in (self.credentials.user, self.credentials.password))
        return f"amqp://{user}:{password}@{self._host}:{self.port}/"

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the broker is not running")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close all connections with 320 and forget everything; does nothing when it is not running."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self.connections):
            connection.close(320, "broker stops")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._all_gone()
        for connection in list(self.connections):
            connection.abort()
        self._timers.clear()
        self._vhosts.clear()
        logger.info("stopped", extra={"action": "amqp_stopped"})

    def vhost(self, name: str) -> VirtualHost:
        found = self._vhosts.get(name)
        if found is None:
            clock = asyncio.get_running_loop().time
            found = self._vhosts[name] = VirtualHost(name, self.gauge, clock, self._timers)
        return found

    async def _all_gone(self) -> None:
        while self.connections:
            await asyncio.wait([connection.lost for connection in self.connections])
