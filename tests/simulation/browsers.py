"""Simulated clients of one session: they post, repeat, contradict, cancel, answer, forge, and note every reply."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, PendingToolCall, RunStatus, SessionStatus, StateSnapshot
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import CallboardError, Refused, RunIdConflict, TooLate, Unavailable

if TYPE_CHECKING:
    from simulation.world import World

PATIENCE = 5.0  # seconds, as a front has
PLANS = (
    "text",
    "text",
    "text text",
    "fail text",
    "tool",
    "text tool text",
    "ask text",
    "text approve",
    "tool ask tool",
)
SURE = frozenset({RunStatus.CANCELLED, RunStatus.CANCELLING, RunStatus.SUCCEEDED, RunStatus.FAILED})


class Browser:
    """One session's user, behind any front."""

    def __init__(self, world: World, user: str, thread: str, fronts: list[CommandClient]) -> None:
        self.world, self.user, self.thread, self.fronts = world, user, thread, fronts
        self.session_id = session_uuid(user, thread)
        self.accepted: dict[str, c.RunAnswer] = {}
        self.cancelled: dict[UUID, RunStatus] = {}  # run -> what the answer to its cancel said
        self.answered: dict[str, object] = {}  # tool call -> the payload that was taken
        self.deleted = False
        self._number = 0

    async def live(self, actions: int) -> None:
        chance = self.world.chance
        for _ in range(actions):
            await asyncio.sleep(chance.random() * 2)
            step = chance.choices(
                (self.post, self.cancel, self.answer, self.contradict, self.repeat, self.forge, self.delete),
                (10, 3, 5, 1, 2, 1, 0.3),
            )[0]
            await step()

    # -- what it asks --------------------------------------------------------------------------------------------------

    async def post(self) -> None:
        chance = self.world.chance
        run_id, plan = self._name("run"), chance.choice(PLANS)
        strategy = chance.choice((None, None, None, *MultitaskStrategy))
        copies = chance.choice((1, 1, 2, 3))
        posts = [self._accept(run_id, plan, strategy) for _ in range(copies)]
        if chance.random() < 0.1:  # one id for two sessions at once: one of them gets it
            posts.append(chance.choice(self.world.browsers)._accept(run_id, plan, strategy))
        await asyncio.gather(*posts)

    async def _accept(self, run_id: str, plan: str, strategy: MultitaskStrategy | None) -> None:
        message = NewMessage(message_id=f"m-{run_id}", role="user", content=plan)
        answer = await self._insist(
            lambda: c.AcceptRun(
                session_id=self.session_id,
                user_id=self.user,
                thread_id=self.thread,
                run_id=run_id,
                digest=plan,
                input=RunInput(messages=(message,)),
                strategy=strategy,
                not_after=self._soon(),
            )
        )
        if isinstance(answer, c.RunAnswer):
            self.taken(run_id, answer)

    def taken(self, run_id: str, answer: c.RunAnswer) -> None:
        """A 202: the run is in the database, and every copy of the request is told the same."""
        row = self.world.tables.rows["runs"].get((run_uuid(self.user, run_id),))
        stored = row is not None and row["session_id"] == self.session_id
        self.world.require(stored or self._is_deleted(), 1, f"{run_id} was accepted and is not stored")
        first = self.accepted.setdefault(run_id, answer)
        same = (first.task_id, first.run_id, first.thread_id) == (answer.task_id, answer.run_id, answer.thread_id)
        self.world.require(same, 6, f"{run_id}: {first} and {answer}")

    async def repeat(self) -> None:
        """The same run again, long after."""
        if self.accepted:
            run_id = self.world.chance.choice(list(self.accepted))
            row = self.world.tables.rows["runs"].get((run_uuid(self.user, run_id),))
            if row is not None:
                await self._accept(run_id, row["digest"], None)

    async def contradict(self) -> None:
        """The same id with another body."""
        if not self.accepted:
            return
        run_id = self.world.chance.choice(list(self.accepted))
        message = NewMessage(message_id=f"m-{run_id}", role="user", content="something else")
        answer = await self._insist(
            lambda: c.AcceptRun(
                session_id=self.session_id,
                user_id=self.user,
                thread_id=self.thread,
                run_id=run_id,
                digest="another",
                input=RunInput(messages=(message,)),
                not_after=self._soon(),
            )
        )
        right = isinstance(answer, RunIdConflict) or answer is None or self._is_deleted()
        self.world.require(right, 6, f"{run_id} with another body was answered {answer!r}")

    async def cancel(self) -> None:
        if not self.accepted:
            return
        run_id = self.world.chance.choice(list(self.accepted)[-3:])
        answer = await self._insist(
            lambda: c.CancelRun(session_id=self.session_id, user_id=self.user, run_id=run_id, not_after=self._soon())
        )
        if isinstance(answer, c.RunAnswer) and answer.status in SURE:
            self.cancelled.setdefault(run_uuid(self.user, run_id), answer.status)

    async def answer(self) -> None:
        """Answer one open call, sometimes twice, sometimes wrongly."""
        calls = self.open_calls()
        if calls:
            call = self.world.chance.choice(calls)
            copies = self.world.chance.choice((1, 1, 2))
            leg = self._name("leg")
            await asyncio.gather(*(self.give(call, leg, {"n": leg}) for _ in range(copies)))
            if self.world.chance.random() < 0.3:
                await self.give(call, self._name("leg"), {"other": 1})

    async def give(self, call: PendingToolCall, leg: str, payload: object) -> None:
        status = "result" if call.mode is ToolMode.FRONTEND_EXECUTE else "approved"
        answer = c.ToolAnswer(tool_call_id=call.tool_call_id, status=status, payload=payload)
        reply = await self._resume(leg, answer)
        if isinstance(reply, c.RunAnswer):
            first = self.answered.setdefault(call.tool_call_id, payload)
            self.world.require(first == payload, 7, f"{call.tool_call_id} took two answers")

    async def forge(self) -> None:
        reply = await self._resume("leg", c.ToolAnswer(tool_call_id="forged", status="approved"))
        self.world.require(not isinstance(reply, c.RunAnswer), 7, "a forged answer was taken")

    async def _resume(self, leg: str, answer: c.ToolAnswer) -> c.Answer | Refused | None:
        return await self._insist(
            lambda: c.AcceptResume(
                session_id=self.session_id,
                user_id=self.user,
                leg_run_id=leg,
                digest=answer.model_dump_json(),
                answers=(answer,),
                not_after=self._soon(),
            )
        )

    async def delete(self) -> None:
        gone = await self._insist(
            lambda: c.DeleteSession(session_id=self.session_id, user_id=self.user, not_after=self._soon())
        )
        if isinstance(gone, c.DoneAnswer):
            self.world.require(self._is_deleted(), 5, "a deleted session is still there")

    # -- how it asks ---------------------------------------------------------------------------------------------------

    async def _insist(self, make: object, tries: int = 4) -> c.Answer | Refused | None:
        """The answer or the refusal; None when nobody could say."""
        for _ in range(tries):
            front = self.world.chance.choice(self.fronts)
            try:
                return await front.send(make(), PATIENCE)  # type: ignore[operator]
            except (Unavailable, TooLate):
                await asyncio.sleep(self.world.chance.random())
            except Refused as error:
                return error
            except CallboardError as error:
                self.world.require(False, 10, f"an internal error was answered: {error!r}")
        return None

    def open_calls(self) -> list[PendingToolCall]:
        return [call for call in self.snapshot.pending_tool_calls if call.status in OPEN_CALLS]

    @property
    def snapshot(self) -> StateSnapshot:
        row = self.world.tables.rows["sessions"].get((self.session_id,))
        return StateSnapshot.load(row["state_snapshot"]) if row else StateSnapshot()

    def _is_deleted(self) -> bool:
        return self.snapshot.status is SessionStatus.DELETED

    def _soon(self):  # type: ignore[no-untyped-def]
        return self.world.now() + timedelta(seconds=PATIENCE)

    def _name(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self.thread}-{self._number}"
