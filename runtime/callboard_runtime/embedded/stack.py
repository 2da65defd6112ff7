"""PostgreSQL, Valkey and the AMQP broker together, as children of this process.

In: a data folder. Out: `EmbeddedUrls`, valid until the stack is left.
"""

import asyncio
import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from callboard_runtime.embedded.paths import data_dir, free_port, locked, new_log
from callboard_runtime.embedded.postgres import EmbeddedPostgres
from callboard_runtime.embedded.running import noted
from callboard_runtime.embedded.supervisor import Child, ChildSpec, RestartPolicy, Supervisor, python_command
from callboard_runtime.embedded.valkey import EmbeddedValkey

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"  # the first byte of connection.start
_USER = VHOST = "callboard"
_PASSWORD_VARIABLE = "CALLBOARD_EMBEDDED_AMQP_PASSWORD"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class EmbeddedUrls:
    """Where the services are; hidden in `repr`, because the passwords are in them."""

    database_url: str = field(repr=False)
    amqp_url: str = field(repr=False)
    redis_url: str = field(repr=False)


class EmbeddedAmqp:
    """The broker of `callboard_runtime.embedded.amqp` as a process, so that a busy runtime cannot starve it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{self._password}@127.0.0.1:{self._port}/{VHOST}?heartbeat=10&reconnect_interval=1"

    def prepare(self) -> ChildSpec:
        """Say how to run the broker; a restart keeps the port and the password and loses the messages."""
        module = ("-m", "callboard_runtime.embedded.amqp")
        options = ("--port", str(self._port), "--user", _USER, "--parent-pid", str(os.getpid()))
        return ChildSpec(
            name="AMQP broker",
            command=python_command(*module, *options),
            environment={"PATH": os.environ.get("PATH", os.defpath), _PASSWORD_VARIABLE: self._password},
            log=new_log(self._folder / "amqp.log"),
            ready=self._ready,
            advice="to use a RabbitMQ of yours instead, set CALLBOARD_AMQP_URL",
        )

    async def _ready(self, _pid: int) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                return await self._greets()
        return False

    async def _greets(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(_PROTOCOL_HEADER)
            return await reader.read(1) == _METHOD_FRAME
        finally:
            writer.close()


class EmbeddedStack:
    """The services that `callboard up` runs on when none is configured. Use it with `async with`, in the main thread.

    Entering takes one to four seconds and raises EmbeddedError, saying what to do, when something cannot start. A
    service that dies later is restarted on the same address; the database keeps its data over everything.
    """

    def __init__(self, folder: Path | None = None, policy: RestartPolicy | None = None) -> None:
        """`folder` None picks the user's own (see `callboard_runtime.embedded.paths.data_dir`)."""
        self._chosen = folder
        self._exit = contextlib.AsyncExitStack()
        self._supervisor = Supervisor(policy)
        self._urls: EmbeddedUrls | None = None

    @property
    def urls(self) -> EmbeddedUrls:
        """Raises RuntimeError before the stack is entered."""
        if self._urls is None:
            raise RuntimeError("the embedded services have not been started")
        return self._urls

    @property
    def children(self) -> tuple[Child, ...]:
        return self._supervisor.children

    async def failed(self) -> None:
        """Wait until a service cannot be brought back; raises its ChildFailed."""
        await self._supervisor.failed()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            folder = data_dir(self._chosen)
            undo.enter_context(locked(folder))
            await undo.enter_async_context(self._supervisor)
            self._urls = await self._start(folder)
            undo.enter_context(noted(folder, {name: getattr(self._urls, name) for name in EmbeddedUrls.__slots__}))
            self._exit = undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _start(self, folder: Path) -> EmbeddedUrls:
        postgres, valkey, amqp = EmbeddedPostgres(folder), EmbeddedValkey(folder), EmbeddedAmqp(folder)
        quick = asyncio.create_task(self._supervisor.start(amqp.prepare(), valkey.prepare()))
        try:
            await self._supervisor.start(await asyncio.to_thread(postgres.prepare))
            await postgres.create_database()
        finally:
            await quick
        return EmbeddedUrls(postgres.url, amqp.url, valkey.url)
