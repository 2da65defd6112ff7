"""An unmodified @copilotkit/core in Node, whose runtime is Callboard: no Node server in between."""

import pytest

from e2e.frontends.pages import FrontEnds, refunds
from front_client import FrontClient, fresh
from promises import ended
from stack import Callboard

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("transport", ["rest", "single", "auto"])
async def test_a_chat_that_a_new_page_finds_again(pages: FrontEnds, thread: str, transport: str) -> None:
    page = await pages.copilotkit(
        {"say": "hello"}, {"reload": True}, {"connect": True}, {"say": "dark mode please"}, {"threads": True},
        thread=thread, transport=transport, tools={"ui.set_theme": "the page is dark now"},
    )  # fmt: skip
    assert [step["errors"] for step in page.steps] == [[]] * 5
    assert page.raw["agents"]["demo"].startswith("Shows tools")
    assert page.types(2)[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert [role for role, _ in page.said()] == ["user", "assistant", "user", "assistant", "tool", "assistant"]
    assert page.raw["ran"] == [{"name": "ui.set_theme", "arguments": {"theme": "dark"}}]
    assert page.answer == "The page said: the page is dark now"
    assert [one["id"] for one in page.raw["threads"]] == [thread]
    assert not page.raw["warnings"]


async def test_parallel_tools(pages: FrontEnds, thread: str) -> None:
    tools = {"ui.one": "first", "ui.two": "second"}
    page = await pages.copilotkit({"say": 'call ui.one and ui.two with {"a": 1}'}, thread=thread, tools=tools)
    assert [one["name"] for one in page.raw["ran"]] == ["ui.one", "ui.two"]
    assert page.answer == "The tools answered, and the last one said: second"
    assert page.steps[0]["errors"] == []


@pytest.mark.parametrize(
    ("decision", "paid"),
    [
        ({"approved": True}, [("4711", "19.90")]),
        ({"approved": True, "editedArgs": {"order_id": "4711", "amount": "3.50"}}, [("4711", "3.50")]),
        ({"approved": False}, []),
        (None, []),
    ],
    ids=["approve", "edit", "reject", "cancel"],
)
async def test_an_approval_is_there_again_after_a_reload(
    pages: FrontEnds, stack: Callboard, client: FrontClient, thread: str, decision: object, paid: list[tuple[str, str]]
) -> None:
    page = await pages.copilotkit(
        {"say": "refund order 4711"}, {"reload": True}, {"connect": True}, {"answer": [decision]}, thread=thread
    )
    assert [step["errors"] for step in page.steps] == [[]] * 4
    runs = {event["runId"] for step in page.steps for event in step["events"] if event["type"] == "RUN_STARTED"}
    assert len(runs) == 1, "the paused run's id is used again"
    assert not page.pending
    assert [role for role, _ in page.said()].count("tool") == 1
    assert page.answer.startswith("The refund came to:")
    assert await refunds(stack, client) == paid
    [run] = runs
    assert [leg["run_id"] for leg in (await client.run(run))["legs"]] == [run, run]


async def test_an_approval_beside_a_tool_of_the_page(
    pages: FrontEnds, stack: Callboard, client: FrontClient, thread: str
) -> None:
    """One turn with a backend tool, a tool of the page, and one that needs an approval.

    CopilotKit runs its own tool at once and would go on without the approval, which its client refuses to send. The
    result travels with the approval then.
    """
    page = await pages.copilotkit(
        {"say": "refund order 4711 and use the dark theme"},
        {"answer": [{"approved": True}]},
        thread=thread,
        tools={"ui.set_theme": "dark it is"},
    )
    [refused] = page.steps[0]["errors"]
    assert "pending interrupt" in refused["message"]
    assert page.steps[1]["errors"] == []
    assert page.answer.startswith("All of it is settled.")
    assert await refunds(stack, client) == [("4711", "19.90")]
    assert page.raw["ran"] == [{"name": "ui.set_theme", "arguments": {"theme": "dark"}}]


@pytest.mark.parametrize("transport", ["rest", "single"])
async def test_stop_is_no_error(pages: FrontEnds, client: FrontClient, thread: str, transport: str) -> None:
    page = await pages.copilotkit(
        {"say": "say 400 tokens at 30 ms", "stop": 3}, {"say": "hello"}, thread=thread, transport=transport
    )
    assert [step["errors"] for step in page.steps] == [[], []]
    [run] = {event["runId"] for event in page.steps[0]["events"] if event["type"] == "RUN_STARTED"}
    assert (await ended(client, run))["status"] == "cancelled"
    assert [role for role, _ in page.said()] == ["user", "assistant", "user", "assistant"]


async def test_a_failed_run_is_an_error_and_the_thread_goes_on(pages: FrontEnds, thread: str) -> None:
    page = await pages.copilotkit({"say": "fail 401"}, {"say": "hello"}, thread=thread, agent="chat")
    assert [error["code"] for error in page.steps[0]["errors"]] == ["agent_run_error_event"]
    assert page.steps[1]["errors"] == []
    assert page.said()[-1][0] == "assistant"


async def test_a_stranger_is_told_so(pages: FrontEnds, stack: Callboard) -> None:
    stranger = FrontEnds(stack, {"Authorization": "Bearer nonsense"})
    page = await stranger.copilotkit(thread=fresh("thread"))
    assert [error["code"] for error in page.raw["errors"]] == ["runtime_info_fetch_failed"]
    assert "401" in page.raw["errors"][0]["message"]
