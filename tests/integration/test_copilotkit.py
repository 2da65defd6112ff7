"""CopilotKit's wire, request by request: what its client does not show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from callboard_runtime.settings import Settings

from .http_harness import Front, events, headers, make_settings, serving
from .real_actors import running_actors, with_actors

ROOT = "/copilotkit"
RUN, CONNECT, STOP = f"{ROOT}/agent/chat/run", f"{ROOT}/agent/chat/connect", f"{ROOT}/agent/chat/stop/t1"


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> Settings:
    made = make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url, cors_origins=("https://a.example",))
    return with_actors(made)


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    async with running_actors(settings), serving(settings) as running:
        yield running


def body(run: str = "r1", **changes: Any) -> dict[str, Any]:
    message = {"id": f"m-{run}", "role": "user", "content": "hello"}
    return {"threadId": "t1", "runId": run, "messages": [message], "state": {}, "tools": [], "context": []} | changes


async def accepted(front: Front, run: str = "r1") -> None:
    """A run that waits for a worker; nobody follows it."""
    assert (await front.call("POST", "/api/v1/agent/runs", json=body(run))).status == 202


async def test_info_names_the_agents(front: Front):
    told = (await front.call("GET", f"{ROOT}/info")).json
    assert {"default", "chat"} <= told["agents"].keys()
    assert told["mode"] == "sse"
    for agent in told["agents"].values():
        assert {"name", "className", "description"} <= agent.keys()
    for path in (ROOT, ROOT + "/"):
        assert (await front.call("POST", path, json={"method": "info"})).json == told


@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"{ROOT}/info"), ("POST", RUN), ("POST", CONNECT), ("POST", STOP)]
)
async def test_nobody_gets_in_without_a_token(front: Front, method: str, path: str):
    answer = await front.call(method, path, as_={}, json=body())
    assert (answer.status, answer.json["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("operation", ["run", "connect", "stop/t1"])
async def test_an_unknown_agent(front: Front, operation: str):
    answer = await front.call("POST", f"{ROOT}/agent/nobody/{operation}", json=body())
    assert (answer.status, answer.json) == (404, {"error": "Agent not found"})
    method = "agent/" + operation.partition("/")[0]
    envelope = {"method": method, "params": {"agentId": "nobody", "threadId": "t1"}, "body": body()}
    answer = await front.call("POST", ROOT, json=envelope)
    assert (answer.status, answer.json) == (404, {"error": "Agent not found"})


@pytest.mark.parametrize(
    ("path", "given", "field"),
    [
        (RUN, {"threadId": "t1"}, "runId"),
        (CONNECT, {"runId": "r1"}, "threadId"),
        (STOP, {"runId": 7}, "runId"),
        (ROOT, {"method": "agent/fly"}, "method"),
        (ROOT, {"method": "agent/run", "params": {}, "body": body()}, "params.agentId"),
    ],
)
async def test_bad_input_is_named(front: Front, path: str, given: dict[str, Any], field: str):
    answer = await front.call("POST", path, json=given)
    assert answer.status == 400
    assert answer.json["detail"].startswith(field), answer.json


async def test_stop_ends_the_run_that_it_names_and_no_other(front: Front):
    await accepted(front)
    other = await front.call("POST", STOP, json={"runId": "r0"})
    assert (other.status, other.json["stopped"]) == (200, False)
    elsewhere = await front.call("POST", f"{ROOT}/agent/chat/stop/t2", json={"runId": "r1"})
    assert elsewhere.json["stopped"] is False
    assert (await front.call("GET", "/api/v1/agent/runs/r1")).json["status"] == "queued"
    stopped = (await front.call("POST", STOP, json={"runId": "r1"})).json
    assert stopped["stopped"]
    assert stopped["interrupt"]["code"] == "STOPPED"
    assert (await front.call("GET", "/api/v1/agent/runs/r1")).json["status"] == "cancelled"
    assert (await front.call("POST", STOP, json={"runId": "r1"})).json["stopped"] is False


async def test_stop_without_a_run_ends_the_active_one(front: Front):
    assert (await front.call("POST", STOP)).json["stopped"] is False
    await accepted(front)
    assert (await front.call("POST", STOP, as_=headers("bob"))).json["stopped"] is False
    assert (await front.call("POST", STOP)).json["stopped"]
    assert (await front.call("GET", "/api/v1/agent/runs/r1")).json["status"] == "cancelled"


async def test_an_older_client_sees_a_stopped_run_as_aborted(front: Front):
    await accepted(front)
    await front.call("POST", STOP)
    async with front.http.post(front.url + CONNECT, json=body("x"), headers=headers()) as response:
        shown = [event for _, event in await events(response)]
    assert shown[-1] == {"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "abort"}


async def test_threads_are_the_users_own(front: Front):
    await accepted(front)
    for path, given in (
        (f"{ROOT}/threads?agentId=chat", None),
        (ROOT, {"method": "resource/request", "params": {"path": "/threads?agentId=chat", "httpMethod": "GET"}}),
    ):
        told = (await front.call("POST" if given else "GET", path, json=given)).json
        assert [(one["id"], one["agentId"], one["archived"]) for one in told["threads"]] == [("t1", "chat", False)]
        assert told["nextCursor"] is None
        theirs = await front.call("POST" if given else "GET", path, json=given, as_=headers("bob"))
        assert theirs.json["threads"] == []
    messages = (await front.call("GET", f"{ROOT}/threads/t1/messages")).json["messages"]
    assert messages == [{"id": "m-r1", "role": "user", "content": "hello"}]
    assert (await front.call("GET", f"{ROOT}/threads/t1/messages", as_=headers("bob"))).status == 404
    for limit in ("0", "501", "9" * 5000):
        assert (await front.call("GET", f"{ROOT}/threads?limit={limit}")).status == 400
    for path in ("//[", f"/threads?limit={'9' * 5000}"):
        wrong = {"method": "resource/request", "params": {"path": path, "httpMethod": "GET"}}
        assert (await front.call("POST", ROOT, json=wrong)).status == 400
    unknown = {"method": "resource/request", "params": {"path": "/memories", "httpMethod": "GET"}}
    assert (await front.call("POST", ROOT, json=unknown)).status == 404


async def test_a_browser_of_a_named_origin_may(front: Front):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = await front.call("OPTIONS", RUN, as_=asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
