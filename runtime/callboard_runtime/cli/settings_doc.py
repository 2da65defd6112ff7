"""The settings model as text: the example .env file, and the values in use without the secrets among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from callboard_runtime.settings import ALIAS_PREFIX, PREFIX, ProviderKeys, Settings

HEADER = """\
# Every setting of Callboard with its default. Copy this file to .env and uncomment what you change; variables of the
# environment win over the file. Nothing is needed for `callboard up`; production needs the first three.
# Made by `callboard config env-example`.
"""
MASK = "**********"
_INTERNAL = frozenset({"dev_auth"})  # set by `callboard up` for its children
_EXAMPLES = {
    "database_url": "postgresql://callboard:password@localhost:5432/callboard",
    "amqp_url": "amqp://callboard:password@localhost:5672/callboard",
    "redis_url": "redis://localhost:6379/0",
}


def env_example() -> str:
    """The content of .env.example."""
    return HEADER + "".join(_section(Settings, PREFIX, ""))


def _section(model: type[BaseModel], prefix: str, title: str) -> Iterator[str]:
    if title:
        yield f"\n# -- {title} {'-' * (110 - len(title))}\n"
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested.append((name, inner))
        elif name not in _INTERNAL:
            yield _lines(prefix + name.upper(), name, field)
    for name, inner in nested:
        yield from _section(inner, f"{prefix}{name.upper()}__", f"{title} {name}".strip())


def _lines(variable: str, name: str, field: FieldInfo) -> str:
    comment = f"\n# {field.description}\n" if field.description else ""
    suffix = "__<PROVIDER>" if field.annotation == dict[str, str] else ""
    return f"{comment}#{variable}{suffix}={_EXAMPLES.get(name) or _text(field.get_default())}\n"


def _text(default: object) -> str:
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(item) for item in default)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(default)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that look like settings and are none, such as a misspelt one."""
    fields = {name.upper() for name in Settings.model_fields} | {"ENV_FILE", "UP_PID", "TOKEN"}
    ours = [(name, prefix) for prefix in (PREFIX, ALIAS_PREFIX) for name in environ if name.startswith(prefix)]
    return sorted(
        name
        for name, prefix in ours
        if (rest := name.removeprefix(prefix)).partition("__")[0] not in fields and not rest.startswith("TEST_")
    )


def shown(settings: Settings) -> dict[str, str]:
    """Every variable and its value as text, in the order of the model; secrets masked, URLs without password."""
    return dict(_values(settings, PREFIX))


def _values(model: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    fields: dict[str, Any] = dict(model)
    for name, value in fields.items():
        variable = prefix + name.upper()
        if isinstance(value, BaseModel):
            yield from _values(value, f"{variable}__")
        elif isinstance(value, dict):
            yield from ((f"{variable}__{str(key).upper()}", _shown(item)) for key, item in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif not (value is None and isinstance(model, ProviderKeys)):
            yield variable, _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return without_credentials(secret) if "://" in secret else MASK
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return without_credentials(value) if "://" in value else value
    return _text(value)


def without_credentials(url: str) -> str:
    """A URL with its password masked and its query left out, as both may hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username or ''}:{MASK}@" if parts.password is not None else f"{MASK}@" if parts.username else ""
    except ValueError:
        return MASK
    return urlunsplit((parts.scheme, user + host, parts.path, "", ""))
