"""JSON schemas of tools: whether one can be used, and what is wrong with arguments by one.

Clients send schemas, so nothing in one may cost much: references are never fetched, patterns give up, and how much work
a schema makes is counted before it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ValidationError, Validator, validator_for

from callboard_runtime.domain.schema_effort import (
    STANDARD,
    Effort,
    SchemaRefused,
    TooMuchWork,
    for_arguments,
    for_schemas,
    weigh_arguments,
    weigh_schema,
)
from callboard_runtime.errors import InvalidInput

_PATTERNS = FancyRegexOptions(backtrack_limit=100_000)
_TOLD = 3  # problems at once
_LENGTH = 300  # characters of each

ANY_OBJECT: Mapping[str, Any] = {"type": "object", "properties": {}}


def schema_problem(parameters: Any, effort: Effort | None = None) -> str | None:
    """Why `parameters` cannot describe a tool's arguments; None when they can. Absent ones describe any object.

    `effort` is shared by the schemas of one request.
    """
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        return "must be a JSON schema, an object"
    schema = cast(dict[str, Any], parameters)
    kind = schema.get("type", "object")
    if isinstance(kind, str) and kind != "object":
        return f"arguments are an object, and the schema's type is {kind[:40]!r}: make it 'object'"
    try:
        weigh_schema(schema, effort or for_schemas())
        _validator(schema)
    except (SchemaRefused, TooMuchWork) as error:
        return str(error)
    except ValidationError as error:
        return _at(error, "not a JSON schema")
    return None


def check_schemas(declared: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a client's tool that cannot be offered; raises InvalidInput naming its place in the request."""
    effort = for_schemas()
    for index, tool in enumerate(declared):
        if (problem := schema_problem(tool.get("parameters"), effort)) is not None:
            name = str(tool.get("name"))[:80]
            raise InvalidInput(f"tools.{index}.parameters: of tool {name!r}: {problem}")


def arguments_problem(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with these arguments, as a sentence for the model or the approver; None when nothing is."""
    try:
        weigh_arguments(parameters, arguments, for_arguments())
        errors = list(islice(_errors(parameters, arguments), _TOLD))
    except TooMuchWork as error:
        return f"arguments: {error}"
    except SchemaRefused as error:
        return f"the tool's schema cannot be used: {error}"
    except ValidationError as error:  # a schema that was pinned before schemas were checked
        return f"the tool's schema cannot be used: {error.message[:_LENGTH]}"
    return "; ".join(f"argument {_at(error, 'object')}" for error in errors) or None


def _errors(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[ValidationError]:
    return _validator(parameters).iter_errors(dict(arguments))  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # a bare Iterator


def _validator(parameters: Mapping[str, Any]) -> Validator:
    schema = {"type": "object", **parameters}
    named = schema.get("$schema")
    standard = isinstance(named, str) and named.startswith(STANDARD)
    make = validator_for if standard else Draft202012Validator
    return make(schema, offline=True, pattern_options=_PATTERNS)


def _at(error: ValidationError, whole: str) -> str:
    where = "/".join(str(part) for part in error.instance_path) or whole
    return f"{where}: {error.message[:_LENGTH]}"
