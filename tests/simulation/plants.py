"""Bugs planted on purpose, each as a few lines over production code: a simulation that does not find them is no proof.

`PLANTS[name]` has a context manager; inside it the bug is there. `STORE` holds those that sabotage the store itself.
Each names the promise that it breaks, and how that is said: nothing else counts as found.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from callboard_actors import groups, mailbox
from callboard_actors.decide import answers, attempts, clients, endings
from callboard_actors.decide import turn as turns
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.state_snapshot import ToolCallStatus
from callboard_runtime.entry.ahead import Ahead
from callboard_runtime.entry.attempt import Attempt
from callboard_runtime.errors import StaleEpoch
from simulation import workers
from simulation.checks import Broken
from simulation.world import World

Plant = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Bug:
    """What is planted, and the violation by which it must be found."""

    promise: int
    says: str  # a regular expression
    plant: Plant = contextlib.nullcontext
    sabotage: Callable[[World], None] = lambda _world: None

    def is_shown_by(self, broken: Broken) -> bool:
        told = re.compile(f"promise {self.promise}: .*{self.says}", re.DOTALL)
        return any(told.match(violation) for violation in broken.what)


def _patch(target: object, name: str, value: object) -> Plant:
    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        with mock.patch.object(target, name, value):
            yield

    return planted


def _handler(kind: type, value: object) -> Plant:
    from callboard_actors.decide import HANDLERS

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        with mock.patch.dict(HANDLERS, {kind: value}):
            yield

    return planted


# -- what is planted ---------------------------------------------------------------------------------------------------


real_put = mailbox.PartitionMailboxes.put


def _ack_before_commit(self: Any, envelope: Any) -> None:
    envelope.delivery.ack()
    real_put(self, envelope)


real_commit = groups.Groups._commit


async def _commit_later(self: Any, group: Any) -> None:
    group[0].home.after(real_commit(self, group))


real_without = groups._without


def _drops_the_group(group: Any, lost: Any) -> Any:
    real_without(group, lost)
    return []


def _never_stale(snapshot: Any, command: Any) -> bool:
    run = snapshot.active
    return run is None or run.run_id != command.run_id or run.attempt_id is None


def _without_ordinals(snapshot: Any, command: Any) -> bool:
    run = snapshot.active
    if run is None or run.run_id != command.run_id or command.epoch != snapshot.epoch or run.attempt_id is None:
        raise StaleEpoch
    return False


real_start = attempts.start_run


def _forgets_attempts(turn: Any, command: Any) -> None:
    turn.facts = replace(turn.facts, attempt=None, attempt_alive=False)
    real_start(turn, command)


real_begin = attempts.begin_step


def _grants_while_cancelling(turn: Any, command: Any) -> None:
    real_begin(turn, command)
    active = turn.snapshot.active
    if active and active.status == "cancelling" and not any(isinstance(event, e.StepsBegun) for event in turn.events):
        turn.say(e.StepsBegun(command.run_id, command.epoch, command.steps))


real_close_run = attempts.close_run


def _terminal_twice(turn: Any, end: Any) -> None:
    run = turn.active
    turn.commit_events(turn.number([endings.terminal(run, turn.snapshot.thread_id, end)]))
    real_close_run(turn, end)


def _accepts_again(turn: Any, command: Any) -> bool:
    known = turn.facts.run
    return known is not None and known.session_id == command.session_id


def _drops_lost_steps(turn: Any, shown_characters: int = 0) -> None:
    pass


real_call_model = workers.ScriptedCrew._call_model


async def _calls_before_begin(self: Any, key: str, *, fails: bool = False) -> None:
    if self._attempt.find(key) is None:
        epoch = self._attempt.hold.epoch if isinstance(self._attempt, Attempt) else 0  # none is granted yet
        await self._process.call(lambda: self._world.provider_called(self._brief.run_id, key, epoch))
    await real_call_model(self, key, fails=fails)


def _grants_without_steps(turn: Any, command: Any) -> None:
    real_start(turn, command.but(steps=()))


real_granted = Ahead.granted


def _takes_steps_as_granted(self: Any, attempt: Any, emitter: Any, *, begun: bool) -> None:
    real_granted(self, attempt, emitter, begun=True)


@contextlib.contextmanager
def _first_steps_ungranted() -> Iterator[None]:
    """The actor keeps no first step, and the worker does not look whether it did."""
    with _handler(c.StartRun, _grants_without_steps)(), mock.patch.object(Ahead, "granted", _takes_steps_as_granted):
        yield


def _answers_any_time(turn: Any, command: Any, store: Any, answer: Any) -> Any:
    calls = turn.snapshot.pending_tool_calls
    call = next((call for call in calls if call.tool_call_id == answer.tool_call_id), None)
    return call and call.but(status=ToolCallStatus.EXECUTED, answered_by=command.user_id, answer=answer.payload)


def _renumbers(self: Any, events: Any) -> Any:
    s = self.snapshot
    return turns.batch(s.epoch, s.log_seq if s.log_epoch == s.epoch else 1, events)


def _does_nothing(turn: Any, command: Any) -> None:
    return None


# -- by name -----------------------------------------------------------------------------------------------------------

PLANTS: dict[str, Bug] = {
    "ack_before_commit": Bug(
        5, "was acknowledged and has had no effect", _patch(mailbox.PartitionMailboxes, "put", _ack_before_commit)
    ),
    "reply_before_commit": Bug(1, "was accepted and is not stored", _patch(groups.Groups, "_commit", _commit_later)),
    "fenced_group_lost": Bug(1, "not at rest", _patch(groups, "_without", _drops_the_group)),
    "no_epoch_check": Bug(5, r"IntegrityError\(.messages", _patch(attempts, "is_repeated", _never_stale)),
    "no_ordinals": Bug(5, r"IntegrityError\(.messages", _patch(attempts, "is_repeated", _without_ordinals)),
    "no_attempt_memory": Bug(5, r"IntegrityError\(.run_attempts", _handler(c.StartRun, _forgets_attempts)),
    "no_run_dedup": Bug(5, "RunIdTaken", _patch(clients, "_is_repeated", lambda _turn, _command: False)),
    "any_body_dedup": Bug(
        6, r"with another body was answered RunAnswer\(", _patch(clients, "_is_repeated", _accepts_again)
    ),
    "grant_while_cancelling": Bug(8, "was granted after its cancel", _handler(c.BeginStep, _grants_while_cancelling)),
    "terminal_twice": Bug(2, "'RUN_FINISHED', 'RUN_FINISHED'", _patch(attempts, "close_run", _terminal_twice)),
    "lost_calls_unbilled": Bug(9, "was never closed", _patch(endings, "lose_open_steps", _drops_lost_steps)),
    "second_answer_taken": Bug(7, "took two answers", _patch(answers, "_match", _answers_any_time)),
    "model_called_before_begin": Bug(
        9, "was asked without a row", _patch(workers.ScriptedCrew, "_call_model", _calls_before_begin)
    ),
    "first_steps_ungranted": Bug(9, "was asked without a row", _first_steps_ungranted),
    "reaper_wakes_nobody": Bug(1, "RUN_DEADLINE", _handler(c.ReapAttempt, _does_nothing)),
    "events_dropped": Bug(
        5, "AppendEvents was acknowledged and has had no effect", _handler(c.AppendEvents, _does_nothing)
    ),
    "overlapping_numbers": Bug(3, "follows .* in the log", _patch(turns.Turn, "number", _renumbers)),
}


def _without_partition_check(world: World) -> None:
    world.tables.checks_partition = False


def _without_any_check(world: World) -> None:
    world.tables.checks_partition = world.tables.checks_version = False


FOREIGN = "a former owner of the partition has written"
STORE: dict[str, Bug] = {
    "no_partition_epoch": Bug(4, FOREIGN, sabotage=_without_partition_check),
    "no_fences_at_all": Bug(4, FOREIGN, sabotage=_without_any_check),
}

EVERY = {**PLANTS, **STORE}


def find(name: str, seeds: range) -> tuple[int, Broken] | None:
    """The first schedule that shows the bug as it must, and how; None if none does.

    Raises whatever else goes wrong: what breaks the simulation or its checks has not been found by them.
    """
    bug = EVERY[name]
    for seed in seeds:
        with bug.plant():
            try:
                World(seed, sabotage=bug.sabotage).run()
            except Broken as broken:
                if bug.is_shown_by(broken):
                    return seed, broken
    return None
