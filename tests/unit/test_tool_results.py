"""How large the result of a tool may be: what is not refused can be recorded, and shown, whatever it consists of."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.memory_journal import MemorySink
from callboard_runtime.domain.commands import (
    MAX_COMMAND_BYTES,
    AppendEvents,
    RecordStep,
    StepRecord,
    encode_command,
)
from callboard_runtime.domain.event_batch import batch
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.entry.attempt import MOST_EVENTS
from callboard_runtime.entry.held import MAX_HELD_BYTES
from callboard_runtime.tools.execute import MAX_RESULT_BYTES, ToolResult, bounded

FRAME: dict[str, Any] = {"session_id": uuid.uuid4(), "run_id": uuid.uuid4(), "epoch": 1, "ordinal": 1}
LARGEST_STATE = 256 * 1024


def largest(character: str) -> str:
    """The longest result of this character that is taken, though the settings would allow more."""
    size = next(
        size
        for size in range(MAX_RESULT_BYTES, 0, -1024)
        if not bounded(ToolResult(character * size), 10 * MAX_RESULT_BYTES).failed
    )
    return character * size


@pytest.mark.parametrize("character", ["x", "\u4e2d", '"', "\\", "\n", "\x01", "\U0001f600"])
def test_the_largest_result_fits_into_commands_beside_state_events_and_held_work(character: str) -> None:
    content, sink = largest(character), MemorySink()
    message = NewMessage(message_id="m" * 36, role="tool", content=content, tool_call_id="c" * 37, name="n" * 128)
    record = StepRecord(key="k" * 400, result={"content": content, "failed": False, "message_id": "m" * 36})
    state = {"": "x" * (LARGEST_STATE - 8)}
    command = RecordStep(**FRAME, records=(record,), messages=(message,), state=state)
    assert len(encode_command(command)) < MAX_COMMAND_BYTES - MOST_EVENTS // 4 - MAX_HELD_BYTES
    RunStream(sink).call_result("c" * 37, content, "m" * 36)
    encode_command(AppendEvents(**FRAME, events=batch(1, 1, sink.events)))  # raises for what is too large


def test_a_result_is_measured_as_json_and_refused_above_what_the_settings_allow() -> None:
    assert not bounded(ToolResult("\n" * 512), 1024).failed
    refused = bounded(ToolResult("\n" * 513), 1024)
    assert refused.failed
    assert "1026 bytes as JSON, more than the 1024 allowed" in refused.content
