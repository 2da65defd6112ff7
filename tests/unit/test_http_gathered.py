"""Questions gathered into reads: few of them, each question answered by one that began after it."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from callboard_http.gathered import Gathered
from callboard_runtime.errors import Unavailable


class Source:
    """Answers with how many reads had begun; each read ends when `gate` lets it."""

    def __init__(self, *, most: int = 100, at_once: int = 1) -> None:
        self.reads: list[list[str]] = []
        self.gate = asyncio.Semaphore(0)
        self.away = False
        self.gathered = Gathered(self._read, most=most, at_once=at_once)

    async def _read(self, asked: Sequence[str]) -> Mapping[str, int]:
        self.reads.append(list(asked))
        number = len(self.reads)
        await self.gate.acquire()
        if self.away:
            raise Unavailable("away")
        return {question: number for question in asked if question != "unknown"}

    def ask(self, *questions: str) -> "asyncio.Future[list[int | None]]":
        return asyncio.gather(*(self.gathered.of(question) for question in questions))

    async def begun(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.reads) < count:  # noqa: ASYNC110 - the source tells nobody
                await asyncio.sleep(0)


async def test_what_is_asked_at_once_is_read_at_once_and_the_same_only_once() -> None:
    source = Source()
    asked = source.ask("a", "b", "a", "unknown")
    source.gate.release()
    assert await asked == [1, 1, 1, None]
    assert source.reads == [["a", "b", "unknown"]]


async def test_a_question_is_not_answered_by_a_read_that_began_before_it() -> None:
    source = Source()
    first = source.ask("a")
    await source.begun(1)
    later = source.ask("a", "b")
    source.gate.release()
    source.gate.release()
    assert (await first, await later) == ([1], [2, 2])
    assert source.reads == [["a"], ["a", "b"]]


async def test_no_more_reads_and_no_larger_ones_than_allowed() -> None:
    source = Source(most=2, at_once=2)
    asked = source.ask(*"abcdefg")
    await source.begun(2)
    for _ in range(20):
        await asyncio.sleep(0)  # nothing more begins, however often the loop turns
    assert source.reads == [["a", "b"], ["c", "d"]]
    for _ in range(4):
        source.gate.release()
    assert await asked == [1, 1, 2, 2, 3, 3, 4]


async def test_an_outage_is_told_to_all_who_asked_and_to_nobody_after_them() -> None:
    source = Source()
    source.away = True
    asked = [asyncio.create_task(source.gathered.of(question)) for question in "ab"]
    await source.begun(1)
    asked[0].cancel()  # one who left takes nothing from the others
    source.gate.release()
    assert [type(each) for each in await asyncio.gather(*asked, return_exceptions=True)] == [
        asyncio.CancelledError,
        Unavailable,
    ]
    source.away = False
    source.gate.release()
    assert await source.ask("a") == [2]


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_http.gathered.PATIENCE", 0.01)
    source = Source()
    with pytest.raises(Unavailable, match="too many readers"):
        await source.gathered.of("a")
    source.gate.release()
