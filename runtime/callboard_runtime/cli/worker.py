"""`callboard worker`: a process that executes runs, or several forked from one; start as many as you like."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from callboard_runtime.cli.prefork import fork
from callboard_runtime.garbage import leave_loaded_alone, nothing_collected
from callboard_runtime.observe import endpoint
from callboard_runtime.observe.health import Health
from callboard_runtime.observe.start import start_tracing
from callboard_runtime.settings import Settings

if TYPE_CHECKING:
    from callboard_runtime.entry.worker_loop import WorkerLoop

logger = logging.getLogger(__name__)

RETRY = 1.0  # seconds between two looks at a service that is away
SAY_EVERY = 10  # tries between two lines about it
LOADED = (
    "aio_pika",
    "callboard_runtime.crew.runtime",
    "callboard_runtime.entry.tasks",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "uvloop",
)
QUIET = ("celery.app.trace", "celery.worker.strategy", "aio_pika", "aiormq", "kombu")

Look = Callable[[], Awaitable[None]]


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; default: CALLBOARD_WORKER__CONCURRENCY.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=0, help="Processes to fork, 0: one per core; default: CALLBOARD_WORKER__PROCESSES."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Unique name of this process; default: made of host, process id and chance.")
    ] = None,
) -> None:
    """Execute runs: a Celery worker whose crews share one event loop. Start any number of processes.

    SIGTERM releases its runs at their next step: other workers go on with them. SIGKILL loses nothing either. Of
    several processes the parent replaces those that end, passes SIGTERM on, and ends at once when told a second time.
    """
    settings = Settings()
    count = (settings.worker.processes if processes is None else processes) or _cores()
    if count > 1:
        name = _in_forks(settings, count, name)
    with endpoint.serving(settings.metrics) as health:
        asyncio.run(_until_there(settings))
        serve(settings, concurrency, name, health)


def _cores() -> int:
    """Those that this process may use, where the system tells; a container's quota of their time is not looked at."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_forks(settings: Settings, count: int, name: str | None) -> str | None:
    """Load everything once, and go on in forks that share it; returns each one's name."""
    from callboard_runtime.llm.setup import warm_up

    _load()
    warm_up(settings)
    leave_loaded_alone()
    number = fork(count)
    start_tracing(settings, "worker")  # traces tell processes apart by their ids
    return f"{name}-{number}" if name else None


def _load() -> None:
    with nothing_collected():
        for module in LOADED:
            import_module(module)


def serve(
    settings: Settings, concurrency: int | None = None, name: str | None = None, health: Health | None = None
) -> None:
    """Serve in this thread until SIGTERM or SIGINT."""
    _load()
    from celery.exceptions import SecurityWarning
    from celery.signals import setup_logging

    from callboard_runtime.entry.celery_app import bind  # late: the command line lists its commands without Celery
    from callboard_runtime.entry.tasks import app
    from callboard_runtime.entry.worker_loop import WorkerLoop, use_worker

    for noisy in QUIET if settings.log_level != "DEBUG" else ():
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns root of unpickling what others send: only JSON is accepted.
    warnings.simplefilter("ignore", SecurityWarning)
    setup_logging.connect(_keep_logging, weak=False)  # pyright: ignore[reportUnknownMemberType]
    bind(app, settings)
    loop = WorkerLoop(settings, concurrency=concurrency, name=name)
    loop.start()
    loop.watch(health or Health())
    use_worker(loop)
    try:
        celery_worker(app, loop).start()
    finally:
        _stop(loop)


def _keep_logging(**_: Any) -> None:
    """Celery sets logging up by itself unless somebody listens here."""


class Sized(Protocol):
    """A process's unique name and how many runs it takes at once."""

    @property
    def process(self) -> str: ...
    @property
    def slots(self) -> int: ...


def celery_worker(app: Any, loop: Sized) -> Any:
    """The Celery worker of this process, not started."""
    return app.Worker(
        hostname=loop.process,
        pool="threads",
        concurrency=loop.slots,
        without_gossip=True,
        without_mingle=True,
        task_events=False,
        optimization="fair",
        quiet=True,
        loglevel=None,
    )


def _stop(loop: WorkerLoop) -> None:
    """Leave in good order, but leave: a run that does not end at shutdown is taken over by another worker."""
    closer = threading.Thread(target=loop.close, daemon=True)
    closer.start()
    with contextlib.suppress(KeyboardInterrupt):
        closer.join()
    logger.info("stopped", extra={"action": "worker_stopped"})


async def _until_there(settings: Settings) -> None:
    """Wait for database and broker, saying what is waited for; a wrong setting ends the process."""
    await _wait_for("the database", _database(settings))
    await _wait_for("the broker", _broker(settings))


def _database(settings: Settings) -> Look:
    from sqlalchemy import text

    from callboard_runtime.persistence.database import connect, create_engine

    async def look() -> None:
        engine = create_engine(settings, pool=0, name=f"worker-{os.getpid()}")
        async with connect(engine) as connection:
            await connection.execute(text("SELECT 1 FROM processes LIMIT 1"))

    return look


def _broker(settings: Settings) -> Look:
    import aio_pika

    url = settings.required_amqp_url()

    async def look() -> None:
        async with await aio_pika.connect(url, timeout=5):
            pass

    return look


async def _wait_for(what: str, look: Look) -> None:
    from aio_pika.exceptions import CONNECTION_EXCEPTIONS
    from sqlalchemy.exc import ProgrammingError

    from callboard_runtime.errors import Unavailable

    tries = 0
    while True:
        try:
            return await look()
        # A role that lacks its rights is a ProgrammingError.
        except (Unavailable, ProgrammingError, TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            if tries % SAY_EVERY == 0:
                logger.warning("waiting for %s: %s", what, _short(error), extra={"action": "waiting"})
            tries += 1
            await asyncio.sleep(RETRY)


def _short(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
