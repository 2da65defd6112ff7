"""What `callboard dlq` does, without its printing: one connection per call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from aio_pika.exceptions import DeliveryError

from callboard_runtime.broker.connection import reach
from callboard_runtime.broker.dead_letters import DeadLetter, DeadLetters
from callboard_runtime.errors import InvalidInput, NotFound, Unavailable
from callboard_runtime.settings import Settings

TIMEOUT = 10.0  # seconds to connect

T = TypeVar("T")


def look(limit: int) -> tuple[list[DeadLetter], int]:
    """The oldest dead letters, and how many there are in all."""

    async def work(letters: DeadLetters) -> tuple[list[DeadLetter], int]:
        return [letter async for letter in letters.read(limit)], await letters.count()

    return _run(work)


def find(which: str) -> DeadLetter:
    """One dead letter; raises NotFound."""

    async def work(letters: DeadLetters) -> DeadLetter:
        async for letter in letters.read():
            if letter.id == which:
                return letter
        raise _missing(which)

    return _run(work)


def replay(which: str | None) -> list[str]:
    """Send one message, or all, to where they came from; returns the ids. Raises NotFound, Unavailable."""
    return _run(lambda letters: _each(letters, which, letters.replay))


def drop(which: str | None) -> list[str]:
    """Delete one message, or all; returns the ids. Raises NotFound."""
    return _run(lambda letters: _each(letters, which, letters.settle))


async def _each(letters: DeadLetters, which: str | None, step: Callable[[DeadLetter], Awaitable[None]]) -> list[str]:
    done: list[str] = []
    stuck: list[InvalidInput] = []
    async for letter in letters.read():
        if which is not None and letter.id != which:
            continue
        try:
            await step(letter)
            done.append(letter.id)
        except InvalidInput as error:
            stuck.append(error)
        if which is not None:
            break
    if stuck:
        raise InvalidInput(f"{len(done)} done, {len(stuck)} not: {stuck[0].message}")
    if which is not None and not done:
        raise _missing(which)
    return done


def _missing(which: str) -> NotFound:
    return NotFound(f"there is no dead letter {which}; `callboard dlq list` prints their ids")


def _run(work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    return asyncio.run(_on_broker(Settings(), work))


async def _on_broker(settings: Settings, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    async with _opened(settings.required_amqp_url()) as letters:
        return await work(letters)


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[DeadLetters]:
    try:
        async with reach(url, TIMEOUT) as connection:
            yield await DeadLetters.open(connection)
    except DeliveryError as error:
        raise Unavailable(
            "the broker did not take the copy; the dead letter is kept: is its queue full or gone?"
        ) from error
