"""A session in memory: applies decisions, remembers what a database would, and checks what must always hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from callboard_actors.decide import decide
from callboard_actors.evolve import evolve
from callboard_actors.facts import Facts, KnownAttempt, KnownRun, Policy, Takeover
from callboard_actors.replies import Decided, answer
from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventBatch, EventId
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import ENDED, PendingToolCall, RunStatus, StateSnapshot
from callboard_runtime.domain.usage import UsageTotals

USER, THREAD = "ada", "t1"
SESSION = session_uuid(USER, THREAD)
START = datetime(2026, 1, 1, tzinfo=UTC)

POLICY = Policy(
    deadline=timedelta(seconds=600),
    start_deadline=timedelta(seconds=3600),
    cancel_grace=timedelta(seconds=5),
    max_attempts=3,
    max_queue=3,
    tool_call_ttl=timedelta(days=7),
)


@dataclass
class Run:
    id: UUID
    client_id: str
    digest: str
    input: RunInput
    status: RunStatus = RunStatus.QUEUED
    leg: int = 1
    legs: dict[tuple[str, str], int] = field(default_factory=dict)
    ends: int = 0
    usage: UsageTotals = field(default_factory=UsageTotals)


class SessionModel:
    """What the database would hold of one session, kept from the events alone."""

    def __init__(self) -> None:
        self.snapshot = StateSnapshot()
        self.now = START
        self.runs: dict[UUID, Run] = {}
        self.messages: list[NewMessage] = []
        self.withdrawn: set[UUID] = set()
        self.log: list[tuple[EventId, AguiEvent, UUID, int]] = []
        self.closings: Counter[tuple[UUID, int]] = Counter()
        self.attempts: dict[UUID, KnownAttempt] = {}
        self.attempts_of: Counter[UUID] = Counter()
        self.alive: set[UUID] = set()
        self.tail: EventBatch | None = None  # what the living attempt showed and did not commit
        self.wakeups: set[tuple[UUID, int]] = set()
        self.told: list[e.WorkerTold] = []
        self.settled: dict[str, PendingToolCall] = {}
        self.answers: Counter[str] = Counter()

    # -- commands ------------------------------------------------------------------------------------------------------

    def accept(self, run_id: str, text: str = "hello", **changes: object) -> c.AcceptRun:
        message = NewMessage(message_id=f"m-{run_id}", role="user", content=text)
        command = c.AcceptRun(
            session_id=SESSION,
            user_id=USER,
            thread_id=THREAD,
            run_id=run_id,
            digest=f"digest of {text}",
            input=RunInput(messages=(message,)),
            not_after=self.now + timedelta(seconds=5),
        )
        return command.but(**changes)

    def cancel(self, run_id: str) -> c.CancelRun:
        late = self.now + timedelta(seconds=5)
        return c.CancelRun(session_id=SESSION, user_id=USER, run_id=run_id, not_after=late)

    def start(self, attempt_id: UUID, run_id: UUID | None = None, leg: int = 1) -> c.StartRun:
        run = run_id or self.active_id
        return c.StartRun(session_id=SESSION, run_id=run, leg=leg, attempt_id=attempt_id, process="w1")

    @property
    def active_id(self) -> UUID:
        assert self.snapshot.active is not None
        return self.snapshot.active.run_id

    def resume(self, leg_run_id: str, *answers: c.ToolAnswer, run_id: str | None = None) -> c.AcceptResume:
        return c.AcceptResume(
            session_id=SESSION,
            user_id=USER,
            run_id=run_id,
            leg_run_id=leg_run_id,
            digest=" ".join(answer.model_dump_json() for answer in answers),
            answers=answers,
            not_after=self.now + timedelta(seconds=5),
        )

    # -- carrying them out ---------------------------------------------------------------------------------------------

    def apply(self, command: c.Command) -> c.Reply:
        """Decide, evolve, remember, and check; raises what `decide` raises, with nothing changed."""
        facts = self.facts(command)
        events = decide(self.snapshot, command, facts)
        before = self.snapshot
        for event in events:
            self.snapshot = evolve(self.snapshot, event)
            self._remember(event)
        self._check()
        return answer(Decided(command, facts, before, self.snapshot, events))

    def facts(self, command: c.Command) -> Facts:
        facts = Facts(now=self.now, policy=POLICY, known_messages=frozenset(m.message_id for m in self.messages))
        if isinstance(command, c.AcceptRun | c.CancelRun):
            facts = replace(facts, run=self._known(command), config={})
        if isinstance(command, c.AcceptResume):
            facts = replace(facts, run=self._known_leg(command), settled=dict(self.settled))
        if isinstance(command, c.StartRun):
            number = self.attempts_of[command.run_id]
            facts = replace(facts, attempt=self.attempts.get(command.attempt_id), attempts=number)
            facts = replace(facts, input=self.runs[command.run_id].input if command.run_id in self.runs else None)
        if self.snapshot.active is not None:
            alive = self.snapshot.active.attempt_id in self.alive
            facts = replace(facts, attempt_alive=alive, takeover=self._takeover())
        if self.snapshot.queue:
            facts = replace(facts, next_input=self.runs[self.snapshot.queue[0].run_id].input)
        return facts

    def _known(self, command: c.AcceptRun | c.CancelRun) -> KnownRun | None:
        run = self.runs.get(run_uuid(USER, command.run_id))
        if run is None:
            return None
        return KnownRun(run.id, run.client_id, SESSION, run.status, run.leg, run.legs)

    def _known_leg(self, command: c.AcceptResume) -> KnownRun | None:
        named = command.run_id or command.leg_run_id
        runs = [run for run in self.runs.values() if any(used == named for used, _ in run.legs)]
        return (
            KnownRun(runs[0].id, runs[0].client_id, SESSION, runs[0].status, runs[0].leg, runs[0].legs)
            if runs
            else None
        )

    def _takeover(self) -> Takeover:
        run = self.snapshot.active
        assert run is not None
        shown = [event for _, event, run_id, leg in self.log if (run_id, leg) == (run.run_id, run.leg)]
        tail = self.tail if run.attempt_id is not None else None
        shown += [event for _, event in tail.events()] if tail else []
        return Takeover(tail, OpenParts.of(shown), tuple(self.messages))

    def _remember(self, event: e.Event) -> None:
        match event:
            case e.RunAccepted(run=run):
                legs = {(run.client_run_id, event.digest): 1}
                self.runs[run.run_id] = Run(run.run_id, run.client_run_id, event.digest, event.input, legs=legs)
            case e.RunDispatched():
                self.wakeups.add((event.run_id, event.leg))
            case e.MessagesAppended():
                assert event.first_seq == len(self.messages) + 1
                self.messages += event.messages
            case e.MessagesWithdrawn():
                self.withdrawn.add(event.run_id)
            case e.AttemptStarted():
                self.attempts_of[event.run_id] += 1
                self.alive.add(event.attempt_id)
                self.tail = None
                self.wakeups.discard((event.run_id, event.leg))
                self._opening_of = event
            case e.EventsCommitted():
                self._commit(event)
            case e.StepsRecorded():
                for record in event.records:
                    self._bill(event.run_id, record.usage)
            case e.StepLost():
                self._bill(event.run_id, event.usage)
            case e.LegOpened():
                self.runs[event.run_id].legs.setdefault((event.client_run_id, event.digest), event.leg)
                self.runs[event.run_id].leg = event.leg
            case e.ToolCallSettled(call=call):
                self.answers[call.tool_call_id] += 1
                assert self.answers[call.tool_call_id] == 1, "a call was answered twice"
                self.settled[call.tool_call_id] = call
            case e.WorkerTold():
                self.told.append(event)
            case e.RunEnded():
                run_row = self.runs[event.run_id]
                assert run_row.status not in ENDED, "a run ended twice"
                run_row.status = event.status
                self.wakeups = {wakeup for wakeup in self.wakeups if wakeup[0] != event.run_id}
            case _:
                pass

    def _bill(self, run_id: UUID, usage: object) -> None:
        from callboard_runtime.domain.usage import CallUsage

        if isinstance(usage, CallUsage):
            self.runs[run_id].usage = self.runs[run_id].usage.plus(usage)

    def _commit(self, event: e.EventsCommitted) -> None:
        last = self.log[-1][0] if self.log else ORIGIN
        assert event.previous == last
        first = EventId(event.batch.epoch, event.batch.first_seq)
        follows = first == EventId(last.epoch, last.seq + 1)
        assert follows or (first.epoch > last.epoch and first.seq == 1), f"{first} after {last}"
        self.log += [(event_id, line, event.run_id, event.leg) for event_id, line in event.batch.events()]
        self.closings[event.run_id, event.leg] += event.closing
        started = getattr(self, "_opening_of", None)
        if started is not None and started.epoch == event.batch.epoch and event.batch.first_seq == 1:
            number = self.attempts_of[started.run_id]
            known = KnownAttempt(started.attempt_id, started.epoch, number, event.batch)
            self.attempts[started.attempt_id] = known
        self.tail = self.tail.after(event.batch.last_seq) if self.tail and self.tail.epoch == first.epoch else None

    # -- what must always hold -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        s = self.snapshot
        assert s.message_count == len(self.messages)
        assert len({message.message_id for message in self.messages}) == len(self.messages)
        assert s.log_position == (self.log[-1][0] if self.log else ORIGIN)
        assert max(self.closings.values(), default=0) <= 1, "a leg was closed twice"
        assert len({run.run_id for run in s.queue}) == len(s.queue)
        assert not (s.queue and s.active is None), "a run waits although the session is free"
        self._check_runs()
        total = UsageTotals()
        for run in self.runs.values():
            total = _sum(total, run.usage)
        assert total == s.usage, "the runs' usage is not the session's"

    def _check_runs(self) -> None:
        s = self.snapshot
        known = {run.run_id for run in s.queue} | ({s.active.run_id} if s.active else set())
        live = {run.id for run in self.runs.values() if run.status not in ENDED}
        assert known == live, "a run is neither ended nor known"
        if s.active is not None:
            assert s.active.usage == self.runs[s.active.run_id].usage
            waits = s.active.attempt_id is None and s.active.status is RunStatus.QUEUED
            assert not waits or (s.active.run_id, s.active.leg) in self.wakeups, "nobody will start this run"


def _sum(a: UsageTotals, b: UsageTotals) -> UsageTotals:
    return UsageTotals(**{name: getattr(a, name) + getattr(b, name) for name in UsageTotals.model_fields})
