"""One stage of the work on commands: whatever happens to a group, its commands are heard of again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from callboard_actors.stage import Stage


class Home:
    gone = False

    def begin(self) -> None: ...
    def end(self) -> None: ...


class Piece:
    """As much of a work as a stage looks at."""

    def __init__(self) -> None:
        self.home, self.alone = Home(), False


async def test_what_a_closing_connection_cancelled_is_done_again() -> None:
    """Nobody cancelled the stage: a group that it forgot would hold its sessions for ever."""
    again: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()

    async def carry_out(_: Sequence[Any]) -> None:
        raise asyncio.CancelledError

    def failed(group: Sequence[Any], error: Exception) -> None:
        raise AssertionError(f"{group} failed: {error}")

    stage, piece = Stage(1, 10, carry_out, again.set_result, failed), Piece()
    stage.add(piece)  # type: ignore[arg-type]
    stage.pump()
    assert await asyncio.wait_for(again, 10) == [piece]
