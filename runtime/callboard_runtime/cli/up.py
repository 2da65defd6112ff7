"""`callboard up`: everything in one terminal, on the embedded services unless others are configured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import typer
from sqlalchemy import text

from callboard_runtime.embedded.errors import EmbeddedError
from callboard_runtime.embedded.stack import EmbeddedStack
from callboard_runtime.embedded.supervisor import ChildSpec, Supervisor, python_command
from callboard_runtime.errors import SettingsError, Unavailable
from callboard_runtime.persistence import migrate
from callboard_runtime.persistence.database import connect, create_engine
from callboard_runtime.settings import Settings

_URLS = ("database_url", "amqp_url", "redis_url")
_TRY = """\
  curl -N {url}/api/v1/agent/agui/default -H 'content-type: application/json' -d '{{
    "threadId": "demo", "runId": "run-'$(date +%s)'",
    "messages": [{{"id": "msg-'$(date +%s)'", "role": "user", "content": "Hello, who are you?"}}]}}'
"""


def up(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded services keep their data.")] = None,
) -> None:
    """Run all of Callboard in this terminal; Ctrl-C ends it.

    Without CALLBOARD_DATABASE_URL, CALLBOARD_AMQP_URL and CALLBOARD_REDIS_URL it brings its own PostgreSQL, Valkey and
    message broker, for this machine only. Without a provider's key the packaged scripted model answers. Requests from
    this machine need no token.
    """
    settings = Settings()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_Up(settings, host, port, workers).run(data_dir or settings.embedded.data_dir))


class _Up:
    def __init__(self, settings: Settings, host: str, port: int, workers: int) -> None:
        self._settings, self._host, self._workers = settings, host, workers
        self._port = port or _free_port()

    async def run(self, data_dir: Path | None) -> None:
        """Start everything in order, say where it is, and wait for Ctrl-C or for a child that cannot be kept alive."""
        stop = _until_signal()
        try:
            async with contextlib.AsyncExitStack() as stack:
                services, urls = await self._services(stack, data_dir)
                await self._migrate(urls)
                processes = await stack.enter_async_context(Supervisor())
                await self._processes(processes, urls)
                self._announce()
                await _first(stop, processes.failed(), *([services.failed()] if services else []))
                print("callboard: stopping", flush=True)
        except EmbeddedError as error:
            raise Unavailable(str(error)) from error
        print("callboard: stopped", flush=True)

    async def _services(
        self, stack: contextlib.AsyncExitStack, data_dir: Path | None
    ) -> tuple[EmbeddedStack | None, Mapping[str, str]]:
        given = [name for name in _URLS if getattr(self._settings, name) is not None]
        if len(given) == len(_URLS):
            return None, {}
        if given:
            missing = ", ".join(f"CALLBOARD_{name.upper()}" for name in _URLS if name not in given)
            raise SettingsError(f"{missing}: set this too, or unset the others to use the embedded services")
        with _step("starting PostgreSQL, Valkey and the message broker"):
            embedded = await stack.enter_async_context(EmbeddedStack(data_dir))
        return embedded, {f"CALLBOARD_{name.upper()}": getattr(embedded.urls, name) for name in _URLS}

    async def _migrate(self, urls: Mapping[str, str]) -> None:
        with _step("bringing the database schema up to date"):
            await asyncio.to_thread(migrate.upgrade, self._database_url(urls))

    def _database_url(self, urls: Mapping[str, str]) -> str:
        return urls.get("CALLBOARD_DATABASE_URL") or self._settings.required_database_url()

    async def _processes(self, supervisor: Supervisor, urls: Mapping[str, str]) -> None:
        environment = {**os.environ, **urls, **self._defaults()}
        listen = ("--host", self._host, "--port", str(self._port))
        with _step("starting front, actors and worker (importing CrewAI takes a few seconds)"):
            await supervisor.start(
                _process("actors", environment, _beats(self._database_url(urls), "actors", 1)),
                _process("http", environment, self._answers, *listen),
                *(
                    _process("worker", environment, _beats(self._database_url(urls), "worker", number + 1))
                    for number in range(self._workers)
                ),
            )

    def _defaults(self) -> dict[str, str]:
        """What a developer's machine needs and production must not get by accident."""
        chosen = {"CALLBOARD_UP_PID": str(os.getpid())}
        auth = self._settings.auth
        if auth.jwt_secret is None and auth.jwt_public_key is None:
            chosen["CALLBOARD_DEV_AUTH"] = "true"
        if self._scripted:
            chosen["CALLBOARD_LLM__DEFAULT_MODEL"] = "scripted"
        if "CALLBOARD_LOG_LEVEL" not in os.environ:
            chosen["CALLBOARD_LOG_LEVEL"] = "WARNING"
        return chosen

    @property
    def _scripted(self) -> bool:
        llm = self._settings.llm
        keys = llm.provider_keys.model_dump(exclude_none=True)
        return llm.default_model is None and not keys and not llm.api_base

    @property
    def _url(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def _answers(self, _pid: int) -> bool:
        return await asyncio.to_thread(_is_ok, f"{self._url}/healthz")

    def _announce(self) -> None:
        model = "the packaged scripted model: set a provider's key, such as CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK"
        print(f"\nCallboard is up; its playground: {self._url}  its inspector: {self._url}/inspector")
        print(f"The model is {model if self._scripted else self._settings.llm.default_model or 'as configured'}.")
        print("Open the playground, or stream a run here (Ctrl-C ends Callboard):\n")
        print(_TRY.format(url=self._url), flush=True)


def _process(
    name: str, environment: Mapping[str, str], ready: Callable[[int], Awaitable[bool]], *arguments: str
) -> ChildSpec:
    return ChildSpec(
        name=f"callboard {name}",
        command=python_command("-m", "callboard_runtime.cli", name, *arguments),
        environment=environment,
        ready=ready,
        stop_timeout=40,
        death_signal=signal.SIGTERM,
        advice="its own message is above",
    )


def _beats(database_url: str, kind: str, count: int) -> Callable[[int], Awaitable[bool]]:
    """Ready when that many processes of this kind have beaten within the last seconds."""

    async def ready(_pid: int) -> bool:
        engine = create_engine(database_url, pool=0)
        try:
            async with connect(engine) as db:
                return (await db.execute(_BEATING, {"kind": kind})).scalar_one() >= count
        except Unavailable:
            return False
        finally:
            await engine.dispose()

    return ready


_BEATING = text("SELECT count(*) FROM processes WHERE kind = :kind AND beat_at > now() - interval '5 seconds'")


def _is_ok(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:  # noqa: S310 - our own front, over HTTP
            return response.status == 200
    except (URLError, OSError):
        return False


async def _first(*waits: Awaitable[None]) -> None:
    """Wait for the first of these; raises what it raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def _until_signal() -> Awaitable[None]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    async def wait() -> None:
        await stop.wait()

    return wait()


@contextlib.contextmanager
def _step(what: str) -> Generator[None]:
    """Say what is being done, and how long it took."""
    print(f"callboard: {what} …", flush=True)
    began = time.monotonic()
    yield
    print(f"callboard:   done in {time.monotonic() - began:.1f} s", flush=True)


def _free_port() -> int:
    from callboard_runtime.embedded.paths import free_port

    return free_port()
