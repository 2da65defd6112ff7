"""What must hold of a simulated installation at rest: the promises, read from the tables and the ledgers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from callboard_actors.writes import Row
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus, StateSnapshot
from unit.agui_verifier import Violation, verify

if TYPE_CHECKING:
    from simulation.store import Tables
    from simulation.world import World

TERMINAL = ("RUN_FINISHED", "RUN_ERROR")
TOTALS = ("input_tokens", "output_tokens", "total_tokens", "cost", "unpriced_calls")


class Broken(AssertionError):
    """A schedule that violates a promise."""

    def __init__(self, seed: int, what: list[str]) -> None:
        self.seed, self.what = seed, what
        super().__init__("\n".join([f"CALLBOARD_TEST_SEED={seed}", *what[:10]]))

    @property
    def promises(self) -> set[int]:
        """The numbers of the promises that were broken."""
        return {int(item.split(":")[0].removeprefix("promise ")) for item in self.what}


def check_all(world: World) -> None:
    """Note every violation in `world`."""
    strays = [context for context in world.loop.stray if "exception" in context]
    world.require(not strays, 5, f"an exception that nobody received: {strays[:2]}")
    world.require(
        not world.broker.dead_letters, 5, f"dead letters: {[m.body[:200] for m in world.broker.dead_letters]}"
    )
    for session in world.tables.of("sessions"):
        if session["status"] != "deleted":
            _check_log(world, session)
            _check_messages(world, session)
            _check_usage(world, session)
    _check_runs(world)
    _check_announced(world)
    _check_provider(world)
    _check_clients(world)


def _log(world: World, session_id: UUID) -> Iterator[tuple[EventId, str, Row]]:
    segments = world.tables.of("event_segments", session_id=session_id)
    for row in sorted(segments, key=lambda row: (row["epoch"], row["first_seq"])):
        for offset, line in enumerate(row["lines"].split("\n")):
            yield EventId(row["epoch"], row["first_seq"] + offset), line, row


def _check_log(world: World, session: Row) -> None:
    log = list(_log(world, session["id"]))
    ids = [at for at, _, _ in log]
    for last, at in pairwise([ORIGIN, *ids]):
        follows = at == EventId(last.epoch, last.seq + 1) or (at.epoch > last.epoch and at.seq == 1)
        world.require(follows, 3, f"{at} follows {last} in the log")
    position = EventId(session["log_epoch"], session["log_seq"])
    world.require(position == (ids[-1] if ids else ORIGIN), 3, f"the log ends at {ids[-1:]}, not at {position}")
    for at, line, _ in log:
        shown = world.streams.shown.get((session["id"], at), line)
        world.require(shown == line, 3, f"{at} was shown as {shown} and committed as {line}")
    _check_legs(world, log)


def _check_legs(world: World, log: list[tuple[EventId, str, Row]]) -> None:
    legs: dict[tuple[UUID, int], list[dict[str, Any]]] = {}
    for _, line, row in log:
        legs.setdefault((row["run_id"], row["leg"]), []).append(orjson.loads(line))
    for (run_id, leg), events in legs.items():
        kinds = [event["type"] for event in events]
        whole = kinds[0] == "RUN_STARTED" and kinds.count("RUN_STARTED") == 1
        ends = [kind for kind in kinds if kind in TERMINAL]
        world.require(whole and len(ends) == 1 and kinds[-1] == ends[0], 2, f"leg {leg} of {run_id}: {kinds}")
        try:
            verify(events)
        except Violation as error:
            world.require(False, 3, f"leg {leg} of {run_id}: {error}")
        closings = sum(bool(row["closing"]) for row in world.tables.of("event_segments", run_id=run_id, leg=leg))
        world.require(closings == 1, 2, f"leg {leg} of {run_id} has {closings} closings")
    for run_id in {run_id for run_id, _ in legs}:
        last = max(leg for run, leg in legs if run == run_id)
        _check_terminal(world, world.tables.rows["runs"][run_id,], legs[run_id, last][-1])


def _check_terminal(world: World, run: Row, event: dict[str, Any]) -> None:
    outcome = event.get("outcome", {}).get("type", "success") if event["type"] == "RUN_FINISHED" else "error"
    expected = {"success": "succeeded", "cancelled": "cancelled", "error": "failed", "interrupt": "awaiting_input"}
    world.require(expected[outcome] == run["status"], 2, f"run {run['id']} is {run['status']}, its terminal {outcome}")


def _check_messages(world: World, session: Row) -> None:
    rows = sorted(world.tables.of("messages", session_id=session["id"]), key=lambda row: row["seq"])
    numbers = [row["seq"] for row in rows]
    world.require(numbers == list(range(1, len(rows) + 1)), 5, f"messages are numbered {numbers}")
    world.require(session["message_count"] == len(rows), 5, f"{session['message_count']} messages, not {len(rows)}")
    for run in world.tables.of("runs", session_id=session["id"]):
        roles = [row["role"] for row in rows if row["run_id"] == run["id"]]
        world.require(not roles or roles[0] == "user", 5, f"the answer of {run['id']} stands before its question")
        started = next(world.tables.of("run_attempts", run_id=run["id"]), None)
        world.require(not started or "user" in roles, 1, f"the message of {run['id']} is lost")


def _check_usage(world: World, session: Row) -> None:
    sums = {name: Decimal(0) for name in TOTALS}
    for run in world.tables.of("runs", session_id=session["id"]):
        calls = list(world.tables.of("llm_calls", run_id=run["id"]))
        for name in ("input_tokens", "output_tokens"):
            own = sum(call.get(name, 0) for call in calls)
            world.require(own == run.get(name, 0), 9, f"{run['id']}: {name} {run.get(name, 0)}, its calls {own}")
        cost = sum((Decimal(call["cost"]) for call in calls if call.get("cost") is not None), Decimal(0))
        stored = Decimal(run.get("cost", 0))
        world.require(cost == stored, 9, f"{run['id']} cost {stored}, its calls {cost}")
        world.require(run.get("calls", 0) == len(calls), 9, f"{run['id']}: {run.get('calls', 0)} of {len(calls)} calls")
        for name in TOTALS:
            sums[name] += Decimal(run.get(name, 0))
    for name in TOTALS:
        world.require(sums[name] == Decimal(session.get(name, 0)), 9, f"the session's {name} is not that of its runs")


def _check_runs(world: World) -> None:
    for run in world.tables.of("runs"):
        decided = world.ended.get(run["id"])
        world.require(
            decided is None or decided == run["status"], 2, f"run {run['id']} ended {decided}, is {run['status']}"
        )
        world.require(
            run["status"] != "failed" or run.get("error_code") in FAILURES, 1, f"{run['id']}: {run.get('error_code')}"
        )
    for call in world.tables.of("llm_calls"):
        world.require(call["status"] != "begun", 9, f"a call of {call['run_id']} was never closed")
    open_ones = [row["attempt_id"] for row in world.tables.of("run_attempts") if row.get("ended_at") is None]
    world.require(not open_ones, 2, f"attempts without an end: {open_ones}")


ENDS = {RunStatus.SUCCEEDED: "finished", RunStatus.FAILED: "failed", RunStatus.CANCELLED: "cancelled"}


def _check_announced(world: World) -> None:
    """Every end that was decided was told to integrations, under one message id however often it was sent."""
    for run_id, status in world.ended.items():
        told = sorted(name for _, run, name in world.broker.announced if run == run_id and name in ENDS.values())
        world.require(told == [ENDS[status]], 2, f"run {run_id} ended {status}, integrations were told {told}")


FAILURES = ("ATTEMPTS_EXHAUSTED",)  # three deaths in a row; nothing else here is a reason to fail


def _check_provider(world: World) -> None:
    """Provider calls <= rows <= calls + kills; the excess is lost, cancelled or failed, and estimated."""
    kept = {run["id"] for run in world.tables.of("runs")}
    made = Counter(call for call in world.provider if call[0] in kept)
    world.require(max(made.values(), default=0) <= 1, 9, "a granted step was asked twice")
    rows = {(row["run_id"], row["key"], row["epoch"]): row for row in world.tables.of("llm_calls")}
    world.require(made.keys() <= rows.keys(), 9, "a provider call has no row")
    for key in rows.keys() - made.keys():
        row = rows[key]
        world.require(row["status"] in ("lost", "cancelled") and row.get("estimated"), 9, f"{row} was never made")
    for row in rows.values():
        exact = row["status"] == "recorded"
        world.require(
            exact != bool(row.get("estimated")) or row["status"] == "failed", 9, f"{row['status']} is no estimate"
        )


def _check_clients(world: World) -> None:
    for browser in world.browsers:
        deleted = browser.snapshot.status == "deleted"
        for run_id in browser.accepted:
            there = any(True for _ in world.tables.of("runs", client_run_id=run_id))
            world.require(there or deleted, 1, f"{run_id} was accepted and is gone")
        for run, said in browser.cancelled.items():
            status = world.tables.rows["runs"].get((run,), {"status": None})["status"]
            said = RunStatus.CANCELLED if said is RunStatus.CANCELLING else said
            world.require(deleted or status == said, 8, f"cancel of {run} was answered {said}, it is {status}")
        for call_id, payload in browser.answered.items():
            settled = [row for row in world.tables.of("run_steps", tool_call_id=call_id) if row["kind"] == "answer"]
            world.require(deleted or len(settled) == 1, 7, f"{call_id} has {len(settled)} answers, {payload} was taken")


def took_effect(tables: Tables, command: dict[str, Any]) -> bool:
    """Whether an acknowledged command is to be seen in the tables."""
    rows, session = tables.rows, tables.rows["sessions"].get((UUID(command["session_id"]),))
    state = StateSnapshot.load(session["state_snapshot"]) if session else StateSnapshot()
    if state.status is SessionStatus.DELETED:
        return True
    match command["type"]:
        case "AcceptRun":
            return any(True for _ in tables.of("runs", client_run_id=command["run_id"]))
        case "StartRun" if (UUID(command["run_id"]),) in rows["runs"]:
            exhausted = rows["runs"][UUID(command["run_id"]),].get("ended_at") is not None
            return exhausted or (UUID(command["attempt_id"]),) in rows["run_attempts"]
        case "BeginStep" | "RecordStep" | "AppendEvents" | "FinishRun" | "RequestTools" | "ReleaseRun":
            return _reached(state, command)
        case _:
            return True


def _reached(state: StateSnapshot, command: dict[str, Any]) -> bool:
    """Whether the attempt of this command has come as far; of one that was taken away nothing can be said."""
    if command["epoch"] == state.closed_epoch:
        return command["ordinal"] <= state.closed_ordinal
    run = state.active
    holds = run is not None and str(run.run_id) == command["run_id"] and run.attempt_id is not None
    if run is None or not holds or command["epoch"] != state.epoch:
        return True
    return command["ordinal"] <= run.last_ordinal
