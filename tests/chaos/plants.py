"""Bugs planted into real processes on purpose: the checker must find each of them.

Those of the simulation serve here, too, where they change production code; these change what it does not have.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from chaos.load import KINDS
from simulation import plants as simulated

WIDE = 0.5  # seconds between what should have been one thing, so that a blow finds the gap
SLOW_SUCCESSOR = 4.0  # seconds
_kept = ExitStack()  # what is planted stays for the life of the process


def _think_before_commit() -> None:
    """Time between a decision and its commit, so that a freeze finds one there."""
    from callboard_actors.store import PostgresStore

    real = PostgresStore.commit

    async def commit(self: Any, *arguments: Any) -> Any:
        await asyncio.sleep(WIDE)
        return await real(self, *arguments)

    PostgresStore.commit = commit  # type: ignore[method-assign]


def _no_fences() -> None:
    """Any process may write any session, on any version of it."""
    from callboard_actors import commit

    _think_before_commit()

    commit._guards = lambda _table: []
    commit.Statement._verdict = lambda _self, _sessions, _runs: "SELECT true"  # type: ignore[method-assign]


def _usage_in_a_callback() -> None:
    """Some usage never arrives, as with callbacks that are lost."""
    from callboard_runtime.domain.usage import CallUsage
    from callboard_runtime.llm.request import Request

    real = Request.usage

    def usage(self: Any, *arguments: Any) -> CallUsage:
        found = real(self, *arguments)
        return found.model_copy(update={"input_tokens": 0, "output_tokens": 0}) if random.random() < 0.3 else found

    Request.usage = usage  # type: ignore[method-assign]


def _tool_replayed() -> None:
    """A tool is started again whatever the journal says."""
    from callboard_runtime.entry.attempt import Attempt

    real = Attempt.find

    def find(self: Any, key: str) -> Any:
        row = real(self, key)
        return None if row is not None and row.kind == "tool" else row

    Attempt.find = find  # type: ignore[method-assign]


def _journal_forgotten() -> None:
    """A new attempt begins from nothing."""
    from callboard_runtime.entry.attempt import Attempt

    Attempt.find = lambda _self, _key: None  # type: ignore[method-assign, assignment]
    Attempt.unreplayed = lambda _self: ()  # type: ignore[method-assign]


def _sweeper_sleeps() -> None:
    """Nobody looks for what died."""
    from callboard_actors.sweeper import Sweeper

    async def nothing(_self: Any, _connection: Any) -> None:
        return None

    Sweeper._reap = nothing  # type: ignore[method-assign]


def _ack_before_commit() -> None:
    """Whatever is taken from a queue is acknowledged at once, and done a little later."""
    from callboard_actors import mailbox
    from callboard_http import ingress

    take_in = simulated.real_put

    async def acknowledged_first(self: Any, line: Any, message: Any) -> None:
        await line.channel.basic_ack(ingress._tag(message))
        await asyncio.sleep(WIDE)
        asked = message.header.properties
        request = ingress.Request(message.routing_key or "", asked.headers or {}, message.body)
        await ingress._reply(line, message, await self._answer(request))

    def put(self: Any, envelope: Any) -> None:
        envelope.delivery.ack()
        asyncio.get_running_loop().call_later(WIDE, take_in, self, envelope)

    ingress.Ingress._handle = acknowledged_first  # type: ignore[method-assign]
    mailbox.PartitionMailboxes.put = put  # type: ignore[method-assign]


def _no_version_check() -> None:
    """A decision is written over whatever state the row has by now; and after an outage nobody reads it again.

    The outage falls right behind the commit now and then, as a cut connection would make it.
    """
    from callboard_actors import commit
    from callboard_actors.sessions import Sessions
    from callboard_actors.store import PostgresStore
    from callboard_runtime.errors import Unavailable

    guards, written = commit._guards, PostgresStore.commit

    async def cut_behind(self: Any, *arguments: Any) -> Any:
        outbox = await written(self, *arguments)
        if random.random() < 0.1:
            raise Unavailable("the connection broke behind the commit")
        return outbox

    commit._guards = lambda table: [] if table == "sessions" else guards(table)
    Sessions.forget = lambda _self, _ids: None  # type: ignore[method-assign, assignment]
    PostgresStore.commit = cut_behind  # type: ignore[method-assign]


def _no_partition_epoch() -> None:
    """A former owner may write; and its successor takes its time, so that the former one is not too late."""
    from callboard_actors import commit, ownership

    _think_before_commit()

    taken = ownership.PartitionOwner._taken
    fence = commit._FENCE.replace("p.partition_epoch = f.epoch", "p.partition_epoch >= f.epoch")
    assert fence != commit._FENCE

    async def slowly(self: Any) -> int:
        epoch = await taken(self)
        await asyncio.sleep(SLOW_SUCCESSOR)
        return epoch

    commit._FENCE = fence  # type: ignore[misc]
    ownership.PartitionOwner._taken = slowly  # type: ignore[method-assign]


def _publish_before_commit() -> None:
    """A worker shows the end of its run, and commits it a moment later."""
    from callboard_runtime.domain.event_batch import EventId, batch
    from callboard_runtime.entry.attempt import Attempt

    finish = Attempt.finish

    async def shown_first(self: Any, **how: Any) -> None:
        emitter, leg, epoch = self._emitter, self._hold.leg, self._hold.epoch
        emitter.flush()
        await emitter.drain()
        last = emitter._ledger.sent
        event = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "success"}}
        end, before = batch(epoch, last + 1, [event]), EventId(epoch, last)
        await emitter._lanes.publish(leg.session_id, leg.run_id, leg.leg, end, before, closing=True)
        await asyncio.sleep(WIDE)
        await finish(self, **how)

    Attempt.finish = shown_first  # type: ignore[method-assign]


def _acks_late() -> None:
    """The broker's redelivery is the failover: wake-ups are acknowledged late, and whoever starts a run has it."""
    from callboard_actors import gather
    from callboard_runtime.entry import celery_app

    async def dead(*_: Any) -> bool:
        return False

    celery_app.app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
    for task in celery_app.app.tasks.values():
        task.acks_late = True
    gather._is_alive = dead


