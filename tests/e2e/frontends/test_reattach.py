"""HttpAgent of both generations: tools, approvals, state, and pages that are cut off, reloaded, or opened twice."""

import asyncio
import json
from pathlib import Path

import pytest

from e2e.frontends.pages import FrontEnds, refunds
from front_client import FrontClient, fresh
from promises import ended
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)
WORDS = " ".join(f"token{n}" for n in range(1, 41))


# -- tools ------------------------------------------------------------------------------------------------------------


async def test_parallel_tools_of_the_page(pages: FrontEnds, generation: str, thread: str) -> None:
    tools = {"ui.one": "first", "ui.two": "second"}
    page = await pages.http_agent(
        generation, {"say": 'call ui.one and ui.two with {"a": 1}'}, thread=thread, tools=tools
    )
    assert [(one["name"], one["arguments"]) for one in page.raw["ran"]] == [("ui.one", {"a": 1}), ("ui.two", {"a": 1})]
    assert [content for role, content in page.said() if role == "tool"] == ["first", "second"]
    assert page.answer == "The tools answered, and the last one said: second"


async def test_state_that_a_tool_changes(pages: FrontEnds, generation: str, thread: str) -> None:
    page = await pages.http_agent(
        generation, {"say": "where is order 4711?"}, {"reload": True}, {"connect": True}, thread=thread
    )
    assert page.raw["state"]["order"]["order_id"] == "4711"
    assert page.types(0).count("TOOL_CALL_RESULT") == 1


# -- approvals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "paid"),
    [
        ({"approved": True, "editedArgs": {"order_id": "4711", "amount": "3.50"}}, [("4711", "3.50")]),
        (None, []),
    ],
    ids=["edit", "cancel"],
)
async def test_an_approval(
    pages: FrontEnds,
    client: FrontClient,
    stack: Callboard,
    generation: str,
    thread: str,
    decision: object,
    paid: list[tuple[str, str]],
) -> None:
    page = await pages.http_agent(generation, {"say": "refund order 4711"}, {"answer": [decision]}, thread=thread)
    assert page.steps[0]["events"][-1]["outcome"]["type"] == "interrupt"
    assert [step["error"] for step in page.steps] == [None, None]
    assert page.types(1)[-1] == "RUN_FINISHED"
    assert page.types(1).count("TOOL_CALL_RESULT") == 1
    assert "TOOL_CALL_START" not in page.types(1)
    assert not page.pending
    assert page.answer.startswith("The refund came to:")
    assert await refunds(stack, client) == paid


async def test_an_answer_to_an_unknown_interrupt_changes_nothing(
    pages: FrontEnds, client: FrontClient, stack: Callboard, generation: str, thread: str
) -> None:
    guess = {"interruptId": "int-guessed", "status": "resolved", "payload": {"approved": True}}
    page = await pages.http_agent(
        generation,
        {"say": "refund order 4711"},
        {"resume": [guess]},
        {"reload": True},
        {"connect": True},
        {"answer": [{"approved": True}]},
        thread=thread,
    )
    assert page.steps[1]["events"][-1]["code"] == "TOOL_RESULT_MISMATCH"
    assert page.steps[3]["events"][-1]["outcome"]["type"] == "interrupt"
    assert await refunds(stack, client) == [("4711", "19.90")]


async def test_a_reload_on_a_paused_run_restores_the_approvals(
    pages: FrontEnds, client: FrontClient, stack: Callboard, generation: str, thread: str
) -> None:
    first = await pages.http_agent(generation, {"say": "refund orders 1 and 2"}, thread=thread)
    assert len(first.pending) == 2
    again = await pages.http_agent(
        generation, {"connect": True}, {"answer": [{"approved": True}, {"approved": False}]}, thread=thread, front=1
    )
    assert again.messages[: len(first.messages)] == first.messages
    assert (
        again.steps[0]["events"][-1]["outcome"]["interrupts"] == first.steps[0]["events"][-1]["outcome"]["interrupts"]
    )
    assert await refunds(stack, client) == [("1", "5.00")]
    assert again.answer.startswith("Both are settled")


# -- cut off, reloaded, opened twice ----------------------------------------------------------------------------------


