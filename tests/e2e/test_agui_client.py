"""An unmodified `@ag-ui/client` HttpAgent, in both generations that are in use, against the native AG-UI endpoint."""

from typing import Any

import pytest

from e2e.conftest import Browser, turn
from front_client import FrontClient, Json, fresh
from promises import check_run, ended

pytestmark = pytest.mark.timeout(180)


def types(seen: Json) -> list[str]:
    return [event["type"] for event in seen["events"]]


def text(seen: Json) -> str:
    return "".join(event["delta"] for event in seen["events"] if event["type"] == "TEXT_MESSAGE_CONTENT")


def plain(messages: list[Json]) -> list[tuple[str, Any]]:
    return [(message["role"], message.get("content")) for message in messages]


async def test_a_chat_is_streamed_and_ends_well(browser: Browser, client: FrontClient) -> None:
    run = fresh("run")
    page = await browser.play(turn("say 40 tokens at 20 ms", run))
    [seen] = page["turns"]
    assert seen["error"] is None
    assert types(seen)[0] == "RUN_STARTED"
    assert types(seen)[-1] == "RUN_FINISHED"
    assert types(seen).count("TEXT_MESSAGE_CONTENT") > 3, "the text came in one piece"
    assert text(seen) == " ".join(f"token{n}" for n in range(1, 41))
    assert plain(page["messages"]) == [("user", "say 40 tokens at 20 ms"), ("assistant", text(seen))]
    assert not page["warnings"]
    await check_run(browser.callboard, client, run, text=text(seen))


async def test_the_second_message_knows_the_first(browser: Browser, client: FrontClient) -> None:
    thread, first, second = fresh("thread"), fresh("run"), fresh("run")
    page = await browser.play(turn("my name is Ada", first), turn("what is my name?", second), thread=thread)
    assert [seen["error"] for seen in page["turns"]] == [None, None]
    for run in (first, second):
        await check_run(browser.callboard, client, run)
    assert [role for role, _ in plain(page["messages"])] == ["user", "assistant", "user", "assistant"]
    # What the page holds is what the server holds, under the same ids: nothing was stored twice.
    stored = await client.messages(thread)
    assert [(m["id"], m["content"]) for m in stored] == [(m["id"], m["content"]) for m in page["messages"]]
    tokens = [call["input_tokens"] for call in await client.calls(thread)]
    assert tokens[1] > tokens[0] + 10


async def test_an_agent_with_several_stages_shows_its_steps(browser: Browser) -> None:
    page = await browser.play(turn("hello"), agent="default")
    [seen] = page["turns"]
    steps = [event["stepName"] for event in seen["events"] if event["type"] == "STEP_STARTED"]
    assert len(steps) == len(set(steps)) == 2
    assert types(seen)[-1] == "RUN_FINISHED"
    assert len(page["messages"]) == 2, "only the visible stage answers"


async def test_reasoning_is_shown_and_closed(browser: Browser) -> None:
    page = await browser.play(turn("think about doors"))
    [seen] = page["turns"]
    assert seen["error"] is None
    assert "REASONING_MESSAGE_CONTENT" in types(seen)
    assert types(seen)[-1] == "RUN_FINISHED"
    assert text(seen).startswith("I am the scripted model")


async def test_a_failed_run_is_an_error_and_the_thread_goes_on(browser: Browser, client: FrontClient) -> None:
    failing, run = fresh("run"), fresh("run")
    page = await browser.play(turn("fail 401", failing), turn("hello", run))
    bad, good = page["turns"]
    assert types(bad)[-1] == "RUN_ERROR"
    assert types(bad).count("RUN_ERROR") == 1
    assert bad["events"][-1]["code"]
    await check_run(browser.callboard, client, failing, status="failed")
    assert good["error"] is None
    assert types(good)[-1] == "RUN_FINISHED"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"forwardedProps": {"multitaskStrategy": "jump"}}, "multitaskStrategy"),
        ({"runId": "no spaces please"}, "runId"),
        ({"tools": [{"name": "", "description": "nameless"}]}, "tools"),
    ],
)
async def test_wrong_input_is_refused_before_the_stream(browser: Browser, change: Json, field: str) -> None:
    page = await browser.play(turn("hello", parameters=change))
    [seen] = page["turns"]
    assert seen["error"]["status"] == 400
    assert field in str(seen["error"]["payload"]), seen["error"]
    assert not seen["events"]


async def test_a_stranger_is_refused(browser: Browser) -> None:
    stranger = Browser(browser.generation, browser.callboard, {"Authorization": "Bearer nonsense"})
    [seen] = (await stranger.play(turn("hello")))["turns"]
    assert seen["error"]["status"] == 401
    assert "UNAUTHENTICATED" in seen["error"]["payload"]


async def test_closing_the_page_does_not_cancel_the_run(browser: Browser, client: FrontClient) -> None:
    run = fresh("run")
    page = await browser.play(turn("hang after 3", run, abortAfter=2))
    assert page["turns"][0]["aborted"]
    assert (await client.run(run))["status"] == "running"
    await client.cancel(run)
    assert (await ended(client, run))["status"] == "cancelled"


async def test_the_same_request_again_shows_the_same_run(browser: Browser, client: FrontClient) -> None:
    thread, run = fresh("thread"), fresh("run")
    first = await browser.play(turn("hello", run), thread=thread)
    again = await browser.play(turn("hello", run), thread=thread)
    assert text(again["turns"][0]) == text(first["turns"][0]) != ""
    assert types(again["turns"][0])[-1] == "RUN_FINISHED"
    assert (await client.run(run))["usage"]["calls"] == 1
