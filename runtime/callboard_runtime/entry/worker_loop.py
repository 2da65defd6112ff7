"""One event loop per worker process, with everything that its runs share; Celery's threads wait for it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from contextlib import AsyncExitStack
from uuid import UUID

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.entry.control import ControlConsumer
from callboard_runtime.entry.loop_thread import LoopThread
from callboard_runtime.entry.run_service import WorkerServices, execute_run
from callboard_runtime.entry.running import RunningAttempts
from callboard_runtime.garbage import leave_loaded_alone
from callboard_runtime.llm.reads import read_together
from callboard_runtime.observe.health import Health, database_answers, schema_is_there
from callboard_runtime.observe.metrics import watch_engine, watch_heartbeat
from callboard_runtime.observe.worker import LEGS_ACTIVE, SLOTS
from callboard_runtime.persistence.database import close_engine, create_engine
from callboard_runtime.persistence.heartbeats import Heartbeat
from callboard_runtime.settings import Settings
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 20.0  # seconds


class WorkerLoop:
    """Executes runs on its loop for as many threads as ask. Start it once per process, after any fork."""

    def __init__(self, settings: Settings, *, concurrency: int | None = None, name: str | None = None) -> None:
        """`name` is this process's id in the database and on the broker; it must be unique."""
        self._settings = settings
        self.slots = concurrency or settings.worker.concurrency
        self.process = name or process_id()
        self.attempts = RunningAttempts(self.slots)
        self._thread: LoopThread | None = None
        self._stack = AsyncExitStack()
        self._services: WorkerServices | None = None
        self._heartbeat: Heartbeat | None = None
        self._control: ControlConsumer | None = None

    def start(self) -> None:
        """Load CrewAI, connect, and be known as alive; services that are away are waited for in the background."""
        from callboard_runtime.crew.runtime import prepare_loop  # late: the task module must not need CrewAI
        from callboard_runtime.llm.setup import warm_up

        warm_up(self._settings)
        leave_loaded_alone()
        self._thread = LoopThread("worker-loop")
        prepare_loop(self._thread.loop, self.slots)
        self._services = self._thread.run(self._connect())
        self._heartbeat = Heartbeat(
            self._settings.required_database_url(),
            self.process,
            "worker",
            interval=self._settings.worker.heartbeat,
            slots=self.attempts.free,
            attempts=self.attempts.ids,
        )
        self._heartbeat.start()
        logger.info("%s takes %d runs", self.process, self.slots, extra={"action": "worker_started"})

    def watch(self, health: Health) -> None:
        """Have this process's health and metrics looked after."""
        if self._thread is None or self._services is None or self._heartbeat is None:
            raise RuntimeError("the worker loop was not started")
        commands, control, heartbeat = self._services.commands, self._control, self._heartbeat
        watch_engine(self._services.engine)
        watch_heartbeat(heartbeat)
        SLOTS.set(self.slots)
        LEGS_ACTIVE.set_function(lambda: len(self.attempts))
        health.watch(
            self._thread.loop,
            {
                "database": database_answers(self._services.engine),
                "schema": schema_is_there(self._services.engine),
                "broker": lambda: commands.connected and control is not None and control.connected,
                "accepting": lambda: not self.attempts.draining,
            },
        )

    def execute(self, session_id: UUID, run_id: UUID, leg: int) -> None:
        """Run a leg and wait for its end; called from a thread of its own."""
        if self._thread is None or self._services is None:
            raise RuntimeError("the worker loop was not started")
        self._thread.run(execute_run(session_id, run_id, leg, self._services))

    def shut_down(self) -> None:
        """Take no more runs and release those that run; returns at once. Safe in a signal handler."""
        if self._thread is not None:
            self._thread.loop.call_soon_threadsafe(self.attempts.shut_down)
        if self._heartbeat is not None:
            self._heartbeat.nudge()

    def close(self) -> None:
        """Disconnect; call it when no run is left."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._heartbeat is not None:
            self._heartbeat.stop()
        try:
            thread.run(self._stack.aclose(), CLOSE_TIMEOUT)
        except TimeoutError:
            logger.warning("a service did not let go within %g s", CLOSE_TIMEOUT, extra={"action": "close_timeout"})
        finally:
            thread.stop()

    async def _connect(self) -> WorkerServices:
        settings, stack, amqp_url = self._settings, self._stack, self._settings.required_amqp_url()
        engine = create_engine(settings, name=self.process)
        stack.push_async_callback(close_engine, engine)
        tail = GuardedTail(TailStore.from_url(settings.required_redis_url(), settings.redis_prefix))
        stack.push_async_callback(tail.close)
        commands = await CommandClient.connect(amqp_url, f"{self.process}-commands")
        stack.push_async_callback(commands.close)
        lanes = await LanePublisher.connect(amqp_url, f"{self.process}-lanes")
        stack.push_async_callback(lanes.close)
        control = await ControlConsumer.connect(amqp_url, self.process, self.attempts.cancel)
        stack.push_async_callback(control.close)
        self._control = control
        # What it reads of a run is pinned: a transaction would only be two more round trips.
        reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        services = WorkerServices(settings, self.process, commands, lanes, tail, reading, self.attempts)
        read_together(services.reading_window)
        return services


def process_id() -> str:
    """A name that no other worker process has or had."""
    return f"worker-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


_current: WorkerLoop | None = None
_lock = threading.Lock()


def current_worker() -> WorkerLoop:
    """This process's loop; made of the environment's settings and started on first use."""
    with _lock:
        if _current is None:
            loop = WorkerLoop(Settings())
            loop.start()
            _install(loop)
        assert _current is not None
        return _current


def running_worker() -> WorkerLoop | None:
    """This process's loop, if it has been started. Takes no lock: signal handlers call it."""
    return _current


def use_worker(loop: WorkerLoop | None) -> None:
    """Let this process's tasks run on `loop`."""
    with _lock:
        _install(loop)


def _install(loop: WorkerLoop | None) -> None:
    global _current
    _current = loop


def _forget() -> None:
    """A forked child has no thread: it starts a loop of its own."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
