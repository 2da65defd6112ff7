"""In: what a flow does, event by event. Out: AG-UI events at once; messages and state, journaled method by method."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.pause import ReplayDiverged
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.errors import CallboardError, InvalidInput
from callboard_runtime.flows.inputs import RESERVED
from callboard_runtime.flows.journal import LegJournal
from callboard_runtime.flows.steps import MethodSteps
from callboard_runtime.flows.views import view_for
from callboard_runtime.llm.caller import View
from callboard_runtime.llm.messages import ModelAnswer, ToolCall, clean
from callboard_runtime.tools.state import StateError, bounded

Json = dict[str, Any]

MAX_LEFT_BYTES = 360 * 1024  # as JSON, of what a method leaves or shows: a command of 1 MiB has it twice, and more


@dataclass(frozen=True, slots=True)
class _Due:
    """What a finished method left to be committed."""

    step: StepBegin
    record: StepRecord
    messages: tuple[NewMessage, ...]
    state: Json | None  # None: the method did not change it


class Progress:
    """Follows one flow. `state` gives the flow's state as JSON; `fail` ends the flow with an error."""

    def __init__(
        self,
        journal: LegJournal,
        stream: RunStream,
        inputs: Json,
        state: Callable[[], Json],
        fail: Callable[[CallboardError], None],
        max_state: int,
    ) -> None:
        self._journal, self._stream, self._state, self._fail = journal, stream, state, fail
        self._max_state = max_state
        self._steps = MethodSteps(stream)
        self._known = Counter(map(_signature, inputs["messages"]))
        self._kept_state = _shared(inputs)
        self._finishes: Counter[str] = Counter()
        self._result_ids: dict[str, str] = {}  # tool call -> message id of its result, where it was shown
        self._due: list[_Due] = []
        self._committing = asyncio.Lock()
        self.calls: dict[str, ToolCall] = {}  # that this leg made and nobody answered, by id
        self.text = ""  # of the last answer

    # -- what the flow says -------------------------------------------------------------------------------------------

    def see(self, event: Any, *, own: bool) -> None:
        """Take an event of CrewAI's bus; `own`: of the flow itself, not of something inside it. Never raises."""
        try:
            self._see(event, own)
        except CallboardError as error:
            self._fail(error)

    def _see(self, event: Any, own: bool) -> None:
        match str(getattr(event.type, "value", event.type)):
            case "method_execution_started" if own:
                self._steps.started(event.method_name, replaying=self._replaying)
            case "method_execution_finished" if own:
                self._finished(event.method_name)
            case "method_execution_failed" if own:
                self._steps.finished(event.method_name)
            case kind if not self._replaying:
                self._show(kind, event)
            case _:
                pass

    def _show(self, kind: str, event: Any) -> None:
        match kind:
            case "STATE_SNAPSHOT":
                self._steps.live()
                self._stream.state_snapshot(self._bounded(_shared(_json(event.snapshot))))
            case "CUSTOM":
                self._steps.live()
                value = _json(event.value)
                _check_size(f"event {event.name} has", orjson.dumps(value))
                self._stream.custom(event.name, value)
            case "TOOL_CALL_RESULT":
                self._steps.live()
                content = clean(event.content)
                _check_size("tool result has", orjson.dumps(content))
                self._result_ids[event.tool_call_id] = event.message_id
                self._stream.call_result(event.tool_call_id, content, event.message_id)
            case _:
                pass

    @property
    def _replaying(self) -> bool:
        return bool(self._journal.unreplayed())

    # -- answers of models --------------------------------------------------------------------------------------------

    def view(self, *, visible: bool) -> View:
        """Where an answer is shown."""
        return view_for(self._stream, self._steps, visible=visible)

    def answered(self, answer: ModelAnswer, shown: Sequence[ToolCall]) -> None:
        """A shown answer is a message already: the flow's own copy of it makes no second one."""
        self.text = answer.text
        self.calls |= {call.id: call for call in shown}
        self._known[_signature({"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls})] += 1

    # -- messages and state -------------------------------------------------------------------------------------------

    def _finished(self, method: str) -> None:
        self._finishes[method] += 1
        state = self._state()
        new = self._new_messages(state.get("messages") or ())
        shared = self._bounded(_shared(state))
        changed = shared if shared != self._kept_state else None
        self._kept_state = shared
        if new or changed is not None:
            self._keep(method, new, changed)
        self._steps.finished(method)

    def _keep(self, method: str, new: list[Json], changed: Json | None) -> None:
        place = f"{self._journal.prefix}{method}"
        key = f"{place}#{self._finishes[method]}"
        result: Json = {"messages": new, "state": changed}
        left = orjson.dumps(result, option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(left).hexdigest()
        row = self._journal.find(key)
        if row is not None and row.status == "recorded":
            if row.digest != digest:
                raise ReplayDiverged(f"step {key}: the method left other messages or another state than recorded")
            return
        if later := [other for other in self._journal.unreplayed() if other.startswith((f"{place}@", f"{place}#"))]:
            raise ReplayDiverged(f"step {key}: not in the journal, which goes on with {later[0]}")
        _check_size(f"method {method} left", left)
        self._steps.live()
        rows = tuple(map(self._shown, new))
        if changed is not None:
            self._stream.state_snapshot(changed)
        step = StepBegin(key=key, kind="tool", name=method, digest=digest)
        self._due.append(_Due(step, StepRecord(key=key, result=result), rows, changed))

    async def commit(self) -> None:
        """Commit what the methods that finished left; raises what the journal raises."""
        async with self._committing:
            while self._due:
                due = self._due[0]
                await self._journal.begin(due.step)
                await self._journal.record(due.record, messages=due.messages, state=due.state)
                self._due.pop(0)

    def _new_messages(self, messages: Sequence[Any]) -> list[Json]:
        """Assistant and tool messages that nobody knows of yet; they count as known from here on."""
        seen: Counter[Any] = Counter()
        new: list[Json] = []
        for given in messages:
            message = _message(given)
            signature = _signature(message)
            seen[signature] += 1
            if message["role"] in ("assistant", "tool") and seen[signature] > self._known[signature]:
                self._known[signature] += 1
                self._note_calls(message)
                new.append(message)
        return new

    def _note_calls(self, message: Json) -> None:
        if message["role"] == "tool":
            self.calls.pop(message["tool_call_id"], None)
            return
        self.text = message["content"] or ""
        for call in message.get("tool_calls", ()):
            self.calls[call["id"]] = ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])

    def _shown(self, message: Json) -> NewMessage:
        return self._show_result(message) if message["role"] == "tool" else self._show_text(message)

    def _show_result(self, message: Json) -> NewMessage:
        call_id, content = message["tool_call_id"], message["content"]
        message_id = self._result_ids.get(call_id) or str(uuid.uuid4())
        self._stream.call_result(call_id, content, message_id)
        return NewMessage(message_id=message_id, role="tool", content=content, tool_call_id=call_id)

    def _show_text(self, message: Json) -> NewMessage:
        message_id, calls = str(uuid.uuid4()), tuple(message.get("tool_calls", ()))
        self._stream.text_delta(message_id, message["content"] or "")
        self._stream.text_ended(message_id)
        for call in calls:
            self._stream.call_started(call["id"], call["function"]["name"], message_id)
            self._stream.call_arguments(call["id"], call["function"]["arguments"])
            self._stream.call_ended(call["id"])
        return NewMessage(message_id=message_id, role="assistant", content=message["content"], tool_calls=calls)

    def _bounded(self, state: Json) -> Json:
        try:
            return bounded(state, self._max_state)
        except StateError as error:
            raise InvalidInput(f"the flow's state: {error}") from None


def _check_size(what: str, found: bytes) -> None:
    if len(found) > MAX_LEFT_BYTES:
        raise InvalidInput(f"the flow's {what} {len(found)} bytes as JSON; at most {MAX_LEFT_BYTES} can be kept")


def _shared(state: Mapping[str, Any]) -> Json:
    return {key: value for key, value in state.items() if key not in RESERVED}


def _json(value: Any) -> Any:
    """The value as a client reads it; what JSON does not know is written as text."""
    dump = getattr(value, "model_dump", None)
    return _clean(orjson.loads(orjson.dumps(dump(mode="json") if dump else value, default=_foreign)))


def _foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump else str(value)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_clean(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in cast(Json, value).items()}
    return value


def _message(given: Any) -> Json:
    """A message of the flow's state in the one form that is kept."""
    message = cast(Json, _json(given))
    kept: Json = {"role": message.get("role", ""), "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        kept["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    if kept["role"] == "tool":
        kept |= {"tool_call_id": message.get("tool_call_id") or "", "content": kept["content"] or ""}
    return kept


def _text(content: Any) -> str | None:
    return content if content is None or isinstance(content, str) else orjson.dumps(content).decode()


def _call(call: Json) -> Json:
    function = cast(Json, call.get("function") or {})
    named = {"name": function.get("name") or "", "arguments": function.get("arguments") or ""}
    return {"id": call.get("id") or "", "type": "function", "function": named}


def _signature(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two messages the same: ids of messages are not kept by every flow."""
    calls = [call.id if isinstance(call, ToolCall) else call["id"] for call in message.get("tool_calls") or ()]
    return message["role"], _text(message.get("content")) or "", tuple(calls), message.get("tool_call_id") or ""


as_json = _json
