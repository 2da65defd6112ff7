"""One provider request: how many may run at once, how long it may take, and what it used."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from weakref import WeakKeyDictionary

from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.llm.answer import AnswerBuilder
from callboard_runtime.llm.errors import ModelTimeout, ModelUnavailable
from callboard_runtime.llm.messages import ModelAnswer, ModelCall, Usage, estimate_tokens
from callboard_runtime.llm.prices import call_usage
from callboard_runtime.llm.provider import Target, stream
from callboard_runtime.settings import LlmSettings

_GATES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()


def gate(provider: str, limit: int) -> asyncio.Semaphore:
    """The running loop's limit on requests to one provider; the first caller's `limit` holds."""
    gates = _GATES.setdefault(asyncio.get_running_loop(), {})
    return gates.setdefault(provider, asyncio.Semaphore(limit))


class Request:
    """Streams one answer into `builder`, within the settings' timeouts (seconds)."""

    def __init__(self, call: ModelCall, target: Target, settings: LlmSettings, builder: AnswerBuilder) -> None:
        self.target = target
        self.builder = builder
        self._call = call
        self._settings = settings
        self._sent = time.monotonic()
        self._first: float | None = None

    async def run(self) -> ModelAnswer:
        """The whole answer; raises ModelError, or what the provider's SDK raises."""
        async with gate(self.target.provider, self._settings.concurrency):
            self._sent = time.monotonic()
            try:
                async with asyncio.timeout(min(self._settings.first_token_timeout, self._settings.timeout)) as limit:
                    await self._read(limit)
            except TimeoutError:
                raise self._too_slow() from None
        if not self.builder.complete:
            raise ModelUnavailable(f"{self.target.provider} model {self.target.model}: the stream broke off")
        return self.builder.answer()

    async def _read(self, limit: asyncio.Timeout) -> None:
        deadline = asyncio.get_running_loop().time() + self._settings.timeout
        async with aclosing(stream(self._call, self.target, self._settings.timeout)) as deltas:
            async for delta in deltas:
                if self._first is None:
                    self._first = time.monotonic()
                    limit.reschedule(deadline)
                self.builder.feed(delta)

    def _too_slow(self) -> ModelTimeout:
        what = "answer did not begin" if self._first is None else "answer did not end"
        return ModelTimeout(f"{self.target.provider} model {self.target.model}: the {what} in time")

    def usage(self, known: Usage | None = None) -> CallUsage:
        """What the request used: as `known`, as the provider counted, or else an estimate that is marked as one."""
        counted = known or self.builder.usage
        return call_usage(
            self.target,
            counted or self._estimate(),
            estimated=counted is None,
            first_token_ms=None if self._first is None else _ms(self._first - self._sent),
            latency_ms=_ms(time.monotonic() - self._sent),
        )

    def _estimate(self) -> Usage:
        return Usage(estimate_tokens(self._call.size()), estimate_tokens(self.builder.characters))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
