"""A client for programs that use Callboard over HTTP: start runs, follow their events, answer what they wait for.

    async with CallboardClient("https://agents.example.com", token=my_token) as client:
        run = await client.post_run("thread-1", "What is on my calendar?")
        async for event in client.events(run.run_id):
            print(event.delta, end="")

Needs the extra `client`.
"""

from callboard_runtime.client.client import CallboardClient, Token
from callboard_runtime.client.errors import (
    BadRequest,
    ClientError,
    Conflict,
    EventsMissing,
    Gone,
    LimitExceeded,
    NotFound,
    ProblemError,
    ServerError,
    ServerLost,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
)
from callboard_runtime.client.models import AcceptedRun, Event, Leg, Message, RunView, SessionView, Usage
from callboard_runtime.client.retry import Patience
from callboard_runtime.client.stream import EventStream
from callboard_runtime.domain.commands import ToolAnswer
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.domain.state_snapshot import RunStatus

__all__ = [
    "AcceptedRun",
    "BadRequest",
    "CallboardClient",
    "ClientError",
    "Conflict",
    "Event",
    "EventId",
    "EventStream",
    "EventsMissing",
    "Gone",
    "Leg",
    "LimitExceeded",
    "Message",
    "MultitaskStrategy",
    "NotFound",
    "Patience",
    "ProblemError",
    "RunStatus",
    "RunView",
    "ServerError",
    "ServerLost",
    "SessionView",
    "Token",
    "ToolAnswer",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Usage",
]