async def test_reconnect_in_the_middle_of_a_text(pages: FrontEnds, generation: str, thread: str) -> None:
    """The page that kept half of it, and a new one, both show all of it, once."""
    for steps in ([{"connect": True}], [{"reload": True}, {"connect": True}]):
        thread = fresh("thread")
        page = await pages.http_agent(
            generation, {"say": "say 40 tokens at 40 ms", "cut": 4}, *steps, thread=thread, agent="chat"
        )
        assert page.steps[0]["cut"]
        assert page.types()[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
        assert "TEXT_MESSAGE_CONTENT" in page.types(), "it came back while the model still spoke"
        assert page.types()[-1] == "RUN_FINISHED"
        assert page.said() == [("user", "say 40 tokens at 40 ms"), ("assistant", WORDS)]
        assert not page.raw["warnings"]


@pytest.mark.parametrize("cut", [2, "TOOL_CALL_END"], ids=["in-the-arguments", "before-the-result"])
@pytest.mark.parametrize("reload", [False, True], ids=["kept", "new"])
async def test_reconnect_in_the_middle_of_a_call(
    pages: FrontEnds, generation: str, thread: str, tmp_path: Path, cut: object, reload: bool
) -> None:
    """The call is whole and there once, and its result, which comes only then, is seen live."""
    gate, words = str(tmp_path / "gate"), "word " * 4000
    given = {"gate": gate, "words": words}
    page = await pages.http_agent(
        generation,
        {"say": f"call archive with {json.dumps(given)}", "cut": cut},
        *([{"reload": True}] if reload else []),
        {"connect": True, "open": gate},
        thread=thread,
    )
    assert page.steps[0]["cut"]
    assert page.types(0).count("TOOL_CALL_ARGS") in (2, 3), "long arguments come in pieces"
    assert "TOOL_CALL_RESULT" not in page.types(0)
    assert not {"TOOL_CALL_START", "TOOL_CALL_ARGS"} & set(page.types()), "nothing of a whole call is open"
    assert page.types().count("TOOL_CALL_RESULT") == 1
    assert page.types()[-1] == "RUN_FINISHED"
    assert page.said()[1:] == [
        ("assistant", [("archive", given)]),
        ("tool", "20000 characters put away"),
        ("assistant", "The tool answered: 20000 characters put away"),
    ]
    assert not page.raw["warnings"]


async def test_several_viewers(pages: FrontEnds, client: FrontClient, generation: str, thread: str) -> None:
    run = await client.start("say 40 tokens at 40 ms", thread=thread)

    async def speaking() -> bool:
        return len(await client.log(thread)) >= 1

    await until(speaking, "the run at work")
    views = [pages.http_agent(generation, {"connect": True}, thread=thread, front=n % 2) for n in range(3)]
    for page in await asyncio.gather(*views):
        assert page.said() == [("user", "say 40 tokens at 40 ms"), ("assistant", WORDS)]
    assert (await ended(client, run))["status"] == "succeeded"


async def test_a_cancelled_run_is_the_end_of_the_stream(
    pages: FrontEnds, client: FrontClient, generation: str, thread: str
) -> None:
    run = fresh("run")
    say = {"say": "hang after 3", "runId": run}
    playing = asyncio.create_task(pages.http_agent(generation, say, thread=thread, agent="chat"))

    async def at_work() -> bool:
        return (await client.request("GET", f"/api/v1/agent/runs/{run}")).status == 200

    await until(at_work, "the run")
    await client.cancel(run)
    page = await playing
    last = page.steps[0]["events"][-1]
    told = last.get("code") if generation == "previous" else last["outcome"]["type"]
    assert told == {"previous": "abort", "current": "cancelled"}[generation]


async def test_an_error_is_shown_again_to_a_new_page(pages: FrontEnds, generation: str, thread: str) -> None:
    page = await pages.http_agent(
        generation, {"say": "fail 401"}, {"reload": True}, {"connect": True}, thread=thread, agent="chat"
    )
    assert page.types(0)[-1] == page.types(2)[-1] == "RUN_ERROR"
    assert page.steps[0]["events"][-1]["code"] == page.steps[2]["events"][-1]["code"]


async def test_a_new_thread_is_empty(pages: FrontEnds, generation: str, thread: str) -> None:
    page = await pages.http_agent(generation, {"connect": True}, {"say": "hello"}, thread=thread)
    assert page.types(0) == []
    assert [role for role, _ in page.said()] == ["user", "assistant"]
