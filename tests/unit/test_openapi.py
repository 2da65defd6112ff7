"""The OpenAPI document is valid, has every route of the application and no other, and reads as a page."""

import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import orjson
import pytest
import yaml
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from callboard_http import reference_cli
from callboard_http.inspector import ROUTES as INSPECTOR
from callboard_http.openapi.document import codes_of, document
from callboard_http.openapi.operations import OPERATIONS
from callboard_http.openapi.page import asyncapi_page, openapi_page
from callboard_http.playground import ROUTES as PLAYGROUND
from callboard_http.problems import document as problem
from callboard_http.routes import ROUTES
from callboard_http.run_commands import accepted
from callboard_http.run_request import check_id
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import InvalidInput
from unit import docs_pages as docs

Json = dict[str, Any]


def served() -> set[tuple[str, str]]:
    routes = [route for route in (*ROUTES, *PLAYGROUND, *INSPECTOR) if isinstance(route, web.RouteDef)]
    return {(route.method, re.sub(r"\{(\w+):[^}]+\}", r"{\1}", route.path)) for route in routes}


def test_the_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(document()).iter_errors()) == []


def test_the_validator_would_find_a_mistake() -> None:
    broken = orjson.loads(orjson.dumps(document()))
    broken["paths"]["/healthz"]["get"]["parameters"] = [{"name": "x", "in": "nowhere"}]
    assert list(OpenAPIV31SpecValidator(broken).iter_errors())


def test_every_route_is_described_and_no_other() -> None:
    described = {(operation.method, operation.path) for operation in OPERATIONS}
    assert described == served()
    assert len(described) == len(OPERATIONS)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    text = orjson.dumps(document()).decode()
    refs = set(re.findall(r'"#/components/(\w+)/(\w+)"', text))
    components = document()["components"]
    there = {(kind, name) for kind in ("schemas", "responses") for name in components[kind]}
    assert refs - there == set()
    assert there - refs == {("schemas", "AguiEvent")} - refs


def schema(name: str) -> Json:
    """A schema that stands by itself."""
    return {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}


def test_what_the_front_answers_fits_its_schema() -> None:
    answer = accepted(RunAnswer(run_id="r", thread_id="t", task_id="x", status=RunStatus.QUEUED))
    jsonschema.validate(orjson.loads(orjson.dumps(answer)), schema("Accepted"))
    jsonschema.validate(problem(404, "NOT_FOUND", "there is none", "/x"), schema("Problem"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer | {"secret": 1}, schema("Accepted"))


def test_the_example_of_the_page_fits_the_schema_of_a_run() -> None:
    run, answers = (orjson.loads(block) for block in docs.blocks(docs.HTTP_API, "json"))
    jsonschema.validate(run, schema("RunAgentInput"))
    jsonschema.validate(answers, schema("Resume"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(run | {"runId": "no spaces"}, schema("RunAgentInput"))


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "A-Z.0:~@/+=_",
        "x" * 200,
        "",
        "x" * 201,
        "a b",
        "a\n",
        "ä",
        "a\u0000",
        "%2e",
        ".",
        "..",
        "...",
        "..a",
        "a..",
        "./..",
    ],
)
def test_ids_are_described_as_they_are_checked(name: str) -> None:
    [parameter] = document()["paths"]["/api/v1/agent/runs/{run_id}"]["get"]["parameters"][:1]
    described = jsonschema.Draft202012Validator(parameter["schema"]).is_valid(name) and not name.endswith("\n")
    try:
        check_id("run_id", name)
    except InvalidInput:
        assert not described
    else:
        assert described


def test_every_operation_that_asks_for_a_token_may_refuse_it() -> None:
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            assert ("401" in operation["responses"]) == bool(operation["security"]), (method, path)
            assert {"400", "500"} & set(operation["responses"]), (method, path)


def test_codes_are_those_of_their_status() -> None:
    assert codes_of(503) == ["TOO_LATE", "UNAVAILABLE"]
    assert "STALE_EPOCH" not in codes_of(409)
    assert codes_of(500) == ["INTERNAL"]


# -- pages ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, links and names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.links: set[str] = set()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.loaded |= {given[name] for name in ("src",) if name in given}
        self.loaded |= {given["href"]} if tag == "link" else set()
        self.links |= {given["href"]} if tag == "a" else set()
        assert not any(name.startswith("on") or name == "style" for name in given), given

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


BROKER = yaml.safe_load(reference_cli.ASYNCAPI.read_text())


@pytest.mark.parametrize("text", [openapi_page(document()), asyncapi_page(BROKER)], ids=["openapi", "asyncapi"])
def test_a_page_stands_alone(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert page.loaded == {"/docs/reference.css"}
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside - set(page.ids) == set()
    outside = {link for link in page.links if not link.startswith("#")}
    assert {("GET", link) for link in outside} <= served()


def test_the_page_shows_every_operation_and_schema() -> None:
    page = Page(openapi_page(document()))
    wanted = {f"op-{operation.name}" for operation in OPERATIONS}
    assert wanted | {f"schema-{name}" for name in document()["components"]["schemas"]} <= set(page.ids)


def test_the_broker_s_page_shows_every_channel_and_schema() -> None:
    text = asyncapi_page(BROKER)
    assert {f"schema-{name}" for name in BROKER["components"]["schemas"]} <= set(Page(text).ids)
    assert all(f"<h3>{name}</h3>" in text for name in BROKER["channels"])


def test_text_of_a_document_is_never_markup() -> None:
    hostile = {**document(), "info": {"description": "<script>alert(1)</script> `<img src=x>`"}}
    text = openapi_page(hostile)
    assert "<script>" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
