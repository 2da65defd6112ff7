"""Random histories of one session: clients, workers that die, redeliveries, time. A failing seed replays exactly."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import AguiEvent, EventBatch, batch
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage
from callboard_runtime.domain.state_snapshot import ENDED, OPEN_CALLS, PendingToolCall, RunStatus, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import Refused, RunIdConflict, StaleEpoch

from .session_model import SESSION, SessionModel

SEEDS = int(os.environ.get("CALLBOARD_TEST_SEEDS", "400"))
STEPS = 120


class Worker:
    """What one attempt's process believes; it does not know when it is dead."""

    def __init__(self, run_id: uuid.UUID, attempt_id: uuid.UUID, answer: c.StartAnswer) -> None:
        self.run_id, self.attempt_id, self.epoch = run_id, attempt_id, answer.epoch
        self.ordinal, self.seq = 0, answer.opening.last_seq
        self.open = OpenParts()
        self.shown: list[AguiEvent] = []
        self.steps: list[str] = []

    def show(self, *events: AguiEvent) -> None:
        for event in events:
            self.open.see(event)
        self.shown += events

    def pending(self) -> EventBatch | None:
        return batch(self.epoch, self.seq + 1, self.shown) if self.shown else None


class History:
    """One session, workers that are killed and replaced at any point, and a broker that repeats messages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = SessionModel()
        self.run_ids: list[str] = []
        self.applied: list[tuple[c.Command, c.Reply]] = []
        self.workers: list[Worker] = []
        self.granted = 0
        self.number = 0

    def go(self) -> None:
        actions, weights = zip(*ACTIONS, strict=True)
        for action in self.random.choices(actions, weights, k=STEPS):
            action(self)
            self.check()
        self.settle()

    def settle(self) -> None:
        """Every accepted run comes to its end, or waits for an answer, once processes stay alive."""
        for _ in range(60):
            if self.model.snapshot.active is None or self.model.snapshot.active.status is RunStatus.AWAITING_INPUT:
                break
            self.kill()
            self.model.now += timedelta(seconds=6)
            self.sweep()
            if self.start():
                self.workers[-1:] = [self.workers[-1]]
                self.finish(self.workers[-1])
            self.check()
        active = self.model.snapshot.active
        assert active is None or active.status is RunStatus.AWAITING_INPUT, "a run has no end"

    def send(self, command: c.Command) -> c.Reply | Refused:
        before = self.model.snapshot
        try:
            reply = self.model.apply(command)
        except Refused as error:
            assert self.model.snapshot is before, "a refused command changed something"
            return error
        self.applied.append((command, reply))
        return reply

    def name(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    # -- clients -------------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        run_id, strategy = self.name("r"), self.random.choice([None, None, *MultitaskStrategy])
        if isinstance(self.send(self.model.accept(run_id, strategy=strategy)), c.Reply):
            self.run_ids.append(run_id)

    def cancel(self) -> None:
        if self.run_ids:
            self.send(self.model.cancel(self.random.choice(self.run_ids[-3:])))

    def same_id_other_body(self) -> None:
        if self.run_ids:
            refused = self.send(self.model.accept(self.random.choice(self.run_ids), "something else"))
            assert isinstance(refused, RunIdConflict)

    def answer(self) -> None:
        """One call is answered, rightly or with an answer that does not fit."""
        calls, right = self.model.snapshot.pending_tool_calls, self.random.random() < 0.8
        if not calls:
            return
        call = self.random.choice(calls)
        approval = call.mode is not ToolMode.FRONTEND_EXECUTE
        status = "approved" if approval is right else "result"
        answer = c.ToolAnswer(tool_call_id=call.tool_call_id, status=status, payload={"n": self.number})
        was_open = call.status in OPEN_CALLS and not (call.expires_at and call.expires_at <= self.model.now)
        reply = self.send(self.model.resume(self.name("leg"), answer))
        assert isinstance(reply, c.Reply)
        assert (reply.error is None) == (right and was_open)
        assert reply.error is None or reply.error.code == "TOOL_RESULT_MISMATCH"

    def forge(self) -> None:
        if self.model.snapshot.session_id:
            before = self.model.snapshot
            self.send(self.model.resume("leg", c.ToolAnswer(tool_call_id="forged", status="approved")))
            assert self.model.snapshot == before

    # -- workers -------------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        active = self.model.snapshot.active
        if active is None:
            return False
        attempt = uuid.UUID(int=self.random.getrandbits(128))
        steps = (self.step(),) if self.random.random() < 0.5 else ()
        reply = self.send(self.model.start(attempt, leg=active.leg).but(steps=steps))
        if not isinstance(reply, c.Reply) or not isinstance(reply.answer, c.StartAnswer):
            return False
        worker = Worker(active.run_id, attempt, reply.answer)
        assert reply.answer.begun == (bool(steps) and reply.answer.attempt == 1), "steps begin with the first attempt"
        if reply.answer.begun:
            worker.steps.append(steps[0].key)
            self.granted += 1
        self.workers.append(worker)
        return True

    def some_worker(self) -> Worker | None:
        """Mostly the newest one; sometimes a zombie."""
        if not self.workers:
            return None
        return self.workers[-1] if self.random.random() < 0.85 else self.random.choice(self.workers)

    def work(self, worker: Worker, kind: type, **fields: object) -> c.Reply | Refused:
        """A command of the worker, with the events that it has not committed yet."""
        worker.ordinal += 1
        place = {"session_id": SESSION, "run_id": worker.run_id, "epoch": worker.epoch, "ordinal": worker.ordinal}
        holds = self.holds(worker)
        reply = self.send(kind(**place, events=worker.pending(), **fields))
        assert isinstance(reply, StaleEpoch) != holds, "a fenced worker was served, or the right one refused"
        if isinstance(reply, StaleEpoch):
            self.workers.remove(worker)
        worker.seq += len(worker.shown)
        worker.shown = []
        return reply

    def holds(self, worker: Worker) -> bool:
        active = self.model.snapshot.active
        return active is not None and active.attempt_id == worker.attempt_id

    def show(self) -> None:
        """Events that readers see before they are committed; Redis takes those of the living epoch only."""
        worker = self.some_worker()
        if worker is None:
            return
        message = self.name("a")
        worker.show({"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"})
        for _ in range(self.random.randint(0, 3)):
            worker.show({"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": "word "})
        if self.random.random() < 0.5:
            worker.show({"type": "TEXT_MESSAGE_END", "messageId": message})
        if self.holds(worker):
            self.model.tail = worker.pending()

    def begin(self) -> None:
        worker = self.some_worker()
        if worker is None:
            return
        step = self.step()
        reply = self.work(worker, c.BeginStep, steps=(step,))
        if isinstance(reply, c.Reply) and isinstance(reply.answer, c.StepAnswer) and not reply.answer.cancelling:
            worker.steps.append(step.key)
            self.granted += 1

    def step(self) -> c.StepBegin:
        return c.StepBegin(
            key=self.name("s"), kind="model", name="answer", digest="d", provider="p", model="m", input_tokens=10,
            input_price="0.001", output_price="0.002",
        )  # fmt: skip

    def record(self) -> None:
        worker = self.some_worker()
        if worker is not None and worker.steps:
            self.work(worker, c.RecordStep, **self.outcome(worker))

    def outcome(self, worker: Worker) -> dict[str, object]:
        """What the worker's newest step came to, for any command that takes it along."""
        usage = CallUsage(provider="p", model="m", input_tokens=10, output_tokens=5, cost=Decimal("0.02"))
        key = worker.steps.pop()
        message = NewMessage(message_id=f"answer-{key}", role="assistant", content="word")
        return {"records": (c.StepRecord(key=key, usage=usage),), "messages": (message,)}

    def finish(self, worker: Worker | None = None) -> None:
        worker = worker or self.some_worker()
        if worker is not None:
            worker.show(*worker.open.closings())
            failed = self.random.random() < 0.2
            status, code = (RunStatus.FAILED, "MODEL_AUTH") if failed else (RunStatus.SUCCEEDED, None)
            held = self.outcome(worker) if worker.steps and self.random.random() < 0.5 else {}
            self.work(worker, c.FinishRun, status=status, error_code=code, **held)
            self.dismiss(worker)

    def release(self) -> None:
        worker = self.some_worker()
        if worker is not None:
            worker.show(*worker.open.closings())
            self.work(worker, c.ReleaseRun)
            self.dismiss(worker)

    def pause(self) -> None:
        worker = self.some_worker()
        if worker is None:
            return
        worker.show(*worker.open.closings())
        ids = [self.name("c") for _ in range(self.random.randint(1, 3))]
        browser = {"mode": ToolMode.FRONTEND_EXECUTE, "status": ToolCallStatus.PENDING_RESULT}
        approval = {"interrupt_id": self.name("i")}
        calls = [PendingToolCall(tool_call_id=i, **self.random.choice([browser, approval])) for i in ids]
        self.work(worker, c.RequestTools, calls=tuple(calls))
        self.dismiss(worker)

    def dismiss(self, worker: Worker) -> None:
        if worker in self.workers:
            self.workers.remove(worker)

    def kill(self) -> None:
        """The living worker's process is gone; what it believed may still arrive late."""
        self.model.alive.clear()

    # -- time, sweeper, broker -----------------------------------------------------------------------------------------

    def wait(self) -> None:
        self.model.now += timedelta(seconds=self.random.choice([1, 6, 6, 300, 4000, 8 * 24 * 3600]))

    def sweep(self) -> None:
        active = self.model.snapshot.active
        if active is None:
            return
        if active.attempt_id is not None and active.attempt_id not in self.model.alive:
            self.send(c.ReapAttempt(session_id=SESSION, run_id=active.run_id, attempt_id=active.attempt_id))
        self.send(c.EnforceDeadline(session_id=SESSION, run_id=active.run_id))
        self.send(c.ExpireToolCalls(session_id=SESSION))

    def redeliver(self) -> None:
        """Any command may come again, at any time: it changes nothing and is answered as before."""
        if not self.applied:
            return
        command, first = self.random.choice(self.applied[-8:])
        if isinstance(command, c.ReapAttempt | c.EnforceDeadline | c.ExpireToolCalls):
            return
        before = self.model.snapshot
        again = self.send(command)
        assert self.model.snapshot == before, f"a repeated {command.type} changed something"
        if isinstance(command, c.AcceptRun):
            assert isinstance(again, c.Reply)
            assert isinstance(again.answer, c.RunAnswer)
            assert isinstance(first.answer, c.RunAnswer)
            assert again.answer.task_id == first.answer.task_id
        if isinstance(command, c.FinishRun):
            assert isinstance(again, c.Reply) or self.model.snapshot.closed_epoch > command.epoch

    # -- what must always hold, beyond the model's own checks ----------------------------------------------------------

    def check(self) -> None:
        self.every_leg_reads_as_a_legal_stream()
        started = {run_id for _, _, run_id, _ in self.model.log}
        for run in self.model.runs.values():
            assert run.status not in ENDED or run.id not in started or self.model.closings[run.id, run.leg] == 1
        active = self.model.snapshot.active
        open_steps = len(active.open_steps) if active else 0
        assert self.model.snapshot.usage.calls + open_steps == self.granted, "a granted call is not billed once"

    def every_leg_reads_as_a_legal_stream(self) -> None:
        parts, running = OpenParts(), False
        for _, event, _, _ in self.model.log:
            kind = event["type"]
            assert (kind == "RUN_STARTED") != running, f"{kind} while running={running}"
            assert kind != "RUN_FINISHED" or not parts.closings(), "something was left open"
            running = kind not in ("RUN_FINISHED", "RUN_ERROR")
            parts.see(event)


ACTIONS: list[tuple[Callable[[History], object], float]] = [
    (History.accept, 3),
    (History.cancel, 1),
    (History.same_id_other_body, 0.3),
    (History.answer, 4),
    (History.forge, 0.3),
    (History.start, 8),
    (History.show, 5),
    (History.begin, 5),
    (History.record, 5),
    (History.finish, 1.5),
    (History.release, 0.5),
    (History.pause, 1.5),
    (History.kill, 1.5),
    (History.wait, 0.8),
    (History.sweep, 1.5),
    (History.redeliver, 5),
]


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_any_history_keeps_the_rules(first: int) -> None:
    for seed in range(first, min(first + 50, SEEDS)):
        try:
            History(seed).go()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
