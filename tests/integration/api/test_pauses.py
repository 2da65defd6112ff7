"""Answers to a paused run over HTTP: REST, AG-UI and CopilotKit lead to the same command."""

from __future__ import annotations

import io
from typing import Any

import orjson

from callboard_http.deps import SERVICES
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.settings import RunSettings, Settings
from integration.api_stage import AGUI, RUNS, SESSIONS, Worker, approval, body, frontend
from integration.http_harness import (
    USER,
    Backstage,
    Front,
    events,
    headers,
    serving,
)
from integration.real_actors import running_actors


async def paused(front: Front, commands: CommandClient, *calls: PendingToolCall) -> Worker:
    assert (await front.call("POST", RUNS, json=body())).status == 202
    worker = await Worker.start(commands, "r1")
    await worker.send(c.RequestTools, calls=calls)
    return worker


def tool_message(call: str, content: str = "42") -> dict[str, Any]:
    return {"id": f"t-{call}", "role": "tool", "toolCallId": call, "content": content}


def resolved(call: str, **payload: Any) -> dict[str, Any]:
    return {"interruptId": f"int-{call}", "status": "resolved", "payload": payload}


async def pending(front: Front, stage: Backstage) -> dict[str, str]:
    state = await front.app[SERVICES].records.state(USER, "t1")
    assert state is not None
    return {call.tool_call_id: str(call.status) for call in state.pending_tool_calls}


async def test_an_approval_is_answered_over_rest_and_again(front: Front, stage: Backstage, commands: CommandClient):
    await paused(front, commands, approval("c1"))
    answer = {"answers": [{"interrupt_id": "int-c1", "status": "approved"}]}
    first = await front.call("POST", f"{RUNS}/r1/resume", json=answer)
    assert (first.status, first.json["leg"], first.json["status"]) == (202, 2, "queued")
    assert (await front.call("POST", f"{RUNS}/r1/resume", json=answer)).body == first.body
    other = await front.call(
        "POST", f"{RUNS}/r1/resume", json={"answers": [{"interrupt_id": "int-c1", "status": "rejected"}]}
    )
    assert (other.status, other.json["code"]) == (409, "TOOL_RESULT_MISMATCH")
    worker = await Worker.start(commands, "r1", leg=2)
    await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    shown = (await front.call("GET", f"{RUNS}/r1")).json
    assert ([leg["leg"] for leg in shown["legs"]], shown["status"]) == ([1, 2], "succeeded")


async def test_resume_says_what_is_wrong_with_its_body(front: Front, commands: CommandClient):
    await paused(front, commands, approval("c1"))
    for sent, status, code in (
        ({}, 400, "INVALID_INPUT"),
        ({"answers": [{"status": "approved"}]}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c1", "status": "sure"}]}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c1", "status": "approved"}], "run_id": "a b"}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c9", "status": "approved"}]}, 409, "TOOL_RESULT_MISMATCH"),
        ({"answers": [{"tool_call_id": "c1", "status": "result", "payload": "x" * 300_000}]}, 413, "TOO_LARGE"),
    ):
        answer = await front.call("POST", f"{RUNS}/r1/resume", data=io.BytesIO(orjson.dumps(sent)))
        assert (answer.status, answer.json["code"]) == (status, code), sent


async def test_an_answer_before_the_pause_is_told_to_come_back(front: Front, commands: CommandClient):
    await front.call("POST", RUNS, json=body())
    worker = await Worker.start(commands, "r1")
    sent = body("r2", messages=[tool_message("c1")])
    early = await front.call("POST", RUNS, json=sent)
    assert (early.status, early.json["code"]) == (409, "NOT_PENDING_YET")
    assert int(early.headers["Retry-After"]) >= 1
    await worker.send(c.RequestTools, calls=(frontend("c1"),))
    assert (await front.call("POST", RUNS, json=sent)).json["leg"] == 2


