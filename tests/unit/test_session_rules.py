"""Random histories of one session: clients, workers that die, redeliveries, time. What must always hold does."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from decimal import Decimal

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import batch
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage
from callboard_runtime.domain.state_snapshot import ENDED, RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import Refused, StaleEpoch

from .session_model import SESSION, SessionModel


class SessionRules(RuleBasedStateMachine):
    """One session, one worker that may be killed and replaced at any point, and a broker that repeats messages."""

    def __init__(self) -> None:
        super().__init__()
        self.model = SessionModel()
        self.random = random.Random(7)
        self.run_ids: list[str] = []
        self.applied: list[tuple[c.Command, c.Reply]] = []
        self.held: tuple[uuid.UUID, int] | None = None  # what the worker believes: run, epoch
        self.ordinal = 0
        self.seq = 0
        self.open = OpenParts()
        self.steps: list[str] = []
        self.granted = 0

    def send(self, command: c.Command) -> c.Reply | Refused:
        before = self.model.snapshot
        try:
            reply = self.model.apply(command)
        except Refused as error:
            assert self.model.snapshot is before, "a refused command changed something"
            return error
        self.applied.append((command, reply))
        return reply

    # -- clients -------------------------------------------------------------------------------------------------------

    @rule(strategy=st.sampled_from([None, *MultitaskStrategy]))
    def accept(self, strategy: MultitaskStrategy | None) -> None:
        run_id = f"r{len(self.run_ids)}"
        if isinstance(self.send(self.model.accept(run_id, strategy=strategy)), c.Reply):
            self.run_ids.append(run_id)

    @precondition(lambda self: self.run_ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.send(self.model.cancel(data.draw(st.sampled_from(self.run_ids))))

    @precondition(lambda self: self.run_ids)
    @rule(data=st.data())
    def same_id_other_body(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.run_ids))
        refused = self.send(self.model.accept(run_id, "something else"))
        assert isinstance(refused, Refused)
        assert refused.code == "RUN_ID_CONFLICT"

    # -- workers -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.snapshot.active is not None)
    @rule()
    def start(self) -> None:
        active = self.model.snapshot.active
        assert active is not None
        reply = self.send(self.model.start(uuid.UUID(int=self.random.getrandbits(128)), leg=active.leg))
        if isinstance(reply, c.Reply) and isinstance(reply.answer, c.StartAnswer):
            self.held = (active.run_id, reply.answer.epoch)
            self.ordinal, self.seq, self.steps = 0, reply.answer.opening.last_seq, []
            self.open = OpenParts()

    def work(self, kind: type, **fields: object) -> c.Reply | Refused:
        """A command of the worker, with the events that it has not committed yet."""
        assert self.held is not None
        run_id, epoch = self.held
        tail = self.model.tail if self.model.tail and self.model.tail.epoch == epoch else None
        place = {"session_id": SESSION, "run_id": run_id, "epoch": epoch, "ordinal": self.ordinal + 1, "events": tail}
        reply = self.send(kind(**place, **fields))
        if isinstance(reply, StaleEpoch):
            self.held = None
        else:
            self.ordinal += 1
        return reply

    @precondition(lambda self: self.held is not None)
    @rule(size=st.integers(1, 4))
    def show(self, size: int) -> None:
        """Events that readers see before they are committed."""
        assert self.held is not None
        snapshot = self.model.snapshot
        if snapshot.active is None or (snapshot.active.run_id, snapshot.epoch) != self.held:
            return  # the tail is fenced: nobody sees a stale worker's events
        events = [{"type": "TEXT_MESSAGE_START", "messageId": f"a{snapshot.epoch}-{self.seq}", "role": "assistant"}]
        events += [{"type": "TEXT_MESSAGE_CONTENT", "messageId": events[0]["messageId"], "delta": "word "}] * size
        for event in events:
            self.open.see(event)
        tail = self.model.tail
        self.model.tail = batch(snapshot.epoch, self.seq + 1, events)
        if tail is not None:
            lines = tail.lines + self.model.tail.lines
            self.model.tail = tail.model_copy(update={"lines": lines})
        self.seq += len(events)

    @precondition(lambda self: self.held is not None)
    @rule()
    def begin(self) -> None:
        key = f"s{len(self.applied)}"
        step = c.StepBegin(
            key=key, kind="model", name="answer", digest="d", provider="p", model="m", input_tokens=10,
            input_price="0.001", output_price="0.002",
        )  # fmt: skip
        reply = self.work(c.BeginStep, steps=(step,))
        granted = isinstance(reply, c.Reply) and isinstance(reply.answer, c.StepAnswer) and not reply.answer.cancelling
        if granted:
            self.steps.append(key)
            self.granted += 1

    @precondition(lambda self: self.held is not None and self.steps)
    @rule(estimated=st.booleans())
    def record(self, estimated: bool) -> None:
        usage = CallUsage(
            provider="p", model="m", input_tokens=10, output_tokens=5, cost=Decimal("0.02"), estimated=estimated
        )
        key = self.steps.pop()
        message = NewMessage(message_id=f"answer-{key}", role="assistant", content="word")
        self.work(c.RecordStep, records=(c.StepRecord(key=key, usage=usage),), messages=(message,))

    def closings(self) -> None:
        """The worker closes what it opened, as its translator does before it ends a run."""
        events = self.open.closings()
        if self.held is None or not events:
            return
        self.open = OpenParts()
        fresh = batch(self.held[1], self.seq + 1, events)
        tail = self.model.tail if self.model.tail and self.model.tail.epoch == self.held[1] else None
        if self.model.snapshot.epoch == self.held[1]:
            self.model.tail = fresh if tail is None else tail.model_copy(update={"lines": tail.lines + fresh.lines})
        self.seq += len(events)

    @precondition(lambda self: self.held is not None)
    @rule(failed=st.booleans())
    def finish(self, failed: bool) -> None:
        self.closings()
        status = RunStatus.FAILED if failed else RunStatus.SUCCEEDED
        self.work(c.FinishRun, status=status, error_code="MODEL_AUTH" if failed else None)
        self.held = None

    @precondition(lambda self: self.held is not None)
    @rule()
    def release(self) -> None:
        self.closings()
        self.work(c.ReleaseRun)
        self.held = None

    @rule()
    def kill(self) -> None:
        """The worker's process is gone; what it believed may still arrive late."""
        self.model.alive.clear()

    # -- time, sweeper, broker -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 6, 601, 4000]))
    def wait(self, seconds: int) -> None:
        self.model.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.model.snapshot.active is not None)
    @rule()
    def sweep(self) -> None:
        active = self.model.snapshot.active
        assert active is not None
        if active.attempt_id is not None and active.attempt_id not in self.model.alive:
            self.send(c.ReapAttempt(session_id=SESSION, run_id=active.run_id, attempt_id=active.attempt_id))
        self.send(c.EnforceDeadline(session_id=SESSION, run_id=active.run_id))

    @precondition(lambda self: self.applied)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        """Any command may come again, at any time: it changes nothing and is answered as before."""
        command, first = data.draw(st.sampled_from(self.applied))
        if isinstance(command, c.ReapAttempt | c.EnforceDeadline):
            return
        before = self.model.snapshot
        again = self.send(command)
        assert self.model.snapshot == before, f"a repeated {command.type} changed something"
        if isinstance(command, c.AcceptRun) and isinstance(again, c.Reply):
            assert isinstance(again.answer, c.RunAnswer)
            assert isinstance(first.answer, c.RunAnswer)
            assert again.answer.task_id == first.answer.task_id

    # -- what must always hold, beyond the model's own checks ----------------------------------------------------------

    @invariant()
    def ended_runs_have_closed_legs(self) -> None:
        started = {run_id for _, _, run_id, _ in self.model.log}
        for run in self.model.runs.values():
            if run.status in ENDED and run.id in started:
                assert self.model.closings[run.id, run.leg] == 1

    @invariant()
    def every_leg_reads_as_a_legal_stream(self) -> None:
        parts = OpenParts()
        running = False
        for _, event, _, _ in self.model.log:
            kind = event["type"]
            assert running or kind == "RUN_STARTED"
            assert kind != "RUN_STARTED" or not running
            assert kind != "RUN_FINISHED" or not parts.closings(), "something was left open"
            running = kind not in ("RUN_FINISHED", "RUN_ERROR")
            parts.see(event)

    @invariant()
    def calls_are_billed_once(self) -> None:
        open_steps = len(self.model.snapshot.active.open_steps) if self.model.snapshot.active else 0
        assert self.model.snapshot.usage.calls + open_steps == self.granted


SessionRules.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestSessionRules = SessionRules.TestCase
