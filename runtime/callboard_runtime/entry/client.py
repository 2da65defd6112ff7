"""Sends clients' commands from code that has no event loop.

In:  a RunCommand or ResumeCommand
Out: the task id of the leg that it starts, after the actor's commit
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from callboard_runtime.broker.commander import RETRY_AFTER, CommandClient
from callboard_runtime.broker.large_commands import send_any_size
from callboard_runtime.domain.commands import MAX_CLAIM_BYTES, MAX_COMMAND_BYTES, AcceptResume, AcceptRun, RunAnswer
from callboard_runtime.entry.loop_thread import LoopThread
from callboard_runtime.entry.run_command import ResumeCommand, RunCommand
from callboard_runtime.errors import CallboardError, TooLarge, Unavailable
from callboard_runtime.persistence.claims import keep_command
from callboard_runtime.persistence.database import close_engine, create_engine
from callboard_runtime.settings import Settings

SPARE = 5.0  # seconds that a caller waits beyond the command's own time


class BlockingClient:
    """A command client for threads: connects in the background, on a loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._timeout = settings, settings.http.accept_timeout
        url = settings.required_amqp_url()
        self._thread = LoopThread("command-client")
        self._commands = self._thread.run(CommandClient.connect(url, f"client-{os.getpid()}"))

    def send(self, command: RunCommand | ResumeCommand) -> RunAnswer:
        """Returns once the command is durable. Raises what it was refused with, and Unavailable."""
        try:
            return self._thread.run(self._send(command.accept(self._timeout)), self._timeout + SPARE)
        except TimeoutError:  # its own time ran out long before: it hangs in what cannot be cancelled
            raise Unavailable("the command was not sent in time", retry_after=RETRY_AFTER) from None

    def close(self) -> None:
        self._thread.run(self._commands.close(), SPARE)
        self._thread.stop()

    async def _send(self, command: AcceptRun | AcceptResume) -> RunAnswer:
        answer = await send_any_size(self._commands, command, self._timeout, self._keep)
        if not isinstance(answer, RunAnswer):
            raise CallboardError(f"{command.type} was answered with {answer.type!r}")
        return answer

    async def _keep(self, session_id: UUID, body: bytes) -> UUID:
        """Leave a large command in the database; seldom, so that no connection is held for it."""
        if self._settings.database_url is None:
            limits = f"{MAX_COMMAND_BYTES}; with CALLBOARD_DATABASE_URL set, to the actors' database, {MAX_CLAIM_BYTES}"
            raise TooLarge(f"the command has {len(body)} bytes; from here it may have {limits}")
        engine = create_engine(self._settings, name="callboard-client")
        try:
            return await keep_command(engine, session_id, body)
        finally:
            await close_engine(engine)


_client: BlockingClient | None = None
_lock = threading.Lock()


def shared_client() -> BlockingClient:
    """This process's client, made of the environment's settings on first use."""
    global _client
    with _lock:
        if _client is None:
            _client = BlockingClient(Settings())
        return _client


def close_client() -> None:
    """Close this process's client, if there is one; the next use makes a new one."""
    global _client
    with _lock:
        client, _client = _client, None
    if client is not None:
        client.close()


def enqueue_run(command: RunCommand | Mapping[str, Any]) -> str:
    """Have a run accepted, and return the id of the task that will execute it.

    The run is durable when this returns. Raises InvalidInput, TooLarge, RunIdConflict, SessionBusy and the like when it
    is refused, Unavailable when no actor answered in time: send the same command again then.
    """
    return shared_client().send(RunCommand.of(command)).task_id


def enqueue_resume(command: ResumeCommand | Mapping[str, Any]) -> str:
    """Answer pending tool calls, and return the id of the task that goes on with the run.

    Raises ToolResultMismatch, NotPendingYet and the like when the answers are refused, Unavailable.
    """
    return shared_client().send(ResumeCommand.of(command)).task_id


def _forget() -> None:
    """A forked child has neither the thread nor the connection."""
    global _client, _lock
    _client, _lock = None, threading.Lock()


atexit.register(close_client)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
