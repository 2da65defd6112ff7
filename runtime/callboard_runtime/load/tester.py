"""The test: users who start runs at the planned pace, and at the end a comparison with the log.

In:  a Plan and an address
Out: samples as they come, then an Outcome
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import aiohttp

from callboard_runtime.client import CallboardClient, ClientError, Patience
from callboard_runtime.load.ledger import compare, logged
from callboard_runtime.load.plan import Plan
from callboard_runtime.load.samples import Sample
from callboard_runtime.load.turn import Turn
from callboard_runtime.load.users import Session, SessionPool, Tokens

AFTER_ERROR = 0.5  # seconds a user waits at least: a server that refuses everything is not to be hammered
VERIFIERS = 8  # sessions compared with their log at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the test saw; `elapsed` is until the last run ended, without the comparison with the log."""

    samples: tuple[Sample, ...]
    elapsed: float  # seconds
    missed: int  # arrivals of the open loop that found too many runs in flight
    verified: int  # sessions compared with their log
    faults: tuple[str, ...]  # of the comparison

    @property
    def broken(self) -> bool:
        """Whether any event was lost, doubled, altered or out of order."""
        return bool(self.faults) or any(sample.faults for sample in self.samples)


class LoadTest:
    """One test of one server. `on_sample` is called as each run ends."""

    def __init__(
        self, url: str, plan: Plan, tokens: Tokens, on_sample: Callable[[Sample], None] = lambda _: None
    ) -> None:
        self.in_flight = 0
        self.missed = 0
        self._url, self._plan, self._tokens, self._on_sample = url, plan.checked(), tokens, on_sample
        self._chance = random.Random(plan.seed)  # noqa: S311 - chooses what to exercise
        self._samples: list[Sample] = []
        self._left = plan.runs

    async def run(self) -> Outcome:
        """Play the plan; raises ValueError for a URL that is none."""
        async with AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=0)
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            clients = [
                await stack.enter_async_context(self._client(number, http)) for number in range(self._plan.users)
            ]
            tag = f"load-{uuid.uuid4().hex[:10]}"
            self._pool = SessionPool(clients, self._plan.runs_per_session, tag)
            self._began = time.monotonic()
            await (self._open_loop() if self._plan.rate else self._closed_loop())
            elapsed = time.monotonic() - self._began
            verified, faults = await self._verify() if self._plan.verify else (0, [])
        return Outcome(tuple(self._samples), elapsed, self.missed, verified, tuple(faults))

    def _client(self, number: int, http: aiohttp.ClientSession) -> CallboardClient:
        token = partial(self._tokens.of, f"load-user-{number}")
        return CallboardClient(self._url, token=token, patience=Patience(total=self._plan.patience), http=http)

    # -- pace ---------------------------------------------------------------------------------------------------------

    async def _closed_loop(self) -> None:
        async with asyncio.TaskGroup() as users:
            for _ in range(self._plan.concurrency):
                users.create_task(self._user())

    async def _user(self) -> None:
        while self._may_begin():
            sample = await self._play(time.monotonic())
            pause = self._plan.think * self._chance.uniform(0.5, 1.5)
            await asyncio.sleep(pause if sample.error is None else max(pause, AFTER_ERROR))

    async def _open_loop(self) -> None:
        """A run is due every 1/rate seconds, whether or not the ones before have ended."""
        assert self._plan.rate is not None
        due = time.monotonic()
        async with asyncio.TaskGroup() as runs:
            while self._may_begin():
                if self.in_flight < self._plan.max_in_flight:
                    runs.create_task(self._play(due))
                else:
                    self.missed += 1
                due += 1 / self._plan.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _may_begin(self) -> bool:
        """Whether another run is to begin; takes it off what is left."""
        if self._plan.duration is not None and time.monotonic() - self._began >= self._plan.duration:
            return False
        if self._left is not None:
            self._left -= 1
            return self._left >= 0
        return True

    async def _play(self, due: float) -> Sample:
        session = self._pool.take()
        self.in_flight += 1
        try:
            chance = random.Random(self._chance.getrandbits(64))  # noqa: S311
            sample = await Turn(self._plan, session, chance, due, self._began).play()
        finally:
            self.in_flight -= 1
        self._samples.append(sample)
        self._pool.give_back(session)
        self._on_sample(sample)
        return sample

    # -- the log ------------------------------------------------------------------------------------------------------

    async def _verify(self) -> tuple[int, list[str]]:
        """Compare every session whose streams were read to their ends with its log."""
        gate = asyncio.Semaphore(VERIFIERS)
        sessions = [session for session in self._pool.sessions if session.verifiable]
        found = await asyncio.gather(*(self._compare(session, gate) for session in sessions))
        return len(sessions), [fault for faults in found for fault in faults]

    async def _compare(self, session: Session, gate: asyncio.Semaphore) -> list[str]:
        async with gate:
            try:
                log = logged([event async for event in session.client.log(session.thread_id)])
            except ClientError as error:
                return [f"session {session.thread_id}: its log cannot be read: {error}"]
        return [f"session {session.thread_id}: {fault}" for fault in compare(session.received.ranges, log)]
