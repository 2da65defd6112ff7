"""Tools in a browser: run on the backend, run by the page, and approved by the person before it."""

import pytest

from e2e.conftest import Browser, turn
from e2e.test_agui_client import text, types
from front_client import FrontClient, Json, fresh
from promises import check_messages, check_usage, ended

pytestmark = pytest.mark.timeout(180)

CONFIRM = {
    "name": "confirm",
    "description": "Ask the person",
    "parameters": {"type": "object", "properties": {"question": {"type": "string"}}},
}


def of_type(seen: Json, kind: str) -> list[Json]:
    return [event for event in seen["events"] if event["type"] == kind]


async def check_thread(browser: Browser, client: FrontClient, thread: str, page: Json) -> None:
    """What the page holds is what the server keeps: the same messages, under the same ids, in the same order."""
    stored = await client.messages(thread)
    assert [(m["id"], m["role"]) for m in stored] == [(m["id"], m["role"]) for m in page["messages"]]
    await check_messages(client, thread)
    await check_usage(browser.callboard, client, thread)


async def test_a_backend_tool_shows_its_call_and_its_result(browser: Browser, client: FrontClient) -> None:
    thread = fresh("thread")
    page = await browser.play(turn('call lookup with {"order": 7}'), thread=thread)
    [seen] = page["turns"]
    assert seen["error"] is None
    [start], [result] = of_type(seen, "TOOL_CALL_START"), of_type(seen, "TOOL_CALL_RESULT")
    assert start["toolCallName"] == "lookup"
    assert "on its way" in result["content"]
    assert text(seen).startswith("The tool answered: ")
    await check_thread(browser, client, thread, page)


@pytest.mark.parametrize("same_run_id", [False, True], ids=["new-run-id", "same-run-id"])
async def test_an_approved_call_runs_once(browser: Browser, client: FrontClient, same_run_id: bool) -> None:
    thread, run = fresh("thread"), fresh("run")
    answering = {"runId": run if same_run_id else fresh("run"), "decision": {"approved": True}}
    page = await browser.play(turn('call refund with {"amount": 5}', run), answering, turn("thank you"), thread=thread)
    paused, resumed, last = page["turns"]
    assert [seen["error"] for seen in page["turns"]] == [None] * 3
    [interrupt] = paused["events"][-1]["outcome"]["interrupts"]
    [start] = of_type(paused, "TOOL_CALL_START")
    assert interrupt["toolCallId"] == start["toolCallId"]
    assert not of_type(resumed, "TOOL_CALL_START"), "the call is not announced a second time"
    [result] = of_type(resumed, "TOOL_CALL_RESULT")
    assert (result["toolCallId"], result["content"]) == (start["toolCallId"], "5 paid back")
    assert text(resumed) == "The tool answered: 5 paid back"
    assert types(last)[-1] == "RUN_FINISHED"
    shown = await ended(client, run)
    assert (shown["status"], len(shown["legs"])) == ("succeeded", 2)
    await check_thread(browser, client, thread, page)


async def test_a_refused_call_never_runs(browser: Browser, client: FrontClient) -> None:
    thread = fresh("thread")
    refusing = {"runId": fresh("run"), "decision": {"approved": False}}
    page = await browser.play(turn('call refund with {"amount": 5}'), refusing, thread=thread)
    assert "paid back" not in str(page["messages"])
    assert types(page["turns"][1])[-1] == "RUN_FINISHED"
    await check_thread(browser, client, thread, page)


async def test_the_page_runs_its_own_tool(browser: Browser, client: FrontClient) -> None:
    thread, parameters = fresh("thread"), {"tools": [CONFIRM]}
    asking = turn('call confirm with {"question": "sure?"}', parameters=parameters)
    page = await browser.play(
        asking, {"runId": fresh("run"), "toolResult": "yes", "parameters": parameters}, thread=thread
    )
    asked, answered = page["turns"]
    assert [seen["error"] for seen in page["turns"]] == [None, None]
    assert asked["events"][-1].get("outcome", {}).get("type", "success") == "success"
    assert not of_type(asked, "TOOL_CALL_RESULT")
    assert text(answered) == "The tool answered: yes"
    await check_thread(browser, client, thread, page)


async def test_an_answer_that_nobody_asked_for_changes_nothing(browser: Browser, client: FrontClient) -> None:
    thread, run = fresh("thread"), fresh("run")
    first = await browser.play(turn('call refund with {"amount": 5}', run), thread=thread)
    made_up = [{"interruptId": "int_made_up", "status": "resolved", "payload": {"approved": True}}]
    stranger = {"runId": fresh("run"), "parameters": {"resume": made_up}}
    [seen] = (await browser.play(stranger, thread=thread))["turns"]
    assert [event["type"] for event in seen["events"]] == ["RUN_STARTED", "RUN_ERROR"]
    assert seen["events"][-1]["code"] == "TOOL_RESULT_MISMATCH"
    assert (await client.run(run))["status"] == "awaiting_input"
    assert "paid back" not in str(first["messages"])
