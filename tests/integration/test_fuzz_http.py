"""Every operation of the OpenAPI document with what it allows and what it does not, at real processes.

No answer is a bug's, and every answer is as described: status, media type, headers and body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from callboard_http.openapi.document import document
from callboard_http.openapi.operations import OPERATIONS, Operation
from callboard_runtime.domain.ids import run_uuid, session_uuid
from front_client import fresh, token
from fuzzing import budget
from shared_stacks import SharedStacks
from stack import Callboard

pytestmark = pytest.mark.timeout(600)

EXAMPLES = 12  # of each kind, per operation
SILENCE = 1.0  # seconds until a stream that says nothing is left
CONFORMANCE = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
_CONFIG = schemathesis.Config()
_CONFIG.projects.default.generation.update(with_security_parameters=False)
SCHEMA: Any = schemathesis.openapi.from_dict(document(), config=_CONFIG)


def refusable(operation: Operation) -> bool:
    """Whether the document forbids anything to those who ask for this."""
    return bool({*operation.path_names} - {"path"} or operation.parameters or operation.body)


ORDER = sorted(OPERATIONS, key=lambda operation: operation.method == "DELETE")  # so that the others find something
CASES = [
    (operation, mode)
    for operation in ORDER
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or refusable(operation)
]


@dataclass(frozen=True)
class Front:
    """A front, an operator who uses it, and runs that they have: one that ended and one that waits for an answer."""

    url: str
    user: str
    headers: dict[str, str]
    thread: str
    runs: tuple[str, ...]

    @property
    def internal_ids(self) -> tuple[str, ...]:
        """Of the session and its runs; whichever is not asked for does not exist."""
        return (str(session_uuid(self.user, self.thread)), *(str(run_uuid(self.user, run)) for run in self.runs))

    def known(self, name: str, pick: int) -> str:
        """A value for a path parameter that names something."""
        things = {
            "run_id": self.runs,
            "agent_id": ("chat", "default"),
            "path": ("app.js",),
            "internal_id": self.internal_ids,
            "letter": ("d0",),
        }
        choices = things.get(name, (self.thread,))
        return choices[pick % len(choices)]


@pytest.fixture(scope="module")
def callboard(stacks: SharedStacks) -> Iterator[Callboard]:
    stack = stacks.stack("embedded")
    stack.mark()
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture(scope="module")
def front(callboard: Callboard) -> Front:
    return asyncio.run(_furnished(callboard))


async def _furnished(callboard: Callboard) -> Front:
    user, thread = fresh("fuzz"), fresh("thread")
    async with callboard.client(user) as client:
        ended = await client.start("count to 3", thread=thread)
        await client.read(ended)
        paused = await client.start("refund 5", thread=fresh("thread"), agent="demo")
        await client.read(paused)
        headers = {"Authorization": f"Bearer {token(user, roles=['operator'])}"}
        return Front(callboard.fronts[0], user, headers, thread, (ended, paused))


def exchange(case: Case, front: Front) -> Response | None:
    """Send the case and read the answer; None for a stream that goes on in silence."""
    asked = case.as_transport_kwargs(base_url=front.url, headers=front.headers)
    with requests.Session() as session:
        response = session.request(**asked, stream=True, timeout=(10, 60), allow_redirects=False)
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            return _stream(response)
        return Response.from_requests(response, verify=False)


def _stream(response: requests.Response) -> Response | None:
    assert response.status_code == 200
    connection: Any = response.raw._connection or response.raw._original_connection
    connection.sock.settimeout(SILENCE)
    read = b""
    try:
        for part in response.iter_content(None):
            read += part
    except requests.ConnectionError:  # silence
        read = read[: read.rfind(b"\n\n") + 2]
    for frame in read.split(b"\n\n")[:-1]:
        assert frame.startswith((b":", b"retry: ", b"data: {", b"id: ")), frame
    return None


def check(case: Case, front: Front, *more: Any) -> None:
    if (response := exchange(case, front)) is not None:
        case.validate_response(response, checks=[*CONFORMANCE, *more])
        assert response.status_code < 500 or case.operation.path == "/readyz", response.content


@pytest.mark.parametrize(("operation", "mode"), CASES, ids=lambda given: getattr(given, "name", None))
def test_an_operation_answers_as_described(operation: Operation, mode: GenerationMode, front: Front) -> None:
    described = SCHEMA[operation.path][operation.method]

    @budget(EXAMPLES)
    @given(described.as_strategy(mode), st.none() | st.integers(0, 5))
    def one(case: Case, pick: int | None) -> None:
        if pick is not None and mode is GenerationMode.POSITIVE:
            furnish(case, front, pick)
        check(case, front, *([negative_data_rejection] if mode is GenerationMode.NEGATIVE else []))

    one()


def furnish(case: Case, front: Front, pick: int) -> None:
    """Let the case name things that are there."""
    for name in {*case.path_parameters} & {"run_id", "session_id", "thread_id", "agent_id", "path"}:
        case.path_parameters[name] = front.known(name, pick)
    for name in ("user", "ticket"):
        case.query.pop(name, None)
    if isinstance(case.body, dict) and "threadId" in case.body:
        case.body["threadId"] = front.thread


def test_the_front_met_no_bug_and_goes_on(callboard: Callboard, front: Front) -> None:
    """After all that: nothing failed inside, and the next run comes to its end."""
    assert "request_failed" not in callboard.logs()
    assert "Traceback" not in callboard.logs()
    asyncio.run(_goes_on(callboard))


async def _goes_on(callboard: Callboard) -> None:
    async with callboard.client(fresh("user")) as client:
        reader = await client.read(await client.start("count to 3"))
        assert reader.text.split() == ["1", "2", "3"]
    async with callboard.client(fresh("user")) as client:
        counted = str((await client.request("GET", "/metrics")).body)
    assert 'status="500"' not in counted
