"""Clients' commands of any size: one that is too large for a message waits in the database for its actor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from callboard_runtime.broker.commander import RETRY_AFTER, CommandClient
from callboard_runtime.domain.commands import (
    MAX_CLAIM_BYTES,
    MAX_COMMAND_BYTES,
    Answer,
    ClaimCheck,
    ClientCommand,
    encode_command,
)
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import TooLarge, Unavailable

Keep = Callable[[UUID, bytes], Awaitable[UUID]]  # commits a session's command and returns the claim's id


async def send_any_size(commands: CommandClient, command: ClientCommand, timeout: float, keep: Keep) -> Answer:
    """Send the command, or what stands for it, within `timeout` seconds; a large one is given to `keep` first.

    Raises TooLarge above `MAX_CLAIM_BYTES`, Unavailable when `keep` takes too long, and what `CommandClient.send` and
    `keep` raise.
    """
    now = asyncio.get_running_loop().time
    end = now() + timeout
    try:
        return await commands.send(command, timeout)
    except TooLarge:
        body = encode_command(command, MAX_CLAIM_BYTES)
        if len(body) <= MAX_COMMAND_BYTES:
            raise  # it was the actor who refused it
    claim_id = await _kept(keep(command.session_id, body), end)
    left = max(0.0, end - now())
    claim = ClaimCheck(session_id=command.session_id, claim_id=claim_id, not_after=utcnow() + timedelta(seconds=left))
    return await commands.send(claim, left)


async def _kept(keeping: Awaitable[UUID], end: float) -> UUID:
    try:
        async with asyncio.timeout_at(end):
            return await keeping
    except TimeoutError:
        raise Unavailable("the database did not take the command in time", retry_after=RETRY_AFTER) from None
