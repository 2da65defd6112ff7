"""In: what happened inside a run, loosely named. Out: a complete AG-UI run, from RUN_STARTED to its terminal event."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import orjson
from ag_ui.core import StateDeltaEvent
from pydantic import ValidationError

from callboard_runtime.agui.run_events import run_error, run_finished, run_started
from callboard_runtime.agui.stream import RunStream
from callboard_runtime.domain.event_batch import AguiEvent

_STARTED = frozenset({"run_started", "start", "started", "crew_kickoff_started"})
_FINISHED = frozenset({"run_finished", "finish", "finished", "done", "end", "crew_kickoff_completed"})
_FAILED = frozenset({"run_error", "run_failed", "error", "failed", "crew_kickoff_failed"})


class Event(dict[str, Any]):
    """An AG-UI event; its members can also be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def to_agui_events(
    *, internal_events: Iterable[Any], thread_id: str | None = None, run_id: str | None = None
) -> list[AguiEvent]:
    """Translate a run's internal events: mappings, dataclasses or objects with a `type`, or bare names.

    The first event is RUN_STARTED and the last RUN_FINISHED or RUN_ERROR, whatever comes in; what follows a terminal
    is left out, what is open is closed before it, and an unknown kind becomes CUSTOM.
    """
    events = [_members(event) for event in internal_events]
    thread = thread_id or _first(events, "thread_id", "threadId") or str(uuid.uuid4())
    run = run_id or _first(events, "run_id", "runId") or str(uuid.uuid4())
    translation = _Translation()
    terminal = translation.run(events)
    translation.stream.close_open()
    return [Event(run_started(thread, run)), *translation.events, Event(terminal or _success(thread, run, events))]


class _Translation:
    def __init__(self) -> None:
        self.events: list[AguiEvent] = []
        self.stream = RunStream(self)
        self._text_id = ""
        self._call_id = ""

    def emit(self, event: AguiEvent) -> None:
        self.events.append(Event(event))

    def run(self, events: list[dict[str, Any]]) -> AguiEvent | None:
        """Translate up to the first terminal; returns RUN_ERROR if that is one."""
        for event in events:
            kind = _kind(event)
            if kind in _FAILED:
                message = _first([event], "message", "error", "error_message") or "the run failed"
                return run_error(str(message), str(_first([event], "code", "error_code") or "RUN_FAILED"))
            if kind in _FINISHED:
                return None
            if kind not in _STARTED:
                self._translate(kind, event)
        return None

    def _translate(self, kind: str, event: dict[str, Any]) -> None:
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event)
        else:
            self.stream.custom(str(event.get("type") or "event"), _rest(event))

    def text_start(self, event: dict[str, Any]) -> None:
        self._text_id = _text_of(event, "message_id", "messageId", "id") or str(uuid.uuid4())
        self.stream.text_started(self._text_id)

    def text_delta(self, event: dict[str, Any]) -> None:
        named = _text_of(event, "message_id", "messageId", "id")
        self._text_id = named or self._text_id or str(uuid.uuid4())
        self.stream.text_delta(self._text_id, _text_of(event, "delta", "text", "content", "chunk", "token"))

    def text_end(self, event: dict[str, Any]) -> None:
        self.stream.text_ended(_text_of(event, "message_id", "messageId", "id") or self._text_id)
        self._text_id = ""

    def reasoning_delta(self, event: dict[str, Any]) -> None:
        message_id = _text_of(event, "message_id", "messageId", "id") or "reasoning"
        self.stream.reasoning_delta(message_id, _text_of(event, "delta", "text", "content", "chunk"))

    def reasoning_end(self, event: dict[str, Any]) -> None:
        self.stream.reasoning_ended(_text_of(event, "message_id", "messageId", "id") or "reasoning")

    def step_start(self, event: dict[str, Any]) -> None:
        self.stream.step_started(_step(event))

    def step_end(self, event: dict[str, Any]) -> None:
        self.stream.step_finished(_step(event))

    def call_start(self, event: dict[str, Any]) -> None:
        self._call_id = _call(event) or f"call_{uuid.uuid4().hex}"
        self.stream.call_started(self._call_id, _tool(event), _text_of(event, "parent_message_id", "parentMessageId"))
        self.call_args(event)

    def call_args(self, event: dict[str, Any]) -> None:
        given = _first([event], "delta", "args", "arguments", "tool_args")
        text = given if isinstance(given, str) else "" if given is None else orjson.dumps(given, default=str).decode()
        self.stream.call_arguments(_call(event) or self._call_id, text)

    def call_end(self, event: dict[str, Any]) -> None:
        self.stream.call_ended(_call(event) or self._call_id)

    def call_result(self, event: dict[str, Any]) -> None:
        call_id = _call(event) or self._call_id
        self.stream.call_started(call_id, _tool(event))
        content = _first([event], "content", "result", "output")
        text = content if isinstance(content, str) else orjson.dumps(content, default=str).decode()
        self.stream.call_result(call_id, text, _text_of(event, "message_id", "messageId") or str(uuid.uuid4()))

    def state_snapshot(self, event: dict[str, Any]) -> None:
        self.stream.state_snapshot(_first([event], "snapshot", "state"))

    def state_delta(self, event: dict[str, Any]) -> None:
        operations: Any = _first([event], "delta", "operations", "patch") or []
        if _is_patch(operations):
            self.stream.state_delta(operations)
        else:
            self.stream.custom("state_delta", _rest(event))

    def activity(self, event: dict[str, Any]) -> None:
        message_id, kind = _text_of(event, "message_id", "messageId", "id") or "activity", _activity(event)
        content: Any = _first([event], "content", "snapshot", "data")
        if isinstance(content, Mapping):
            self.stream.activity_snapshot(message_id, kind, dict(cast(Mapping[str, Any], content)))
        else:
            self.stream.custom("activity", _rest(event))

    def activity_delta(self, event: dict[str, Any]) -> None:
        message_id, kind = _text_of(event, "message_id", "messageId", "id") or "activity", _activity(event)
        operations: Any = _first([event], "patch", "delta", "operations") or []
        if _is_patch(operations):
            self.stream.activity_delta(message_id, kind, operations)
        else:
            self.stream.custom("activity_delta", _rest(event))


