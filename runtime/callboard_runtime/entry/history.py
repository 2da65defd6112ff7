"""Which messages of a conversation the model is sent: the newest that fit, tool turns whole, this run's own always."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import orjson

from callboard_runtime.entry.brief import HistoryMessage

_BYTES_PER_TOKEN = 4  # an estimate that needs no tokenizer: the same in every process and release
_OVERHEAD = 4  # tokens around one message


@dataclass(frozen=True, slots=True)
class Remembered:
    """A message of the session with the run it belongs to."""

    run_id: UUID | None
    message: HistoryMessage


def pin_history(messages: Sequence[Remembered], run_id: UUID, budget: int) -> tuple[HistoryMessage, ...]:
    """Choose from `messages` (oldest first); `budget` in estimated tokens. The same input gives the same choice."""
    kept: list[HistoryMessage] = []
    used, full = 0, False
    for remembered in reversed(messages):
        used += estimate_tokens(remembered.message)
        full = full or used > budget
        if not full or remembered.run_id == run_id:
            kept.append(remembered.message)
    return whole_turns(reversed(kept))


def estimate_tokens(message: HistoryMessage) -> int:
    """Tokens of a message, from its UTF-8 length."""
    content = message.content if isinstance(message.content, str) else orjson.dumps(message.content).decode()
    calls = orjson.dumps(message.tool_calls) if message.tool_calls else b""
    return -(-(len(content.encode()) + len(calls)) // _BYTES_PER_TOKEN) + _OVERHEAD


def whole_turns(messages: Iterable[HistoryMessage]) -> tuple[HistoryMessage, ...]:
    """Leave out calls without an answer and answers without a call: providers refuse both."""
    given = tuple(messages)
    asked = {call.get("id") for message in given for call in message.tool_calls}
    answered = {message.tool_call_id for message in given if message.role == "tool"}
    whole = (_answered_only(message, answered) for message in given if _belongs(message, asked))
    return tuple(message for message in whole if message is not None)


def _belongs(message: HistoryMessage, asked: Container[object]) -> bool:
    return message.role != "tool" or message.tool_call_id in asked


def _answered_only(message: HistoryMessage, answered: set[str | None]) -> HistoryMessage | None:
    calls = tuple(call for call in message.tool_calls if call.get("id") in answered)
    if len(calls) == len(message.tool_calls):
        return message
    return replace(message, tool_calls=calls) if calls or message.content else None
