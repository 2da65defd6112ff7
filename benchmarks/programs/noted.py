"""A Callboard process that also notes when a run passes it; nothing else about it differs.

In:  the file for the notes, and the process to be, as for `callboard`
Out: lines in that file: `<mark> <id of the session or the run> <Unix seconds>`

Callboard itself knows nothing of this: what a run passes through is wrapped here before the process starts.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

TEXT = "TEXT_MESSAGE_CONTENT"
Passage = Callable[..., "tuple[str, UUID | None] | None"]
"""The mark and the id that a call's arguments stand for; None: nothing is noted."""


class Notes:
    """Appends to one file; processes that are forked from this one do, too."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def take(self, passage: tuple[str, UUID | None] | None) -> None:
        if passage is not None and passage[1] is not None:
            os.write(self._file, f"{passage[0]} {passage[1]} {time.time():.6f}\n".encode())

    def at(self, owner: Any, name: str, *, before: Passage | None = None, after: Passage | None = None) -> None:
        """Wrap a function or a coroutine function; raises AttributeError when it is not there any more."""
        call = getattr(owner, name)

        @wraps(call)
        def plain(*given: Any, **named: Any) -> Any:
            self.take(before and before(*given))
            result = call(*given, **named)
            self.take(after and after(*given))
            return result

        @wraps(call)
        async def awaited(*given: Any, **named: Any) -> Any:
            self.take(before and before(*given))
            result = await call(*given, **named)
            self.take(after and after(*given))
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(call) else plain)


def commands(notes: Notes) -> None:
    """What a process asks of the actors."""
    from callboard_runtime.broker.commander import CommandClient

    notes.at(
        CommandClient,
        "send",
        before=lambda _, command, *__: (f"{command.type}.sent", command.session_id),
        after=lambda _, command, *__: (f"{command.type}.answered", command.session_id),
    )


def http(notes: Notes) -> None:
    from callboard_http.hub import Subscription

    def text(live: Subscription, _: str, __: int, chunk: Any) -> tuple[str, UUID] | None:
        return ("text.arrived", live.key.session_id) if TEXT.encode() in chunk.body else None

    commands(notes)
    notes.at(Subscription, "offer", before=text)


def actors(notes: Notes) -> None:
    from callboard_actors.groups import Groups
    from callboard_actors.mailbox import PartitionMailboxes
    from callboard_actors.relay import OutboxRelay

    notes.at(Groups, "add", before=lambda _, work: (f"{work.command.type}.taken", work.command.session_id))
    notes.at(
        PartitionMailboxes,
        "done",
        before=lambda _, work, __: (f"{work.command.type}.committed", work.command.session_id),
    )
    notes.at(OutboxRelay, "_wake", before=lambda _, wakeup: ("wake-up.sent", wakeup.session_id))


def worker(notes: Notes) -> None:
    from callboard_runtime.crew.context import CURRENT
    from callboard_runtime.entry import run_service, worker_loop
    from callboard_runtime.llm.answer import AnswerBuilder
    from callboard_runtime.llm.request import Request
    from callboard_runtime.stream.guard import GuardedTail
    from callboard_runtime.stream.lanes import LanePublisher

    def shown(mark: str, session_id: UUID, batch: Any) -> tuple[str, UUID] | None:
        return (mark, session_id) if any(TEXT in line for line in batch.lines) else None

    commands(notes)
    notes.at(worker_loop.WorkerLoop, "execute", before=lambda _, session_id, *__: ("wake-up.taken", session_id))
    notes.at(run_service, "read_first_brief", after=lambda _, run_id, __: ("brief.read", run_id))
    notes.at(Request, "run", before=lambda _: ("model.asked", CURRENT.get().run_id))
    notes.at(AnswerBuilder, "feed", before=lambda _, delta: ("text.read", CURRENT.get().run_id) if delta.text else None)
    notes.at(GuardedTail, "append", before=lambda _, session_id, batch: shown("text.sent", session_id, batch))
    notes.at(
        LanePublisher,
        "publish",
        before=lambda _, session_id, __, ___, batch, *____: shown("text.kept", session_id, batch),
    )


KINDS: dict[str, Callable[[Notes], None]] = {"http": http, "actors": actors, "worker": worker}


def main() -> None:
    path, kind = sys.argv[1:3]
    KINDS[kind](Notes(path))
    from callboard_runtime.cli import main as callboard  # late: what it imports is wrapped by now

    sys.argv[1:3] = [kind]
    callboard()


if __name__ == "__main__":
    main()
