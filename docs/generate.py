"""Writes what the documentation repeats of the code: `.venv/bin/python docs/generate.py`. Tests compare them.

docs/configuration.md from the settings, docs/openapi.json and the tables of docs/http-api.md from the routes, and
docs/asyncapi.yaml, which the front has a copy of.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

import callboard_actors.metrics  # noqa: F401 - it declares metrics, as the next two do
import callboard_http.metrics  # noqa: F401
import callboard_runtime.observe.worker  # noqa: F401
from callboard_http.openapi.document import codes_of
from callboard_http.openapi.document import document as openapi
from callboard_http.openapi.operations import OPERATIONS
from callboard_runtime.observe.metrics import CATALOGUE
from callboard_runtime.settings import PREFIX, ProviderKeys, Settings

HERE = Path(__file__).parent
HTTP_API = HERE / "http-api.md"
OBSERVABILITY = HERE / "observability.md"
INTERNAL = frozenset({"dev_auth"})  # `callboard up` sets it for its own front

HEADER = f"""\
# Configuration

<!-- Written by docs/generate.py from runtime/callboard_runtime/setting_sections.py: change that, not this. -->

Every process reads the same settings. `callboard up` needs none of them; production needs `{PREFIX}DATABASE_URL`,
`{PREFIX}AMQP_URL`, `{PREFIX}REDIS_URL` and a key to check tokens with (`{PREFIX}AUTH__JWT_SECRET` or
`{PREFIX}AUTH__JWT_PUBLIC_KEY`).

- A variable of the environment wins over the file `.env` of the working directory. `CALLBOARD_ENV_FILE` names another
  file; empty means none.
- The prefix `SOCIAL_` is an alias of `{PREFIX}`; where both are set, `{PREFIX}` wins.
- `X=` is the same as not setting `X`. A value that cannot be used ends the process with exit code 2 and one line that
  names the variable and the fix; so does an unknown name inside a section.
- `callboard config show` prints the settings as they are read, with secrets masked, and names variables that are none.
  `callboard config env-example` prints an example file of all of them.
- Which agents, models and tools there are is not a setting: see
  [the runtime's route](runtime/runtime-route.md#configuration).
"""


def document() -> str:
    """The content of docs/configuration.md."""
    return HEADER + "".join(_section(Settings, PREFIX, "General"))


def variables(model: type[BaseModel] = Settings, prefix: str = PREFIX) -> Iterator[tuple[str, FieldInfo]]:
    """Every variable with its field, in the order of the model."""
    for name, field in model.model_fields.items():
        inner = _inner(field)
        if inner is not None:
            yield from variables(inner, f"{prefix}{name.upper()}__")
        elif name not in INTERNAL:
            suffix = "__<PROVIDER>" if field.annotation == dict[str, str] else ""
            yield prefix + name.upper() + suffix, field


def default_text(field: FieldInfo) -> str:
    """The default as it would be written in the environment; empty for none."""
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ({}, ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _section(model: type[BaseModel], prefix: str, title: str) -> Iterator[str]:
    own = [(name, field) for name, field in model.model_fields.items() if _inner(field) is None]
    yield f"\n## {title}\n\n| variable | value | default | meaning |\n|---|---|---|---|\n"
    if model is ProviderKeys:
        yield f"| `{prefix}<PROVIDER>` | secret | | API key of a provider, such as `{prefix}DEEPSEEK` |\n"
        return
    for name, field in own:
        if name not in INTERNAL:
            yield _row(prefix + name.upper(), field)
    for name, field in model.model_fields.items():
        inner = _inner(field)
        if inner is not None:
            where = name if model is Settings else f"{title}: {name}"
            yield from _section(inner, f"{prefix}{name.upper()}__", where)


def _row(variable: str, field: FieldInfo) -> str:
    variable += "__<PROVIDER>" if field.annotation == dict[str, str] else ""
    default = f" `{text}`" if (text := default_text(field)) else ""
    return f"| `{variable}` | {_kind(field)} |{default} | {field.description} |\n"


def _kind(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return f"{_NAMES.get(kind, 'text')}{_bounds(field)}"


_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    dict[str, str]: "URL",
    tuple[str, ...]: "names, separated by commas",
    SecretStr: "secret",
}


def _bounds(field: FieldInfo) -> str:
    shown: list[str] = []
    for bound in field.metadata:
        for attribute, sign in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to")):
            limit = getattr(bound, attribute, None)
            if limit is not None:
                shown.append(f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}")
    return f", {' '.join(shown)}" if shown else ""


def openapi_text() -> str:
    """The content of docs/openapi.json."""
    return json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n"


def asyncapi_text() -> str:
    """The content of docs/asyncapi.yaml, and of the copy that fronts serve."""
    from callboard_http.asyncapi import document as asyncapi

    return asyncapi()


_WRITTEN = {
    "routes": "written by docs/generate.py from http/callboard_http/openapi/operations.py",
    "errors": "written by docs/generate.py from runtime/callboard_runtime/errors.py",
}


def http_api() -> str:
    """docs/http-api.md with its generated tables made anew."""
    text = HTTP_API.read_text()
    for name, rows in (("routes", _routes()), ("errors", _errors())):
        marked = re.compile(f"<!-- {name}: .*<!-- end of {name} -->", re.DOTALL)
        [before, after] = marked.split(text)
        text = "".join((before, f"<!-- {name}: {_WRITTEN[name]} -->\n", *rows, f"<!-- end of {name} -->", after))
    return text


def _routes() -> Iterator[str]:
    yield "| method | path | does |\n|---|---|---|\n"
    for operation in (operation for operation in OPERATIONS if operation.tag not in ("Playground", "Inspector")):
        yield f"| {operation.method} | `{operation.path}` | {operation.summary} |\n"


def _errors() -> Iterator[str]:
    yield "| code | status |\n|---|---|\n"
    operations = [operation for item in openapi()["paths"].values() for operation in item.values()]
    for status in sorted({int(status) for operation in operations for status in operation["responses"]}):
        for code in codes_of(status) if status >= 400 else ():
            yield f"| `{code}` | {status} |\n"


def observability() -> str:
    """docs/observability.md with its table of metrics made anew."""
    [before, after] = re.split("<!-- metrics: .*<!-- end of metrics -->", OBSERVABILITY.read_text(), flags=re.DOTALL)
    note = "written by docs/generate.py from the code: change that, not this"
    return "".join((before, f"<!-- metrics: {note} -->\n", *_metrics(), "<!-- end of metrics -->", after))


def _metrics() -> Iterator[str]:
    yield "| metric | kind | labels | on | counts or shows |\n|---|---|---|---|---|\n"
    for metric in sorted(CATALOGUE.values(), key=lambda metric: (metric.on, metric.name)):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.on} | {metric.text} |\n"


GENERATED: dict[Path, Callable[[], str]] = {
    HERE / "configuration.md": document,
    HERE / "openapi.json": openapi_text,
    HERE / "asyncapi.yaml": asyncapi_text,
    HERE.parent / "http" / "callboard_http" / "openapi" / "asyncapi.yaml": asyncapi_text,
    HTTP_API: http_api,
    OBSERVABILITY: observability,
}

if __name__ == "__main__":
    for path, content in GENERATED.items():
        path.write_text(content())
