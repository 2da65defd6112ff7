"""Everything Callboard raises on purpose; the type decides what happens to the message or request that caused it.

    CallboardError
    ├── Refused                      the caller is told, nothing changes, the message is acknowledged
    │   ├── InvalidInput             400  a field is wrong: the message names it and the fix
    │   ├── Unauthenticated          401
    │   ├── NotFound                 404  also for what belongs to someone else
    │   ├── Conflict                 409
    │   │   ├── RunIdConflict             the same run id with another body
    │   │   ├── SessionBusy               strategy `reject` on a session with an active run
    │   │   ├── AwaitingInput             approvals are open and no strategy was named
    │   │   ├── NotPendingYet             the answer came before the pause was committed
    │   │   └── ToolResultMismatch        late, unknown, second, foreign or expired answer
    │   ├── Gone                     410  deleted session, or a cursor past retention
    │   ├── TooLarge                 413
    │   ├── LimitExceeded            429  a stated limit; carries Retry-After
    │   ├── TooLate                  503  the command's `not_after` has passed
    │   ├── ConfigError              422  agent configuration: names file (or table) and key
    │   └── Fenced                        only processes of ours see these
    │       ├── StaleEpoch                another attempt took over: stop at once
    │       ├── AttemptAlive              the open attempt's process still lists it
    │       ├── NotRunnable               paused, ended, or not its turn
    │       └── RunCancelling             no new step is granted
    ├── Unavailable                  503  database, broker or actor is away: hold and wait, never drop
    ├── FencedOut                         this process lost its partition: drop everything, decide nothing
    └── SettingsError                     names the variable and the fix

Any other exception is a bug: the message is dead-lettered after the queue's delivery limit.
"""

from __future__ import annotations

import inspect
from typing import ClassVar


class CallboardError(Exception):
    """Something went wrong inside Callboard."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        self.message = message or inspect.cleandoc(self.__class__.__doc__ or self.code)
        self.retry_after = retry_after  # seconds
        super().__init__(self.message)


class Refused(CallboardError):
    """The request cannot be carried out as it was sent."""

    code = "REFUSED"
    status = 400


class InvalidInput(Refused):
    """The request is malformed."""

    code = "INVALID_INPUT"


class Unauthenticated(Refused):
    """A valid bearer token is needed."""

    code = "UNAUTHENTICATED"
    status = 401


class NotFound(Refused):
    """There is nothing under this id."""

    code = "NOT_FOUND"
    status = 404


class Conflict(Refused):
    """The request contradicts the present state."""

    code = "CONFLICT"
    status = 409


class RunIdConflict(Conflict):
    """This run id was used before with another body; take a new run id."""

    code = "RUN_ID_CONFLICT"


class SessionBusy(Conflict):
    """The session has an active run and the request asked for multitaskStrategy `reject`."""

    code = "SESSION_BUSY"


class AwaitingInput(Conflict):
    """The session waits for open approvals; answer them, or name a multitaskStrategy."""

    code = "AWAITING_INPUT"


class NotPendingYet(Conflict):
    """The run has not paused for this call yet; send the same answer again in a moment."""

    code = "NOT_PENDING_YET"


class ToolResultMismatch(Conflict):
    """This result does not match any open tool call."""

    code = "TOOL_RESULT_MISMATCH"


class Gone(Refused):
    """This was deleted, or is past its retention."""

    code = "GONE"
    status = 410


class TooLarge(Refused):
    """The request is larger than the configured limit."""

    code = "TOO_LARGE"
    status = 413


class LimitExceeded(Refused):
    """A limit is reached; try again later."""

    code = "LIMIT_EXCEEDED"
    status = 429


class TooLate(Refused):
    """The request waited too long and was not accepted; send it again."""

    code = "TOO_LATE"
    status = 503


class ConfigError(Refused):
    """The agent configuration is wrong."""

    code = "CONFIG_INVALID"
    status = 422


class Fenced(Refused):
    """The sender no longer holds the run."""

    code = "FENCED"
    status = 409


class StaleEpoch(Fenced):
    """Another attempt of this run has taken over."""

    code = "STALE_EPOCH"


class AttemptAlive(Fenced):
    """The run's open attempt is alive in another process."""

    code = "ATTEMPT_ALIVE"


class NotRunnable(Fenced):
    """The run is paused, ended, or waits for its turn."""

    code = "NOT_RUNNABLE"


class RunCancelling(Fenced):
    """The run is being cancelled; finish it without a new step."""

    code = "RUN_CANCELLING"


class Unavailable(CallboardError):
    """A service that Callboard needs is away; nothing was accepted, try again."""

    code = "UNAVAILABLE"
    status = 503


class FencedOut(CallboardError):
    """Another process owns this partition now."""

    code = "PARTITION_LOST"


class SettingsError(CallboardError):
    """A setting is missing or wrong."""

    code = "SETTINGS_INVALID"


def _tree(root: type[CallboardError]) -> dict[str, type[CallboardError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


_BY_CODE = _tree(CallboardError)


def from_code(code: str, message: str, retry_after: int | None = None) -> CallboardError:
    """Rebuild an error that crossed a process boundary as its code and message."""
    return _BY_CODE.get(code, CallboardError)(message, retry_after=retry_after)
