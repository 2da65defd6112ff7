"""The events that frame a leg: its start, its snapshots, and the one that ends it, in AG-UI 1.0 form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ag_ui.core.version import PROTOCOL_VERSION

from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.usage import UsageTotals


def run_started(thread_id: str, run_id: str, messages: Sequence[NewMessage] = ()) -> AguiEvent:
    """RUN_STARTED; `messages` are the run's own new ones, so that a reader who did not send them sees them."""
    event: AguiEvent = {
        "type": "RUN_STARTED",
        "threadId": thread_id,
        "runId": run_id,
        "protocolVersion": PROTOCOL_VERSION,
    }
    if messages:
        event["input"] = {
            "threadId": thread_id,
            "runId": run_id,
            "state": {},
            "messages": [agui_message(message) for message in messages],
            "tools": [],
            "context": [],
            "forwardedProps": {},
        }
    return event


def run_finished(thread_id: str, run_id: str, outcome: AguiEvent, usage: Mapping[str, UsageTotals]) -> AguiEvent:
    """RUN_FINISHED with `outcome`; `usage` is this leg's, by `<provider>/<model>`."""
    event: AguiEvent = {"type": "RUN_FINISHED", "threadId": thread_id, "runId": run_id, "outcome": outcome}
    return event | _usage(usage)


def pause_outcome(calls: Sequence[PendingToolCall]) -> AguiEvent:
    """An interrupt when a human must decide on any call; else success, naming the calls that the browser runs."""
    decisions = [call for call in calls if call.status is not ToolCallStatus.PENDING_RESULT]
    if decisions:
        return {"type": "interrupt", "interrupts": [_interrupt(call) for call in decisions]}
    return {"type": "success", "pendingToolCallIds": [call.tool_call_id for call in calls]}


def _interrupt(call: PendingToolCall) -> AguiEvent:
    """The reason is one of ours: clients that know `tool_call` would answer it with a tool message of their own."""
    unknown = call.status is ToolCallStatus.OUTCOME_UNKNOWN
    optional = {
        "message": call.message,
        "responseSchema": call.response_schema,
        "expiresAt": call.expires_at.isoformat() if call.expires_at else None,
    }
    return {
        "id": call.interrupt_id or call.tool_call_id,
        "reason": "callboard:tool_outcome_unknown" if unknown else "callboard:tool_approval",
        "toolCallId": call.tool_call_id,
        "metadata": {"toolName": call.tool_name, "args": call.args},
        **{name: value for name, value in optional.items() if value is not None},
    }


def run_error(message: str, code: str, usage: Mapping[str, UsageTotals] | None = None) -> AguiEvent:
    return {"type": "RUN_ERROR", "message": message, "code": code} | _usage(usage or {})


def messages_snapshot(messages: Iterable[NewMessage]) -> AguiEvent:
    return {"type": "MESSAGES_SNAPSHOT", "messages": [agui_message(message) for message in messages]}


def state_snapshot(state: Any) -> AguiEvent:
    return {"type": "STATE_SNAPSHOT", "snapshot": {} if state is None else state}


def agui_message(message: NewMessage) -> AguiEvent:
    """A message row in AG-UI's form, without null members."""
    optional = {
        "content": message.content,
        "toolCalls": list(message.tool_calls) or None,
        "toolCallId": message.tool_call_id,
        "name": message.name,
    }
    return {"id": message.message_id, "role": message.role} | {k: v for k, v in optional.items() if v is not None}


def _usage(usage: Mapping[str, UsageTotals]) -> AguiEvent:
    if not usage:
        return {}
    return {"usage": [_token_usage(name, totals) for name, totals in sorted(usage.items())]}


def _token_usage(name: str, totals: UsageTotals) -> AguiEvent:
    provider, _, model = name.partition("/")
    return {
        "provider": provider,
        "model": model,
        "inputTokens": totals.input_tokens,
        "outputTokens": totals.output_tokens,
        "totalTokens": totals.total_tokens,
        "cachedInputTokens": totals.cached_tokens,
        "reasoningTokens": totals.reasoning_tokens,
    }
