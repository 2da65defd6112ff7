"""What goes to a model and what comes back, as values: requests, deltas, answers; and text made safe to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

ChatMessage = Mapping[str, Any]
"""One message in OpenAI's chat form."""

_CREWAI_ONLY = frozenset({"cache_breakpoint", "files", "raw_tool_call_parts"})
REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for; `id` is ours and unique, `wire_id` is what the provider called it."""

    id: str
    name: str  # as the tool was declared
    arguments: str  # JSON text, as the model wrote it
    wire_id: str = ""
    wire_name: str = ""

    def to_wire(self) -> dict[str, Any]:
        """The call as the provider knows it."""
        function = {"name": self.wire_name or self.name, "arguments": self.arguments}
        return {"id": self.wire_id or self.id, "type": "function", "function": function}

    def to_agui(self) -> dict[str, Any]:
        """The call as an assistant message shows it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; cached are part of input, reasoning part of output."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of one tool call; the first of an `index` has its name."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A whole answer: what is recorded in the journal and what a replay is answered with."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    message_id: str = ""

    def to_result(self) -> dict[str, Any]:
        """The journal's form."""
        calls = [
            {"id": c.id, "name": c.name, "arguments": c.arguments, "wire_id": c.wire_id, "wire_name": c.wire_name}
            for c in self.tool_calls
        ]
        result = {"text": self.text, "tool_calls": calls, "reasoning": self.reasoning, "finish": self.finish}
        return result | {"message_id": self.message_id}

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> ModelAnswer:
        """Read the journal's form."""
        calls = tuple(ToolCall(**call) for call in result.get("tool_calls", ()))
        text = {name: str(result.get(name) or "") for name in ("text", "reasoning", "message_id")}
        return cls(tool_calls=calls, finish=str(result.get("finish") or "stop"), **text)

    def to_wire(self) -> dict[str, Any]:
        """The assistant message that the provider must see again: text beside tool calls stays beside them."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [call.to_wire() for call in self.tool_calls]
            if self.reasoning:  # providers that reason between calls want their own words back
                message["reasoning_content"] = self.reasoning
        return message


def _any(_: ToolCall) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One logical request to a stage's model; retries and fallbacks are tries of the same call."""

    path: str  # where in the crew: the stage, then the tool calls that lead below it
    stage: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[dict[str, Any], ...] = ()
    model: str = ""
    names: Mapping[str, str] = field(default_factory=dict[str, str])  # wire name of a tool -> its own
    user_text: str = ""
    valid: Callable[[ToolCall], bool] = _any  # whether a call of the answer can be run, and may be shown

    def digest(self) -> str:
        """sha256 over everything that shapes the answer and is the same in every attempt."""
        content = {"path": self.path, "model": self.model, "messages": self.messages, "tools": self.tools}
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS, default=dict)).hexdigest()

    def size(self) -> int:
        """Characters sent, roughly."""
        return len(orjson.dumps([self.messages, self.tools], default=dict))


def wire_messages(messages: str | Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Messages as the provider may see them: CrewAI's private keys are dropped, text is made safe."""
    if isinstance(messages, str):
        return ({"role": "user", "content": clean(messages)},)
    return tuple(cast(dict[str, Any], _clean_deep(_public(message))) for message in messages)


def _public(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in _CREWAI_ONLY}


def _clean_deep(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return {key: _clean_deep(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_clean_deep(item) for item in cast(Sequence[Any], value)]
    return value


def clean(text: str) -> str:
    """Replace what PostgreSQL and UTF-8 cannot hold (NUL, lone surrogates) by U+FFFD; surrogate pairs are joined."""
    if text.isascii():
        return text.replace("\0", REPLACEMENT) if "\0" in text else text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", REPLACEMENT)


class Cleaner:
    """`clean` for a stream: a surrogate pair that was cut in two between deltas is joined again."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be shown now; at most one character is held back."""
        if not self._held and text.isascii():
            return clean(text)
        text = self._held + text
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._held, text = text[-1], text[:-1]
        return clean(text)

    def flush(self) -> str:
        held, self._held = self._held, ""
        return clean(held)


def estimate_tokens(characters: int) -> int:
    """A rough count where nobody counted: four characters a token, rounded up."""
    return (characters + 3) // 4
