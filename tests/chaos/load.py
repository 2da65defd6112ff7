"""The clients of the chaos suite, and their ledger: what they asked for, what they were told, what they saw."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aio_pika
import aiohttp
from aio_pika import Message

from callboard_runtime.broker import topology
from front_client import RUNS, Answer, FrontClient, Json, Reader, fresh, run_input
from promises import ENDED
from stack import Callboard
from waiting import until

KINDS = ("talk", "talk", "crew", "publish", "press", "launch", "fail", "cancel")
FAILURES = ("500 0", "429 0", "garbage 0", "disconnect 2", "hang 2", "hang 0")


@dataclass
class Turn:
    """One run as its client knows it."""

    key: str
    kind: str
    thread: str
    run: str
    body: Json
    answers: list[Answer] = field(default_factory=list)  # to the posts of the same body
    contradiction: Answer | None = None
    cancel: Answer | None = None
    readers: list[Reader] = field(default_factory=list)  # one per leg
    resumes: list[Answer] = field(default_factory=list)  # to the same answer
    wrong_resume: Answer | None = None
    shown: Json | None = None  # the run as it was at the end
    trouble: str = ""
    doing: str = "posting"
    published: bool = False  # confirmed by the broker

    @property
    def seen(self) -> list[str]:
        """What each of its readers saw last."""
        return [f"{r.connections} connections, {[(f.id, f.type) for f in r.frames[-3:]]}" for r in self.readers]

    @property
    def accepted(self) -> bool:
        return any(answer.status == 202 for answer in self.answers)


class Load:
    """A number of users who take turns in sessions of their own, one after the other."""

    def __init__(
        self,
        callboard: Callboard,
        chance: random.Random,
        sessions: int,
        turns: int,
        end_within: float,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        """A turn whose run has not ended `end_within` seconds after it was accepted is given up, and a violation."""
        self.turns: list[Turn] = []
        self.refusals: list[Answer] = []  # before something was taken, or refused for good
        self.user = fresh("user")
        self._callboard, self._chance = callboard, chance
        self._sessions, self._turns, self._end_within, self._kinds = sessions, turns, end_within, kinds
        self._dealt: list[str] = []  # kinds that come before any comes again

    async def run(self) -> None:
        """Take all turns; returns when each has ended or was given up."""
        async with self._callboard.client(self.user) as client:
            await asyncio.gather(*(self._session(client) for _ in range(self._sessions)))
            self.refusals = client.refusals

    async def _session(self, client: FrontClient) -> None:
        thread = fresh("thread")
        for _ in range(self._turns):
            turn = self._make(thread)
            self.turns.append(turn)
            try:
                async with asyncio.timeout(2 * self._end_within):
                    await self._take(client, turn)
            except (TimeoutError, AssertionError) as error:
                turn.trouble = f"{type(error).__name__} while {turn.doing}: {str(error)[:200]} {turn.seen}"
            await asyncio.sleep(self._chance.random() * 0.3)  # the user reads what was answered

    def _make(self, thread: str) -> Turn:
        kind, key, run = self._deal(), fresh("key"), fresh("run")
        text = {
            "talk": f"key:{key} talk {self._chance.randrange(10, 500)}",
            "crew": f"key:{key} talk {self._chance.randrange(10, 200)}",
            "publish": f"key:{key} talk {self._chance.randrange(10, 300)}",
            "cancel": f"key:{key} talk 800",
            "press": f"key:{key} press",
            "launch": f"key:{key} launch",
            "fail": f"key:{key} fail {self._chance.choice(FAILURES)}",
        }[kind]
        agent = "default" if kind == "crew" else "chat"  # two stages, one model call each
        body = run_input(text, thread=thread, run=run, forwardedProps={"agentId": agent})
        return Turn(key, kind, thread, run, body)

    def _deal(self) -> str:
        if not self._dealt:
            self._dealt = self._chance.sample(self._kinds, len(self._kinds))
        return self._dealt.pop()

    async def _take(self, client: FrontClient, turn: Turn) -> None:
        if turn.kind == "publish":
            await self._publish(client, turn)
        copies = self._chance.choice((1, 1, 3))
        turn.answers = list(await asyncio.gather(*(client.post_until_taken(turn.body) for _ in range(copies))))
        if not turn.accepted:
            return
        if self._chance.random() < 0.2:
            other = {**turn.body, "messages": [{"id": "other", "role": "user", "content": "something else"}]}
            turn.contradiction = await client.post_until_taken(other)
        if turn.kind == "cancel":
            turn.cancel = await self._cancel(client, turn)
        await self._read(client, turn)
        if turn.kind in ("press", "launch"):  # a press is asked about, too, when its process died over it
            await self._approve(client, turn)
        turn.shown = await client.run(turn.run)

    async def _publish(self, client: FrontClient, turn: Turn) -> None:
        """Ask over the broker, which confirms; nobody waits for a reply, or asks again before it is there."""
        turn.doing, token = "publishing", client.headers["Authorization"]
        message = Message(json.dumps(turn.body).encode(), headers={"authorization": token}, delivery_mode=2)

        async def is_there() -> bool:
            return (await client._insist("GET", f"{RUNS}/{turn.run}")).status != 404

        async with asyncio.timeout(self._end_within):
            await until(lambda: self._confirmed(message), "the broker", timeout=self._end_within)
            turn.published, turn.doing = True, "waiting for what was published"
            await until(is_there, "the run", timeout=self._end_within)

    async def _confirmed(self, message: Message) -> bool:
        with suppress(Exception):  # whatever it is, it is no confirmation
            async with asyncio.timeout(10), await aio_pika.connect(self._callboard.urls.amqp) as connection:
                exchange = await (await connection.channel()).get_exchange(topology.INGRESS_EXCHANGE)
                await exchange.publish(message, "run")
                return True
        return False

    async def _cancel(self, client: FrontClient, turn: Turn) -> Answer:
        await asyncio.sleep(self._chance.random() * 2)  # the user makes up their mind: at any moment of the run
        return await client._insist("POST", f"{RUNS}/{turn.run}/cancel")

    async def _read(self, client: FrontClient, turn: Turn) -> None:
        """Read one leg, over as many connections as it takes; now and then cut by the client itself."""
        reader, turn.doing = Reader(client, turn.run), "reading"
        turn.readers.append(reader)
        if self._chance.random() < 0.3:
            try:
                async with asyncio.timeout(self._chance.random()):
                    await reader.read()
            except TimeoutError:
                pass
        async with asyncio.timeout(self._end_within):
            await reader.read()

    async def _approve(self, client: FrontClient, turn: Turn) -> None:
        """Answer what the run asks until it ends: twice the same, and once something else afterwards."""
        answers: list[Json] = []
        path = f"{RUNS}/{turn.run}/resume"
        for _ in range(4):
            shown = await client.run(turn.run)
            if shown["status"] in ENDED:
                break
            interrupts = turn.readers[-1].frames[-1].event.get("outcome", {}).get("interrupts", [])
            if not interrupts:
                break
            # What was being done when its process died is asked about, too: say that it failed.
            answers = [{"interrupt_id": item["id"], "status": "approved"} for item in interrupts]
            turn.doing = "resuming"
            turn.resumes = [await self._resume(client, path, answers) for _ in range(2)]
            if turn.resumes[0].status == 409:  # an unknown outcome is no approval
                answers = [{"interrupt_id": item["id"], "status": "fail"} for item in interrupts]
                turn.resumes = [await self._resume(client, path, answers) for _ in range(2)]
            await self._next_leg(client, turn)
        if answers:
            rejected = [{**answer, "status": "rejected"} for answer in answers]
            turn.wrong_resume = await self._resume(client, path, rejected)

    async def _resume(self, client: FrontClient, path: str, answers: list[Json]) -> Answer:
        for _ in range(100):
            try:
                answer = await client._insist("POST", path, {"answers": answers})
            except (aiohttp.ClientError, ConnectionError):
                continue
            if answer.code != "NOT_PENDING_YET":
                return answer
            await asyncio.sleep(0.2)  # the client's pause before it says it again
        return answer

    async def _next_leg(self, client: FrontClient, turn: Turn) -> None:
        reader, before, turn.doing = Reader(client, turn.run), turn.readers[-1].last, "reading on"
        turn.readers.append(reader)
        async with asyncio.timeout(self._end_within):
            while not (reader.frames and reader.last != before):
                reader.frames.clear()
                await reader.read()
                await asyncio.sleep(0.1)  # the client's pause before it connects again