def _no_attempt_memory() -> None:
    """A StartRun that comes again is another attempt's; the broker keeps each for a moment after its answer."""
    from callboard_actors.acks import Acknowledger

    real = Acknowledger.ack

    def ack(self: Any, tag: int) -> None:
        asyncio.get_running_loop().call_later(WIDE, real, self, tag)

    Acknowledger.ack = ack  # type: ignore[method-assign]
    _kept.enter_context(simulated.PLANTS["no_attempt_memory"].plant())


OWN: dict[str, Callable[[], None]] = {
    "ack_before_commit": _ack_before_commit,
    "no_version_check": _no_version_check,
    "no_partition_epoch": _no_partition_epoch,
    "no_fences_at_all": _no_fences,
    "publish_before_commit": _publish_before_commit,
    "acks_late": _acks_late,
    "usage_in_a_callback": _usage_in_a_callback,
    "tool_replayed": _tool_replayed,
    "journal_forgotten": _journal_forgotten,
    "sweeper_sleeps": _sweeper_sleeps,
    "no_attempt_memory": _no_attempt_memory,
}

SHARED = (
    "reply_before_commit",
    "no_epoch_check",
    "no_run_dedup",
    "any_body_dedup",
    "terminal_twice",
    "lost_calls_unbilled",
    "overlapping_numbers",
)
"""Of the simulation's, those that show in real processes within minutes; the others need its witnesses."""

EVERY = (*OWN, *SHARED)


@dataclass(frozen=True)
class Scene:
    """What clients do, and what happens first, in the rounds that are to show a bug; and which promise it breaks."""

    promises: frozenset[int] = frozenset(range(1, 11))
    kinds: tuple[str, ...] = KINDS
    blows: tuple[str, ...] = ("kill worker", "freeze actors", "kill worker", "freeze worker")
    only: bool = False  # no further blows


def _breaking(*promises: int, **scene: Any) -> Scene:
    return Scene(frozenset(promises), **scene)


_FROZEN_ACTOR = {"kinds": ("talk", "publish", "cancel"), "blows": ("freeze actors",), "only": True}
_DYING_WORKERS = {"blows": ("kill worker",) * 5, "only": True}
SCENES = {
    "ack_before_commit": _breaking(1, kinds=("publish",), blows=("kill http", "kill actors") * 3, only=True),
    "no_version_check": _breaking(4),
    "no_partition_epoch": _breaking(4, **_FROZEN_ACTOR),
    "no_fences_at_all": _breaking(4, **_FROZEN_ACTOR),
    "publish_before_commit": _breaking(2, 3, kinds=("talk",), **_DYING_WORKERS),
    "acks_late": _breaking(9, kinds=("talk",), blows=("cut RabbitMQ",) * 3, only=True),
    "usage_in_a_callback": _breaking(9),
    "tool_replayed": _breaking(7, kinds=("press", "press", "launch"), **_DYING_WORKERS),
    "journal_forgotten": _breaking(7, 9),
    "sweeper_sleeps": _breaking(1),
    "no_epoch_check": Scene(kinds=("talk", "crew", "press"), blows=("freeze worker",) * 4, only=True),
    "no_attempt_memory": Scene(kinds=("talk", "crew"), blows=("kill actors", "cut RabbitMQ") * 3, only=True),
    "no_run_dedup": _breaking(5, 6),
    "any_body_dedup": _breaking(6),
    "terminal_twice": _breaking(2),
    "lost_calls_unbilled": _breaking(9),
    "overlapping_numbers": _breaking(3),
}


def scene(name: str) -> Scene:
    return SCENES.get(name, Scene())


def apply(name: str) -> None:
    """Plant the bug in this process; raises KeyError for an unknown one."""
    if name in OWN:
        OWN[name]()
    else:
        _kept.enter_context(simulated.PLANTS[name].plant())
