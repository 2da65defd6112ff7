"""Clients' commands of any size: one that is too large for a message waits in the database for its actor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import (
    MAX_CLAIM_BYTES,
    MAX_COMMAND_BYTES,
    Answer,
    ClaimCheck,
    ClientCommand,
    encode_command,
)
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import TooLarge

Keep = Callable[[UUID, bytes], Awaitable[UUID]]  # commits a session's command and returns the claim's id


async def send_any_size(commands: CommandClient, command: ClientCommand, timeout: float, keep: Keep) -> Answer:
    """Send the command, or what stands for it, within `timeout` seconds; a large one is given to `keep` first.

    Raises TooLarge above `MAX_CLAIM_BYTES`, and what `CommandClient.send` and `keep` raise.
    """
    try:
        return await commands.send(command, timeout)
    except TooLarge:
        body = encode_command(command, MAX_CLAIM_BYTES)
        if len(body) <= MAX_COMMAND_BYTES:
            raise  # it was the actor who refused it
    claim_id = await keep(command.session_id, body)
    claim = ClaimCheck(
        session_id=command.session_id, claim_id=claim_id, not_after=utcnow() + timedelta(seconds=timeout)
    )
    return await commands.send(claim, timeout)
