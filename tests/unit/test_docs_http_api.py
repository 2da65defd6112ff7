"""The page about the HTTP API has every route and error, and examples that the front takes."""

import orjson
from aiohttp import web

from callboard_http.routes import ROUTES
from callboard_http.run_commands import Resume
from callboard_http.run_request import parse_as, parse_run_request
from callboard_runtime import errors
from callboard_runtime.domain.run_input import MultitaskStrategy
from unit import docs_pages as docs

PAGE = docs.HTTP_API
RUN, ANSWERS = (block.encode() for block in docs.blocks(PAGE, "json"))


def test_every_route_for_clients_is_described_and_none_that_does_not_exist() -> None:
    table = docs.table(PAGE, "method")
    told = {(method, docs.spans(path)[0]) for method, path, _ in table.rows}
    served = {(route.method, route.path) for route in ROUTES if isinstance(route, web.RouteDef)}
    assert told - served == set()
    assert {route for route in served - told if route[1].startswith(("/api/", "/copilotkit"))} == set()


def test_the_example_of_a_run_is_one() -> None:
    asked = parse_run_request(RUN, max_messages=1)
    assert (asked.thread_id, asked.run_id, asked.agent_id) == ("t1", "r1", "default")
    assert asked.strategy is MultitaskStrategy.ENQUEUE
    assert [tool["name"] for tool in asked.input.tools] == ["ui.show_map"]
    assert len(asked.user_messages) == 1


def test_the_example_of_answers_is_one() -> None:
    given = parse_as(Resume, orjson.loads(ANSWERS))
    assert given.resume[0].payload == {"approved": True, "editedArgs": {"sum": 4}}
    assert given.answers[0].tool_call_id == "call_2"


def test_every_error_that_a_client_can_get_is_there_with_its_status() -> None:
    told = {docs.spans(code)[0]: int(status) for code, status in docs.table(PAGE, "code").rows}
    inner = {"REFUSED", *(error.code for error in _below(errors.Fenced))}
    raised = {error.code: error.status for error in (*_below(errors.Refused), errors.Unavailable)}
    ours = {code: status for code, status in raised.items() if code not in inner and _is_public(code)}
    assert told == ours | {"REQUEST_TIMEOUT": 408, "INTERNAL": 500}


def _is_public(code: str) -> bool:
    """Of the runtime's own errors: tests of other parts may have defined some."""
    return type(errors.from_code(code, "")).__module__ == errors.__name__


def _below(error: type[errors.CallboardError]) -> list[type[errors.CallboardError]]:
    return [error, *(further for child in error.__subclasses__() for further in _below(child))]