_Handler = Callable[[_Translation, dict[str, Any]], None]

_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(("text_start", "text_started", "text_message_start", "message_start"), _Translation.text_start),
    **dict.fromkeys(
        ("text_delta", "text", "token", "text_message_content", "message_delta", "llm_stream_chunk"),
        _Translation.text_delta,
    ),
    **dict.fromkeys(("text_end", "text_ended", "text_message_end", "message_end"), _Translation.text_end),
    **dict.fromkeys(
        ("reasoning", "reasoning_delta", "thinking", "thinking_delta", "llm_thinking_chunk"),
        _Translation.reasoning_delta,
    ),
    **dict.fromkeys(("reasoning_end", "reasoning_ended", "thinking_end"), _Translation.reasoning_end),
    **dict.fromkeys(("step_started", "step_start", "stage_started", "task_started"), _Translation.step_start),
    **dict.fromkeys(
        ("step_finished", "step_end", "step_ended", "stage_finished", "task_completed"), _Translation.step_end
    ),
    **dict.fromkeys(
        ("tool_call_start", "tool_call_started", "tool_call", "tool_usage_started"), _Translation.call_start
    ),
    **dict.fromkeys(("tool_call_args", "tool_call_delta", "tool_args"), _Translation.call_args),
    **dict.fromkeys(("tool_call_end", "tool_call_ended"), _Translation.call_end),
    **dict.fromkeys(("tool_call_result", "tool_result", "tool_usage_finished"), _Translation.call_result),
    **dict.fromkeys(("state", "state_snapshot"), _Translation.state_snapshot),
    **dict.fromkeys(("state_delta", "state_patch"), _Translation.state_delta),
    **dict.fromkeys(("activity", "activity_snapshot"), _Translation.activity),
    **dict.fromkeys(("activity_delta", "activity_patch"), _Translation.activity_delta),
}


def _success(thread: str, run: str, events: list[dict[str, Any]]) -> AguiEvent:
    finished = run_finished(thread, run, {"type": "success"}, {})
    result = next((event["result"] for event in events if _kind(event) in _FINISHED and "result" in event), None)
    return finished | ({"result": result} if result is not None else {})


def _members(event: Any) -> dict[str, Any]:
    """An internal event as a mapping with a `type`."""
    if isinstance(event, Mapping):
        return dict(cast(Mapping[str, Any], event))
    if isinstance(event, str):
        return {"type": event}
    if dataclasses.is_dataclass(event) and not isinstance(event, type):
        members = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    else:
        dump = getattr(event, "model_dump", None)
        members = cast(dict[str, Any], dump() if dump is not None else dict(vars(event)))
    return {"type": type(event).__name__, **members}


def _kind(event: dict[str, Any]) -> str:
    """A kind in snake case: `TextDelta`, `TEXT_DELTA` and `text-delta` are the same."""
    named = event.get("type") or event.get("event") or event.get("kind") or ""
    text = str(getattr(named, "value", named)).strip()
    if not text.isupper():
        text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _first(events: Iterable[dict[str, Any]], *names: str) -> Any:
    return next((event[name] for event in events for name in names if event.get(name) is not None), None)


def _text_of(event: dict[str, Any], *names: str) -> str:
    value = _first([event], *names)
    return "" if value is None else str(value)


def _step(event: dict[str, Any]) -> str:
    return _text_of(event, "step_name", "stepName", "name", "step", "stage", "task_name") or "step"


def _call(event: dict[str, Any]) -> str:
    return _text_of(event, "tool_call_id", "toolCallId", "call_id", "id")


def _tool(event: dict[str, Any]) -> str:
    return _text_of(event, "tool_name", "toolName", "tool_call_name", "toolCallName", "name") or "tool"


def _activity(event: dict[str, Any]) -> str:
    return _text_of(event, "activity_type", "activityType", "name") or "activity"


def _is_patch(operations: Any) -> bool:
    """Whether these are operations of RFC 6902: a client would stop at anything else."""
    try:
        StateDeltaEvent.model_validate({"type": "STATE_DELTA", "delta": operations})
    except ValidationError:
        return False
    return True


def _rest(event: dict[str, Any]) -> Any:
    rest = {name: value for name, value in event.items() if name != "type"}
    return orjson.loads(orjson.dumps(rest, default=str, option=orjson.OPT_NON_STR_KEYS))
