"""Every route with its parameters, bodies and answers: the table that the OpenAPI document is made of.

A test holds it against the application's routes, and another one sends to all of them what the document allows and
what it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from callboard_http.openapi import bodies as b
from callboard_http.request_context import MAX_PAGE
from callboard_http.routes.agui import AGUI
from callboard_http.routes.copilotkit import ROOT, Envelope, StopRequest
from callboard_http.routes.operator import OPERATOR
from callboard_http.routes.sessions import SESSIONS
from callboard_http.run_commands import RUNS, Cancel, Resume
from callboard_http.run_request import RunAgentInput, ThreadRequest
from callboard_runtime.broker.messages import Accepted, Problem
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus
from callboard_runtime.inspection import paging
from callboard_runtime.inspection import views as v

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter, or with `where` a header."""

    name: str
    about: str
    schema: dict[str, Any]
    where: str = "query"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is no problem; `bodies` are by media type, a media type without a model is text."""

    status: int
    about: str
    bodies: tuple[tuple[str, type[BaseModel] | None], ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What one route takes and gives. `refuses` are the problems beyond those that follow from the rest."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None
    body_optional: bool = False
    refuses: tuple[int, ...] = ()
    open: bool = False  # no token is asked for
    ticket: bool = False  # a ticket does in place of a token
    services: bool = True  # needs the database or the broker

    @property
    def path_names(self) -> tuple[str, ...]:
        return tuple(part.split("}")[0].split(":")[0] for part in self.path.split("{")[1:])


def _json(status: int, about: str, model: type[BaseModel], *headers: str) -> Answer:
    return Answer(status, about, ((JSON, model),), headers)


_CURSOR = {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,16}$"}
_USER = Parameter(
    "user",
    "Whose data is meant, if not one's own: for operators and approvers",
    {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\x00-\x1f\x7f]+$"},
)
_LIMIT = Parameter("limit", "Items of a page", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE})
_AFTER = Parameter("after", "The `next` of the page before", {"type": "string", "minLength": 1})
_AFTER_SEQ = Parameter("after", "The `seq` behind which the page begins", {"type": "integer", "minimum": 0})
_AFTER_EVENT = Parameter("after", "The event id behind which to begin", _CURSOR)
_LAST_EVENT_ID = Parameter("Last-Event-ID", "As `after`, and before it: EventSource sends it", _CURSOR, "header")
_PROTOCOL = Parameter("protocol", "The AG-UI version that the reader speaks; 1.0 by default", {"type": "string"})

_ACCEPTED = _json(202, "It is durable", Accepted, "Location")
_EVENTS = Answer(200, "AG-UI events, to the closing event of the leg", ((EVENT_STREAM, None),))
_STREAM_OF_RUN = (400, 409, 410, 422, 429)

RUN_OPERATIONS = (
    Operation(
        "POST", RUNS, "startRun", "Runs",
        "accepts a run: 202 once it is durable; the same request again gets the same answer",
        (_ACCEPTED,), body=RunAgentInput, refuses=(404, 409, 410, 422, 429),
    ),
    Operation(
        "GET", RUNS + "/{run_id}", "getRun", "Runs", "status, error, legs, usage",
        (_json(200, "The run", b.Run),), (_USER,), refuses=(404, 410),
    ),
    Operation(
        "GET", RUNS + "/{run_id}/events", "readRunEvents", "Runs", "the event stream of a leg (SSE)",
        (_EVENTS, Answer(204, "Nothing follows the cursor: an EventSource stops")),
        (
            _USER, _AFTER_EVENT, _LAST_EVENT_ID, _PROTOCOL,
            Parameter("from", "`start` for every event of the leg, instead of snapshots", {"const": "start"}),
            Parameter("ticket", "In place of a token", {"type": "string"}),
        ),
        refuses=(404, 409, 410, 429), ticket=True,
    ),
    Operation(
        "POST", RUNS + "/{run_id}/ticket", "issueTicket", "Runs",
        "a URL that opens this stream without a header, for EventSource",
        (_json(201, "A ticket", b.Ticket),), (_USER,), refuses=(404, 410),
    ),
    Operation(
        "POST", RUNS + "/{run_id}/resume", "resumeRun", "Runs", "answers what a paused run waits for: 202",
        (_ACCEPTED,), (_USER,), body=Resume, refuses=(404, 409, 410),
    ),
    Operation(
        "POST", RUNS + "/{run_id}/cancel", "cancelRun", "Runs",
        "cancels: 202 once no further step is granted; after the end, that end",
        (_ACCEPTED,), (_USER,), body=Cancel, body_optional=True, refuses=(404, 409, 410),
    ),
)  # fmt: skip

SESSION_OPERATIONS = (
    Operation(
        "GET", SESSIONS, "listSessions", "Sessions", "the user's sessions, the one that changed last first",
        (_json(200, "A page", b.SessionPage),), (_USER, _AFTER, _LIMIT), refuses=(404,),
    ),
    Operation(
        "GET", SESSIONS + "/{session_id}", "getSession", "Sessions", "one session with its totals",
        (_json(200, "The session", b.Session),), (_USER,), refuses=(404, 410),
    ),
    Operation(
        "GET", SESSIONS + "/{session_id}/messages", "listMessages", "Sessions",
        "its messages in order; `after` is a `seq`",
        (_json(200, "A page", b.MessagePage),), (_USER, _AFTER_SEQ, _LIMIT), refuses=(404, 410),
    ),
    Operation(
        "GET", SESSIONS + "/{session_id}/events", "listEvents", "Sessions",
        "its committed events; `after` is an event id; as `text/event-stream` it goes on with what happens",
        (Answer(200, "A page, or the stream", ((JSON, b.EventPage), (EVENT_STREAM, None))),),
        (_USER, _AFTER_EVENT, _LAST_EVENT_ID, _LIMIT, _PROTOCOL), refuses=(404, 409, 410, 429),
    ),
    Operation(
        "GET", SESSIONS + "/{session_id}/usage", "listUsage", "Sessions",
        "its totals, and every provider request",
        (_json(200, "A page", b.UsagePage),), (_USER, _AFTER, _LIMIT), refuses=(404, 410),
    ),
    Operation(
        "DELETE", SESSIONS + "/{session_id}", "deleteSession", "Sessions",
        "ends its runs and deletes its content; the id stays taken",
        (Answer(204, "Deleted, now or before"),), (_USER,), refuses=(404, 409, 410),
    ),
)  # fmt: skip

AGUI_OPERATIONS = (
    Operation(
        "POST", AGUI + "/{agent_id}", "runAgent", "AG-UI",
        "the native AG-UI endpoint: RunAgentInput in, the run's events out",
        (_EVENTS,), body=RunAgentInput, refuses=(404, *_STREAM_OF_RUN),
    ),
    Operation(
        "POST", AGUI + "/{agent_id}/connect", "connectThread", "AG-UI",
        "the thread as it stands, then what its active run does",
        (_EVENTS,), body=ThreadRequest, refuses=(404, 410, 429),
    ),
)  # fmt: skip

_AGENT = (*_STREAM_OF_RUN,)
_NO_AGENT = Answer(404, "No such agent, or thread", ((JSON, b.UnknownAgent), (PROBLEM, Problem)))
COPILOTKIT_OPERATIONS = (
    Operation(
        "GET", ROOT + "/info", "copilotInfo", "CopilotKit", "the agents, for a CopilotKit front end",
        (_json(200, "Agents and operations", b.Agents),), refuses=(422,), services=False,
    ),
    Operation(
        "POST", ROOT + "/agent/{agent_id}/run", "copilotRun", "CopilotKit", "as the native endpoint",
        (_EVENTS, _NO_AGENT), body=RunAgentInput, refuses=_AGENT,
    ),
    Operation(
        "POST", ROOT + "/agent/{agent_id}/connect", "copilotConnect", "CopilotKit", "as the native one",
        (_EVENTS, _NO_AGENT), body=ThreadRequest, refuses=(410, 422, 429),
    ),
    Operation(
        "POST", ROOT + "/agent/{agent_id}/stop/{thread_id}", "copilotStop", "CopilotKit",
        "cancels the run that `runId` names, else the thread's active one",
        (_json(200, "Whether a run was stopped", b.Stopped), _NO_AGENT), body=StopRequest, body_optional=True,
        refuses=(409, 410, 422),
    ),
    Operation(
        "GET", ROOT + "/threads", "copilotThreads", "CopilotKit", "the user's threads",
        (_json(200, "A page", b.ThreadPage),),
        (
            Parameter("cursor", "The `nextCursor` of the page before", {"type": "string", "minLength": 1}),
            _LIMIT,
            Parameter("agentId", "Repeated in the answer", {"type": "string"}),
        ),
    ),
    Operation(
        "GET", ROOT + "/threads/{thread_id}/messages", "copilotMessages", "CopilotKit", "a thread's messages",
        (_json(200, "The messages that were not withdrawn", b.ThreadMessages),), refuses=(404, 410),
    ),
    *(
        Operation(
            "POST", path, name, "CopilotKit", summary,
            (Answer(200, "What the operation answers", ((EVENT_STREAM, None), (JSON, b.AnyObject))), _NO_AGENT),
            body=Envelope, refuses=_AGENT,
        )
        for path, name, summary in (
            (ROOT, "copilotSingle", "all of these in one envelope: `method`, `params`, `body`"),
            (ROOT + "/", "copilotSingleSlash", "the same"),
        )
    ),
)  # fmt: skip

OTHER_OPERATIONS = (
    Operation(
        "GET", "/healthz", "isAlive", "Operations", "the process answers",
        (_json(200, "It does", b.Alive),), open=True, services=False,
    ),
    Operation(
        "GET", "/readyz", "isReady", "Operations", "this front can do its work now",
        (_json(200, "It can", b.Ready), _json(503, "It cannot", b.Ready)), open=True, services=False,
    ),
    Operation(
        "GET", "/metrics", "metrics", "Operations", "counters in Prometheus' text form",
        (Answer(200, "Counters", (("text/plain", None),)),), open=True, services=False,
    ),
    *(
        Operation("GET", path, name, "Reference", summary, (Answer(200, about, ((kind, None),)),), open=True,
                  services=False)
        for path, name, summary, kind, about in (
            ("/openapi.json", "openapi", "the OpenAPI document", JSON, "OpenAPI 3.1"),
            ("/asyncapi.yaml", "asyncapi", "the AsyncAPI document", "application/yaml", "AsyncAPI 3.0"),
            ("/docs", "docs", "the HTTP reference as a page", "text/html", "The page"),
            ("/docs/asyncapi", "docsAsyncapi", "the broker's reference as a page", "text/html", "The page"),
            ("/docs/reference.css", "docsStyle", "the pages' style", "text/css", "A style sheet"),
        )
    ),
    Operation(
        "GET", "/", "playground", "Playground", "the playground",
        (Answer(200, "The page", (("text/html", None),)), Answer(304, "Unchanged")), open=True, services=False,
    ),
    Operation(
        "GET", "/playground/offer", "playgroundOffer", "Playground", "the agents, and messages to try them with",
        (_json(200, "Agents and examples", b.Offer),), refuses=(422,), services=False,
    ),
    Operation(
        "GET", "/playground/{path}", "playgroundFile", "Playground", "what the page is made of",
        (Answer(200, "The file", (("text/html", None), ("text/css", None), ("text/javascript", None),
                                  ("image/svg+xml", None))), Answer(304, "Unchanged")),
        refuses=(404,), open=True, services=False,
    ),
)  # fmt: skip

_UUID = {"type": "string", "format": "uuid"}
_AGE = {"type": "string", "pattern": "^[0-9]{1,6}[smhd]$"}
_PAGE = (_AFTER, Parameter("limit", "Items of a page", {"type": "integer", "minimum": 1, "maximum": paging.MAX_PAGE}))


def _statuses(kind: type[StrEnum]) -> Parameter:
    one = f"({'|'.join(kind)})"
    return Parameter("status", "One, or several with commas", {"type": "string", "pattern": f"^{one}(,{one})*$"})


def _look(path: str, name: str, summary: str, model: type[BaseModel], *parameters: Parameter) -> Operation:
    answer = _json(200, "As it is now", model)
    return Operation("GET", OPERATOR + path, name, "For operators", summary, (answer,), parameters, refuses=(404,))


def _content(path: str, name: str, summary: str, model: type[BaseModel]) -> Operation:
    answers = (_json(200, "As it is now", model), Answer(304, "Unchanged since the given `If-None-Match`"))
    return Operation("GET", OPERATOR + path, name, "For operators", summary, answers, refuses=(404,))


OPERATOR_OPERATIONS = (
    _look(
        "/sessions", "inspectSessions", "sessions of all users, without content; the one that changed last first",
        v.SessionList, Parameter("user", "Whose", _USER.schema), _statuses(SessionStatus), *_PAGE,
    ),
    _content("/sessions/{internal_id}", "inspectSession", "a session; the look is noted", v.SessionDetail),
    _look(
        "/runs", "inspectRuns", "runs of all users, without content; the newest first", v.RunList,
        Parameter("session", "The internal id of a session", _UUID), _statuses(RunStatus),
        Parameter("agent", "The agent_id", {"type": "string", "minLength": 1, "maxLength": 200}),
        Parameter("newer_than", "An age, such as 30s, 10m, 2h, 7d", _AGE),
        Parameter("older_than", "An age, such as 30s, 10m, 2h, 7d", _AGE), *_PAGE,
    ),
    _content(
        "/runs/{internal_id}", "inspectRun", "a run with its journal, calls, messages and audit; the look is noted",
        v.RunDetail,
    ),
    _look("/approvals", "inspectApprovals", "what waits for a decision, longest first", v.ApprovalList, *_PAGE),
    _look(
        "/webhooks", "inspectWebhooks", "deliveries to webhooks, the newest first", v.DeliveryList,
        _statuses(v.DeliveryStatus), *_PAGE,
    ),
    _look("/status", "inspectStatus", "services, processes, backlog and queues, and what is wrong", v.Status),
    _look("/processes", "inspectProcesses", "processes and their heartbeats", v.ProcessList),
    _look("/partitions", "inspectPartitions", "who took each partition last", v.PartitionList),
    _look(
        "/dead-letters", "inspectDeadLetters", "the oldest dead letters, without content", v.DeadLetterList, _PAGE[1],
    ),
    _content("/dead-letters/{letter}", "inspectDeadLetter", "a dead letter; the look is noted", v.DeadLetterDetail),
    Operation(
        "GET", "/inspector", "inspector", "Inspector", "the inspector",
        (Answer(200, "The page", (("text/html", None),)), Answer(304, "Unchanged")), open=True, services=False,
    ),
    Operation(
        "GET", "/inspector/{path}", "inspectorFile", "Inspector", "what the page is made of",
        (Answer(200, "The file", (("text/html", None), ("text/css", None), ("text/javascript", None))),
         Answer(304, "Unchanged")),
        refuses=(404,), open=True, services=False,
    ),
)  # fmt: skip

OPERATIONS = (
    *RUN_OPERATIONS, *SESSION_OPERATIONS, *AGUI_OPERATIONS, *COPILOTKIT_OPERATIONS, *OPERATOR_OPERATIONS,
    *OTHER_OPERATIONS,
)  # fmt: skip
