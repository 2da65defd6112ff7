"""Folds the deltas of a streamed answer into a whole one, showing text and reasoning as they come."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from callboard_runtime.llm.errors import ModelBadResponse
from callboard_runtime.llm.messages import CallDelta, Cleaner, Delta, ModelAnswer, ToolCall, Usage, clean

MAX_TOOL_CALLS = 64
MAX_ANSWER_BYTES = 360 * 1024  # as JSON: a command of 1 MiB has it twice, in a record and a message, and more beside it
_CALL_BYTES = 256  # what a call takes beside its names and arguments


class AnswerView(Protocol):
    """Where an answer is shown; nothing in it may block or raise.

    Text and reasoning come piece by piece, the calls once, when the answer is whole: a client may act on a call.
    """

    message_id: str

    def text(self, delta: str) -> None: ...
    def reasoning(self, delta: str) -> None: ...
    def calls(self, valid: Sequence[ToolCall]) -> None: ...
    def ended(self) -> None: ...
    def withdrawn(self) -> None:
        """The answer failed in the middle and another one follows under another message id."""
        ...


@dataclass(slots=True)
class _Call:
    id: str
    wire_id: str
    wire_name: str
    name: str
    arguments: list[str] = field(default_factory=list[str])
    cleaner: Cleaner = field(default_factory=Cleaner)


class AnswerBuilder:
    """Feed it deltas in order; `answer()` is the whole, `partial()` what there is if the stream ends early."""

    def __init__(self, view: AnswerView, names: Mapping[str, str]) -> None:
        self._view = view
        self._names = names
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._cleaners = (Cleaner(), Cleaner())
        self._characters = 0
        self._bytes = 0
        self._finish = ""
        self.usage: Usage | None = None

    @property
    def characters(self) -> int:
        """Characters received, of text, reasoning and arguments."""
        return self._characters

    @property
    def started(self) -> bool:
        return bool(self._characters or self._calls)

    @property
    def complete(self) -> bool:
        """Whether the provider said that this was all."""
        return bool(self._finish)

    def feed(self, delta: Delta) -> None:
        """Take one piece; raises ModelBadResponse for what no client of ours could make sense of."""
        if delta.usage is not None:
            self.usage = delta.usage
        if delta.finish:
            self._finish = delta.finish
        self._add_reasoning(self._cleaners[1].feed(delta.reasoning))
        self._add_text(self._cleaners[0].feed(delta.text))
        for piece in delta.calls:
            self._add_call(piece)
        if self._bytes > MAX_ANSWER_BYTES:
            raise ModelBadResponse(f"the answer has more than {MAX_ANSWER_BYTES} bytes")

    def answer(self) -> ModelAnswer:
        """The whole answer; raises ModelBadResponse when it has neither text nor tool calls."""
        self._flush()
        if not self._text and not self._calls:
            raise ModelBadResponse("the model sent an empty answer")
        return self.partial()

    def partial(self) -> ModelAnswer:
        """What came so far, as an answer."""
        return ModelAnswer(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(_whole(self._calls[index]) for index in sorted(self._calls)),
            finish=self._finish or "stop",
            message_id=self._view.message_id,
        )

    def _flush(self) -> None:
        self._add_text(self._cleaners[0].flush())
        self._add_reasoning(self._cleaners[1].flush())
        for call in self._calls.values():
            self._add_arguments(call, call.cleaner.flush())

    def _add_text(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._count(text)
            self._view.text(text)

    def _add_reasoning(self, text: str) -> None:
        if text:
            self._reasoning.append(text)
            self._count(text)
            self._view.reasoning(text)

    def _add_call(self, piece: CallDelta) -> None:
        call = self._calls.get(piece.index)
        if call is None:
            call = self._open(piece)
        self._add_arguments(call, call.cleaner.feed(piece.arguments))

    def _open(self, piece: CallDelta) -> _Call:
        wire_name = clean(piece.name or "").strip()
        if not wire_name or len(wire_name) > 128:
            raise ModelBadResponse("the model called a tool without naming it")
        if len(self._calls) >= MAX_TOOL_CALLS:
            raise ModelBadResponse(f"the model called more than {MAX_TOOL_CALLS} tools at once")
        # Providers reuse ids such as `call_0` from turn to turn; ours name one call for ever.
        wire_id = clean(piece.id or "")
        call = _Call(f"call_{uuid.uuid4().hex}", wire_id, wire_name, self._names.get(wire_name, _safe(wire_name)))
        self._calls[piece.index] = call
        self._bytes += _CALL_BYTES + _json_bytes(wire_id) + 2 * _json_bytes(wire_name)
        return call

    def _add_arguments(self, call: _Call, text: str) -> None:
        if text:
            call.arguments.append(text)
            self._count(text)

    def _count(self, text: str) -> None:
        self._characters += len(text)
        self._bytes += _json_bytes(text)


def _json_bytes(text: str) -> int:
    """Bytes of the text inside a JSON document, where quotes and line breaks take two."""
    return len(orjson.dumps(text)) - 2


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _whole(call: _Call) -> ToolCall:
    return ToolCall(call.id, call.name, "".join(call.arguments), call.wire_id, call.wire_name)
