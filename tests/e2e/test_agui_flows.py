"""A Flow as written for ag-ui-crewai, on a worker, in an unmodified `@ag-ui/client` HttpAgent of both generations."""

from collections.abc import Iterator

import pytest

from e2e.conftest import Browser, turn
from e2e.test_agui_client import plain, text, types
from e2e.test_agui_tools import check_thread, of_type
from flow_packages import SET_PLAN, flow_settings
from front_client import FrontClient, Json, fresh
from model_server import ANSWER, ModelServer, served_model
from promises import check_run, ended
from shared_stacks import SharedStacks
from stack import Callboard

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with served_model() as server:
        yield server


@pytest.fixture(scope="module")
def stack(stacks: SharedStacks, model: ModelServer) -> Iterator[Callboard]:
    """A worker that has ag-ui-crewai, beside what it needs."""
    callboard = stacks.private("browser-flows", stacks.real(), flow_settings(model.url))
    callboard.ensure(http=1, actors=1, worker=1)
    yield callboard
    callboard.kill_all()


@pytest.fixture(params=["current", "previous"])
def setting(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, "flows"


@pytest.fixture
def callboard(stack: Callboard) -> Iterator[Callboard]:
    stack.mark()
    yield stack
    print(stack.logs())  # shown for a failed test only


def snapshots(seen: Json) -> list[Json]:
    return [event["snapshot"] for event in of_type(seen, "STATE_SNAPSHOT")]


async def test_text_and_state_arrive_as_the_flow_makes_them(browser: Browser, client: FrontClient) -> None:
    run, thread = fresh("run"), fresh("thread")
    page = await browser.play(turn("where to? pace:30", run), agent="travel", thread=thread)
    [seen] = page["turns"]
    assert seen["error"] is None
    assert (types(seen)[0], types(seen)[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert types(seen).count("TEXT_MESSAGE_CONTENT") > 1, "copilotkit_stream was not a stream"
    assert text(seen) == ANSWER
    assert snapshots(seen) == [{"progress": "drafting"}, {"plan": [], "drafts": 1}]
    assert types(seen).index("STATE_SNAPSHOT") < types(seen).index("TEXT_MESSAGE_START"), "emitted before the answer"
    assert [event["stepName"] for event in of_type(seen, "STEP_FINISHED")] == ["draft", "chat"]
    assert [event["name"] for event in of_type(seen, "CUSTOM")] == ["PredictState"]
    assert plain(page["messages"]) == [("user", "where to? pace:30"), ("assistant", ANSWER)]
    assert page["state"] == {"plan": [], "drafts": 1}
    assert not page["warnings"]
    await check_run(browser.callboard, client, run, text=ANSWER)
    await check_thread(browser, client, thread, page)


async def test_the_page_goes_on_with_messages_and_state(browser: Browser, client: FrontClient) -> None:
    thread = fresh("thread")
    page = await browser.play(turn("call:weather:Oslo"), turn("and then?"), agent="travel", thread=thread)
    first, second = page["turns"]
    assert [seen["error"] for seen in page["turns"]] == [None, None]
    [result] = of_type(first, "TOOL_CALL_RESULT")
    assert result["content"] == "sunny at Oslo"
    assert (text(first), text(second)) == (ANSWER, ANSWER)
    assert types(second)[-1] == "RUN_FINISHED"
    assert page["state"] == {"plan": ["concluded"], "drafts": 2}
    assert not page["warnings"]
    await check_thread(browser, client, thread, page)


async def test_the_page_answers_a_call_of_the_flow(browser: Browser, client: FrontClient) -> None:
    thread, run, parameters = fresh("thread"), fresh("run"), {"tools": [SET_PLAN]}
    answering = {"runId": fresh("run"), "toolResult": "shown", "parameters": parameters}
    asking = turn("call:set_plan:Oslo", run, parameters=parameters)
    page = await browser.play(asking, answering, agent="travel", thread=thread)
    asked, answered = page["turns"]
    assert [seen["error"] for seen in page["turns"]] == [None, None]
    [call] = of_type(asked, "TOOL_CALL_START")
    assert call["toolCallName"] == "set_plan"
    assert types(asked)[-1] == types(answered)[-1] == "RUN_FINISHED"
    assert not of_type(answered, "TOOL_CALL_START"), "the call is not made a second time"
    assert text(answered) == ANSWER
    shown = await ended(client, run)
    assert (shown["status"], len(shown["legs"])) == ("succeeded", 2)
    await check_thread(browser, client, thread, page)


async def test_a_page_that_closes_does_not_stop_the_flow(
    browser: Browser, client: FrontClient, model: ModelServer
) -> None:
    run, key = fresh("run"), fresh("key")
    page = await browser.play(turn(f"hold:{key}", run, abortAfter=2), agent="travel")
    assert page["turns"][0]["aborted"]
    model.release(key)
    await check_run(browser.callboard, client, run, readers=[await client.read(run)], text=ANSWER)
