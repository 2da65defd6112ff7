"""What a client can meet: a refusal with its code, a server that is gone, or a stream that is not whole.

ClientError
├── ProblemError          the server said no: `status`, `code`, `detail`, `retry_after`
│   ├── BadRequest        400, 413, 415, 422
│   ├── Unauthenticated   401, 403
│   ├── NotFound          404
│   ├── Conflict          409: `code` says which, such as RUN_ID_CONFLICT or TOOL_RESULT_MISMATCH
│   ├── Gone              410
│   ├── LimitExceeded     429
│   ├── Unavailable       502, 503, 504: nothing was accepted, or nobody knows; the same call is safe
│   └── ServerError       any other 5xx
├── ServerLost            no answer within the client's patience
├── UnexpectedAnswer      what answered does not speak Callboard's API
└── EventsMissing         an event id does not follow the one before
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from callboard_runtime.domain.event_batch import EventId


class ClientError(Exception):
    """A call did not come to its result."""


class ProblemError(ClientError):
    """The server refused. `code` is stable and meant for programs, `detail` is meant for people."""

    def __init__(self, status: int, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after  # seconds


class BadRequest(ProblemError):
    """The request is wrong: `detail` names the field and the fix."""


class Unauthenticated(ProblemError):
    """The token is missing, expired or not accepted."""


class NotFound(ProblemError):
    """There is no such thing, or it belongs to somebody else."""


class Conflict(ProblemError):
    """The request contradicts the present state."""


class Gone(ProblemError):
    """It was deleted."""


class LimitExceeded(ProblemError):
    """Too much was asked for; `retry_after` says when to come back."""


class Unavailable(ProblemError):
    """The server cannot serve now."""


class ServerError(ProblemError):
    """The server failed."""


class ServerLost(ClientError):
    """The server could not be reached, or kept breaking off, for as long as the client waits."""


class UnexpectedAnswer(ClientError):
    """The answer is not one of Callboard's; is the URL right?"""


class EventsMissing(ClientError):
    """The stream skipped events: `received` does not follow `previous`."""

    def __init__(self, previous: EventId | None, received: EventId) -> None:
        super().__init__(f"event {received} does not follow {previous or 'the start of the stream'}")
        self.previous = previous
        self.received = received


_BY_STATUS: Mapping[int, type[ProblemError]] = {
    401: Unauthenticated,
    403: Unauthenticated,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: LimitExceeded,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem(status: int, body: Any, retry_after: str | None) -> ProblemError:
    """The error of a response; `body` is its parsed problem+json, or whatever a proxy put in its place."""
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else BadRequest)
    fields: Mapping[str, Any] = cast(dict[str, Any], body) if isinstance(body, dict) else {}
    code, detail = fields.get("code", f"HTTP_{status}"), fields.get("detail", f"the server answered {status}")
    return kind(status, str(code), str(detail), seconds(retry_after))


def seconds(retry_after: str | None) -> float | None:
    """A `Retry-After` header in seconds; None for a date, which our servers never send."""
    given = (retry_after or "").strip()
    return float(given) if given.isascii() and given.isdigit() else None
