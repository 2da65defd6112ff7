"""What every log record gets besides what its caller gave: the ids of the run at work, its trace, and no secret.

In:  records of any logger, inside or outside of a run
Out: records with `session_id`, `run_id` and `trace_id` where there are any; lines without the settings' secrets
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import BaseModel, SecretStr

from callboard_runtime.observe import tracing

HIDDEN = "(hidden)"
SHORTEST = 6  # characters; hiding shorter ones would only make lines unreadable

_run: ContextVar[Mapping[str, str] | None] = ContextVar("run", default=None)


@contextmanager
def run_named(session_id: UUID, run_id: UUID) -> Generator[None]:
    """Log records made inside, also by tools in threads, carry these ids."""
    token = _run.set({"session_id": str(session_id), "run_id": str(run_id)})
    try:
        yield
    finally:
        _run.reset(token)


class RunIds(logging.Filter):
    """Adds the ids to every record that passes; `added_ids` names them for formatters. What the caller gave stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        ids = dict(_run.get() or {})
        if (trace_id := tracing.trace_id()) is not None:
            ids["trace_id"] = trace_id
        for name, value in ids.items():
            record.__dict__.setdefault(name, value)
        record.__dict__["_added_ids"] = frozenset(ids)
        return True


class Redactor:
    """Replaces the settings' secrets, and the passwords of their URLs, in a text."""

    def __init__(self, settings: BaseModel | None = None) -> None:
        forms = {form for secret in _secrets(settings) for form in (secret, json.dumps(secret)[1:-1])}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    return f":{HIDDEN}@" if found[0].startswith(":") and found[0].endswith("@") else HIDDEN


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for part in {**dict(value), **(value.model_extra or {})}.values():
            yield from _secrets(part)
    elif isinstance(value, SecretStr):
        yield from _parts(value.get_secret_value())


def _parts(secret: str) -> Iterator[str]:
    """Of a URL only the password is secret, where it stands before the host; that belongs into an error message."""
    if "://" in secret:
        password = urlsplit(secret).password or ""
        yield from (f":{form}@" for form in (password, unquote(password)) if form)
    elif len(secret) >= SHORTEST:
        yield secret
