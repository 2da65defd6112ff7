"""The OpenAPI 3.1 document, assembled from the table of operations and the models' JSON schemas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from callboard_http.openapi.bodies import AguiEvent
from callboard_http.openapi.operations import EVENT_STREAM, OPERATIONS, Answer, Operation, Parameter
from callboard_http.problems import CODES, CONTENT_TYPE
from callboard_runtime.broker.messages import Problem, RunEvent
from callboard_runtime.domain.ids import ClientId
from callboard_runtime.errors import CallboardError, Fenced, Refused, Unavailable
from callboard_runtime.settings import HttpSettings

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_ID: Json = TypeAdapter(ClientId).json_schema()
_PATH: dict[str, Json] = {  # parameters of paths that are no ids of clients
    "path": {"type": "string", "minLength": 1},
    "internal_id": {"type": "string", "format": "uuid"},
    "letter": {"type": "string", "pattern": "^[A-Za-z0-9]{1,20}$"},
}
_ABOUT = """\
Ids in paths are the client's own: `run_id` is AG-UI's runId, `session_id` its threadId. They are unique per user; \
what belongs to somebody else does not exist for you (404).

Errors are problem details (RFC 9457) with a stable `code`. Where waiting helps, `Retry-After` says how long.

A stream's frames are `id: <epoch>-<seq>` and `data: <AG-UI event>`, separated by LF alone; lines that begin with a \
colon keep the connection open. It ends with the closing event of its leg.
"""
_LIMITS = ("max_body_bytes", "max_messages", "max_streams_per_user", "max_queued_runs_per_user", "runs_per_minute",
           "body_timeout", "idle_timeout")  # fmt: skip
_HEADERS: dict[str, Json] = {
    "Location": {"description": "The run's path", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "What kind of token", "schema": {"type": "string"}},
}
_SIGNED = {
    "webhook-id": "The event's id, the same in every copy",
    "webhook-timestamp": "Seconds since 1970, of this try",
    "webhook-signature": "`v1,` and HMAC-SHA256 of `id.timestamp.body` in base64; one per secret, separated by spaces",
}
_SENDS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


@cache
def document() -> Json:
    """The document; the same for the same code."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": version("callboard"), "description": _ABOUT + _limits()},
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": _paths(),
        "webhooks": {"runEvent": {"post": _webhook()}},
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "`sub` is the user, `roles` what they are beyond that. `callboard up` needs none.",
                },
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
            "responses": {name: _problem_response(status) for status, name in _problem_names().items()},
            "schemas": _schemas(),
        },
    }  # fmt: skip


def codes_of(status: int) -> list[str]:
    """The stable codes of a status, those of the errors that clients can meet."""
    kinds = [kind for root in (Refused, Unavailable) for kind in _below(root) if not issubclass(kind, Fenced)]
    own = [kind.code for kind in kinds if kind.status == status and kind is not Refused]
    from_http = [CODES[status]] if status in CODES else []
    return list(dict.fromkeys([*own, *from_http])) or ["INTERNAL" if status == 500 else "REFUSED"]


def _below(root: type[CallboardError]) -> Iterator[type[CallboardError]]:
    if root.__module__ == CallboardError.__module__:  # of the runtime's own: others may have added some
        yield root
    for child in root.__subclasses__():
        yield from _below(child)


def _limits() -> str:
    fields = HttpSettings.model_fields
    rows = "".join(f"| {fields[name].description} | {fields[name].default} |\n" for name in _LIMITS)
    return f"\n| limit, unless configured otherwise | |\n|---|---|\n{rows}"


def _paths() -> Json:
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return paths


def _webhook() -> Json:
    """What Callboard itself sends to the configured URLs."""
    return {
        "operationId": "runEvent",
        "summary": "Something happened to a run; sent at least once to each of CALLBOARD_WEBHOOKS__URLS",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": about, "schema": {"type": "string"}}
            for name, about in _SIGNED.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(RunEvent)}}},
        "responses": {
            "2XX": {"description": "Taken; it is not sent again"},
            "410": {"description": "Not wanted; it is not sent again"},
            "default": {"description": "Sent again later, not before `Retry-After`"},
        },
    }


def _operation(operation: Operation) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": _security(operation),
        "responses": dict(_responses(operation)),
    }
    if parameters := [*map(_path_parameter, operation.path_names), *map(_parameter, operation.parameters)]:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": _ref(operation.body)}}
        described["requestBody"] = {"required": not operation.body_optional, "content": content}
    return described


def _security(operation: Operation) -> list[Json]:
    if operation.open:
        return []
    return [{"bearer": []}, {"ticket": []}] if operation.ticket else [{"bearer": []}]


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _PATH.get(name, _ID)}


def _parameter(parameter: Parameter) -> Json:
    about = {"name": parameter.name, "in": parameter.where, "description": parameter.about}
    return about | {"schema": parameter.schema}


def _responses(operation: Operation) -> Iterator[tuple[str, Json]]:
    for answer in operation.answers:
        yield str(answer.status), _response(answer)
    given = {answer.status for answer in operation.answers}
    names = _problem_names()
    for status in sorted({*operation.refuses, *_implied(operation)} - given):
        yield str(status), {"$ref": f"#/components/responses/{names[status]}"}


def _implied(operation: Operation) -> Iterator[int]:
    """The problems that follow from what an operation takes."""
    yield 500
    if not operation.open:
        yield 401
    if operation.path_names or operation.parameters or operation.body:
        yield 400
    if operation.body:
        yield from (408, 413)
    if operation.services:
        yield 503


def _response(answer: Answer) -> Json:
    response: Json = {"description": answer.about}
    if answer.bodies:
        response["content"] = {kind: {"schema": _content(kind, model)} for kind, model in answer.bodies}
    if answer.headers:
        response["headers"] = {name: _HEADERS[name] for name in answer.headers}
    return response


def _content(kind: str, model: type[BaseModel] | None) -> Json:
    if model is not None:
        return _ref(model)
    if kind == EVENT_STREAM:
        return {"type": "string", "description": "Frames whose `data` is an AguiEvent"}
    return {"type": "string"} if kind.startswith("text/") else {}


def _problem_names() -> dict[int, str]:
    used = {status for operation in OPERATIONS for status in (*operation.refuses, *_implied(operation))}
    return {status: HTTPStatus(status).phrase.title().replace(" ", "") for status in sorted(used)}


def _problem_response(status: int) -> Json:
    own = {"properties": {"status": {"const": status}, "code": {"enum": codes_of(status)}}}
    response: Json = {
        "description": HTTPStatus(status).phrase,
        "content": {CONTENT_TYPE: {"schema": {"allOf": [_ref(Problem), own]}}},
    }
    if status in _SENDS:
        response["headers"] = {_SENDS[status]: _HEADERS[_SENDS[status]]}
    return response


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _schemas() -> Json:
    taken = {operation.body for operation in OPERATIONS if operation.body is not None}
    given = {model for operation in OPERATIONS for answer in operation.answers for _, model in answer.bodies if model}
    inputs = [(model, "validation") for model in _sorted(taken)]
    outputs = [(model, "serialization") for model in _sorted(given | {Problem, AguiEvent, RunEvent})]
    _, schemas = models_json_schema([*inputs, *outputs], ref_template=_REF)  # pyright: ignore[reportArgumentType] - a list of pairs is invariant
    return dict(sorted(schemas["$defs"].items()))


def _sorted(models: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: model.__name__)
