"""The scripts of the scripted model: YAML files that say what it answers to which message in which stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from callboard_runtime.errors import ConfigError

_PLACE = re.compile(r"\$\{(\w+)\}")
_ERRORS = frozenset({"garbage", "disconnect", "hang", "context"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Part):
    """What an entry answers to; what is left out fits everything."""

    stage: str | None = None
    message: str | None = None  # a regular expression, searched without regard to case
    prompt: str | None = None  # the same, for the task: what tells one task of a manager from another

    @field_validator("message", "prompt")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from None
        return pattern


class ScriptedCall(_Part):
    name: str
    arguments: str | dict[str, Any] = ""


class Reply(_Part):
    """One answer; numbers may be given as `${group}` of the pattern."""

    text: str = ""
    reasoning: str = ""
    tokens: str | int | None = None  # that many tokens of filler
    count: str | int | None = None  # the numbers from 1 to this
    pace_ms: str | float | None = None  # milliseconds per token
    tool_calls: tuple[ScriptedCall, ...] = ()
    error: str | int | None = None  # an HTTP status, or garbage, disconnect, hang, context
    after: str | int | None = None  # tokens sent before the error; none means that the request itself fails
    only: int | None = None  # how often the same request meets the error; always if left out
    input_tokens: int | None = None  # what it reports as used; counted if left out
    output_tokens: int | None = None
    cached_tokens: int = 0


class Script(_Part):
    name: str
    when: When = When()
    replies: tuple[Reply, ...] = Field(min_length=1)


class ScriptFile(_Part):
    scripts: tuple[Script, ...]


class Plan(_Part):
    """A reply with everything filled in."""

    script: str
    text: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]
    pace: float  # seconds per token
    error: str | None
    after: int
    only: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int


def load_scripts(directory: Path | None) -> tuple[Script, ...]:
    """The user's scripts, then the packaged ones; raises ConfigError naming file and key."""
    own = () if directory is None else _read_directory(directory)
    return (*own, *_packaged())


@cache
def _packaged() -> tuple[Script, ...]:
    folder = files("callboard_runtime").joinpath("static", "scripts")
    named = sorted((item for item in folder.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    return tuple(script for item in named for script in parse(item.read_text("utf-8"), item.name))


def _read_directory(directory: Path) -> tuple[Script, ...]:
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is not a directory; set CALLBOARD_LLM__SCRIPTS to one with YAML scripts")
    return tuple(
        script for path in sorted(directory.glob("*.y*ml")) for script in parse(path.read_text("utf-8"), path.name)
    )


def parse(text: str, name: str) -> tuple[Script, ...]:
    """Read one file; raises ConfigError naming it and the key."""
    try:
        return ScriptFile.model_validate(yaml.safe_load(text) or {}).scripts
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: is not YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ConfigError(f"{name}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def choose(
    scripts: Iterable[Script], stage: str, message: str, rounds: int, tool_result: str, prompt: str = ""
) -> Plan:
    """The reply for this request; `rounds` is how many rounds of tool results there were since the task began."""
    for script in scripts:
        groups = _fits(script.when, stage, message, prompt)
        if groups is not None:
            values = {**groups, "message": message, "stage": stage, "tool_result": tool_result}
            return _plan(script.name, script.replies[min(rounds, len(script.replies) - 1)], values)
    raise ConfigError(f"no script fits stage {stage!r} and this message; add one with an empty `when`")


def _fits(when: When, stage: str, message: str, prompt: str) -> dict[str, str] | None:
    if when.stage is not None and when.stage != stage:
        return None
    groups: dict[str, str] = {}
    for pattern, text in ((when.message, message), (when.prompt, prompt)):
        if pattern is None:
            continue
        found = re.search(pattern, text.strip(), re.IGNORECASE | re.DOTALL)
        if found is None:
            return None
        groups |= {name: value or "" for name, value in found.groupdict().items()}
    return groups


def _plan(name: str, reply: Reply, values: Mapping[str, str]) -> Plan:
    def fill(text: str) -> str:
        return _PLACE.sub(lambda place: values.get(place[1], place[0]), text)

    def number(value: str | float | None) -> float:
        filled = fill(value) if isinstance(value, str) else value
        return float(filled) if filled not in (None, "") else 0.0

    error = fill(str(reply.error)) if reply.error is not None else None
    if error is not None and error not in _ERRORS and not error.isdigit():
        raise ConfigError(f"script {name}: error: {error!r} is neither an HTTP status nor one of {sorted(_ERRORS)}")
    return Plan(
        script=name,
        text=fill(reply.text) + _count(int(number(reply.count))) + _filler(int(number(reply.tokens))),
        reasoning=fill(reply.reasoning),
        calls=tuple((fill(call.name), _arguments(call, fill)) for call in reply.tool_calls),
        pace=number(reply.pace_ms) / 1000,
        error=error,
        after=int(number(reply.after)),
        only=reply.only,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cached_tokens=reply.cached_tokens,
    )


def _arguments(call: ScriptedCall, fill: Any) -> str:
    if isinstance(call.arguments, str):
        return fill(call.arguments) or "{}"
    import orjson

    return fill(orjson.dumps(call.arguments).decode())


def _count(limit: int) -> str:
    return " ".join(str(number) for number in range(1, limit + 1))


def _filler(tokens: int) -> str:
    return " ".join(f"token{number}" for number in range(1, tokens + 1))