async def test_a_frontend_result_under_a_new_run_id_streams_the_next_leg(
    front: Front, stage: Backstage, commands: CommandClient
):
    await paused(front, commands, frontend("c1"))
    call = {"id": "a1", "role": "assistant", "toolCalls": [{"id": "c1"}]}
    sent = body("r2", messages=[*body()["messages"], call, tool_message("c1")])
    async with front.http.post(front.url + AGUI, json=sent, headers=headers()) as response:
        worker = await Worker.start(commands, "r1", leg=2)
        await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
        told = [event for _, event in await events(response)]
    assert (told[0]["type"], told[0]["runId"], told[-1]["type"]) == ("RUN_STARTED", "r2", "RUN_FINISHED")
    assert (await front.call("GET", f"{RUNS}/r2")).json["run_id"] == "r1"


async def test_partial_answers_are_kept_and_the_rest_is_asked_for_again(
    front: Front, stage: Backstage, commands: CommandClient
):
    await paused(front, commands, frontend("c1"), approval("c2"))
    async with front.http.post(
        front.url + AGUI, json=body("r2", messages=[tool_message("c1")], protocolVersion="1.0"), headers=headers()
    ) as response:
        (first_id, first), (last_id, last) = await events(response)
    assert (first_id, last_id, first["type"], last["runId"]) == (None, None, "RUN_STARTED", "r2")
    assert [(i["id"], i["toolCallId"]) for i in last["outcome"]["interrupts"]] == [("int-c2", "c2")]
    assert await pending(front, stage) == {"c1": "EXECUTED", "c2": "PENDING_APPROVAL"}
    partly = await front.call("POST", RUNS, json=body("r2", messages=[tool_message("c1")]))
    assert (partly.status, partly.json["status"], partly.json["run_id"]) == (202, "awaiting_input", "r1")


async def test_copilotkits_synthetic_tool_message_is_not_taken_for_a_result(
    front: Front, stage: Backstage, commands: CommandClient
):
    """It resumes under the paused run's own runId, with a tool message that repeats its answer to the approval."""
    await paused(front, commands, approval("c1"), frontend("c2"))
    history = [
        *body()["messages"],
        {"id": "a1", "role": "assistant"},
        tool_message("c1", '{"approved":true}'),
        tool_message("c2"),
    ]
    sent = body("r1", messages=history, resume=[resolved("c1", approved=True, editedArgs={"sum": 4})])
    answer = await front.call("POST", RUNS, json=sent)
    assert (answer.status, answer.json["run_id"], answer.json["leg"]) == (202, "r1", 2)
    assert (await front.call("POST", RUNS, json=sent)).body == answer.body
    messages = (await front.call("GET", f"{SESSIONS}/t1/messages")).json["messages"]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ["c2"]


async def test_an_approver_decides_by_interrupt_alone(settings: Settings, commands: CommandClient, stage: Backstage):
    runs = RunSettings(approver_roles=("boss",))
    strict = settings.model_copy(update={"runs": runs})
    async with running_actors(strict), serving(strict) as front:
        await paused(front, commands, approval("c1"), frontend("c2"))
        by_id = {"answers": [{"interrupt_id": "int-c1", "status": "approved"}]}
        resume = f"{RUNS}/r1/resume?user={USER}"
        own = await front.call("POST", resume, json=by_id)
        assert (own.status, own.json["code"]) == (409, "TOOL_RESULT_MISMATCH")
        assert (await front.call("POST", resume, json=by_id, as_=headers("eve"))).status == 404
        as_boss = headers("bea", "boss")
        by_call = {"answers": [{"tool_call_id": "c2", "status": "result", "payload": "forged"}]}
        assert (await front.call("POST", resume, json=by_call, as_=as_boss)).status == 400
        assert (await front.call("POST", resume, json=by_id, as_=as_boss)).status == 202
        assert await pending(front, stage) == {"c1": "APPROVED", "c2": "PENDING_RESULT"}
        assert (await front.call("POST", f"{RUNS}/r1/cancel?user={USER}", as_=as_boss)).status == 404
