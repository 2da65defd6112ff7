"""The playground in a real Chromium: what people see and do there, over breaks, in two tabs, and by keyboard.

`CALLBOARD_TEST_SHOTS=<folder>` keeps pictures of it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from e2e.driving import Driver, Mark, find_chromium
from front_client import FrontClient, Json, fresh, token
from promises import check_messages
from services import TcpProxy
from stack import Callboard

pytestmark = [pytest.mark.timeout(150), pytest.mark.parametrize("setting", [("current", "rabbitmq")], ids=["rabbitmq"])]


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    driver = Driver(find_chromium(), "playground_scenarios.mjs")
    yield driver
    driver.close()


@dataclass(frozen=True)
class Playground:
    """Plays scenarios as one user."""

    driver: Driver
    url: str
    token: str

    async def play(self, scenario: str, *, marks: dict[str, Mark] | None = None, **given: Any) -> Json:
        """What `Driver.play` gives; `given` is what the scenario takes."""
        shots = os.environ.get("CALLBOARD_TEST_SHOTS")
        about = {"scenario": scenario, "url": self.url, "token": self.token, "shots": shots}
        return await self.driver.play(about | given, marks or {})


@pytest.fixture
def playground(driver: Driver, callboard: Callboard, client: FrontClient) -> Playground:
    return Playground(driver, f"{callboard.fronts[0]}/", client.headers["Authorization"].removeprefix("Bearer "))


async def test_a_call_is_approved_with_edits_by_keyboard(playground: Playground, callboard: Callboard) -> None:
    told = await playground.play("approval")
    seen = told["result"]
    assert told["problems"] == []
    assert (seen["at"], seen["theme"], seen["back"]) == ("Tool call issue_refund", "dark", "message")
    assert seen["button"] == "Approve with edits"
    assert seen["flaws"] == []
    assert "Refunded 5.00 for order 77." in seen["text"]
    assert seen["state"]["refunds"] == {"77": "5.00"}
    assert "MODEL CALLS\n2" in seen["run"].upper()
    assert "no hole" in seen["books"]
    refunds = await callboard.query("SELECT amount FROM demo_refunds WHERE user_id = $1", _user(playground))
    assert [row["amount"] for row in refunds] == [5]


async def test_a_rejection_has_a_reason_and_every_tab_shows_it(playground: Playground) -> None:
    told = await playground.play("rejection")
    seen = told["result"]
    assert told["problems"] == []
    assert seen["here"] == seen["there"]
    assert seen["forms"] == 0


async def test_breaks_and_a_second_tab_lose_nothing(playground: Playground, client: FrontClient) -> None:
    async with TcpProxy.for_url(playground.url) as proxy:
        through = Playground(playground.driver, proxy.url(playground.url), playground.token)
        told = await through.play("reconnect", marks={"cut": proxy.disconnect_all})
    seen = told["result"]
    assert seen["still"], "a dropped stream went on"
    assert " ".join(map(str, range(1, 41))) in seen["first"]
    assert seen["texts"][0] == seen["texts"][1]
    assert all("no hole" in books for books in seen["books"])
    await check_messages(client, seen["thread"])


async def test_escape_cancels_and_the_session_goes_on(playground: Playground) -> None:
    told = await playground.play("cancel")
    assert told["problems"] == []
    assert told["result"]["text"].index("cancelled") < told["result"]["text"].index("I am the scripted model")
    assert "no hole" in told["result"]["books"]


async def test_a_queued_run_is_cancelled_after_the_one_that_waits(playground: Playground) -> None:
    told = await playground.play("queue")
    assert told["problems"] == []
    assert told["result"]["notices"] == ["The run was cancelled.", "The run was cancelled."]
    assert told["result"]["chips"] == ["given up"]
    assert told["result"]["forms"] == 0


async def test_the_pages_own_tools_act_where_they_were_asked(playground: Playground, client: FrontClient) -> None:
    thread = fresh("thread")
    tool = {"name": "ui.set_theme", "description": "", "parameters": {"type": "object", "properties": {}}}
    run = await client.start('call ui.set_theme with {"theme": "light"}', thread=thread, tools=[tool])
    await client.read(run)
    told = await playground.play("tools", thread=thread)
    assert told["problems"] == []
    assert told["result"] == {"form": ["Ada", "<b>Invoice</b>"], "panel": True, "theme": "light"}
    results = [message["content"] for message in await client.messages(thread) if message["role"] == "tool"]
    assert len(results) == 1


async def test_text_of_a_model_stays_text(playground: Playground) -> None:
    text = "<img src=x onerror=window.pwned=1> **bold** <script>window.pwned=2</script> [a](javascript:window.pwned=3)"
    seen = (await playground.play("escaping", text=text))["result"]
    assert (seen["made"], seen["pwned"], seen["refused"]) == (0, None, "TypeError")
    assert "<script>window.pwned=2</script>" in seen["text"].split("You said:")[1]


async def test_a_token_is_asked_for_and_kept_in_the_tab(playground: Playground) -> None:
    right = token(fresh("user"))
    seen = (await playground.play("signIn", token=None, right=right))["result"]
    assert seen["flaws"] == []
    assert seen["kept"][0] == right
    assert right not in seen["kept"][1]


async def test_every_view_fits_a_narrow_screen(playground: Playground) -> None:
    told = await playground.play("narrow")
    seen = told["result"]
    assert told["problems"] == []
    assert seen["folded"]
    assert "the tides" in seen["unfolded"]
    assert seen["views"] == {
        name: {"wide": 360, "flaws": [], "visible": True} for name in ("chat", "sessions", "inspector")
    }


PATCHES: list[tuple[Any, list[Json], Any]] = [
    ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
    (
        {"a/b": 1, "m~n": 2},
        [{"op": "remove", "path": "/a~1b"}, {"op": "replace", "path": "/m~0n", "value": 3}],
        {"m~n": 3},
    ),
    (
        {"a": 1},
        [{"op": "move", "from": "/a", "path": "/b"}, {"op": "copy", "from": "/b", "path": "/c"}],
        {"b": 1, "c": 1},
    ),
    ({"a": {"x": [1]}}, [{"op": "test", "path": "/a", "value": {"x": [1]}}], {"a": {"x": [1]}}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": [None]}], [None]),
    ({}, [{"op": "add", "path": "/", "value": 1}], {"": 1}),
]
WRONG_PATCHES: list[tuple[Any, list[Json]]] = [
    ({"a": 1}, [{"op": "replace", "path": "/b", "value": 1}]),
    ({"a": 1}, [{"op": "remove", "path": "/b"}]),
    ({"a": [1]}, [{"op": "add", "path": "/a/2", "value": 1}]),
    ({"a": [1]}, [{"op": "add", "path": "/a/01", "value": 1}]),
    ({"a": 1}, [{"op": "add", "path": "/a/b", "value": 1}]),
    ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}, {"op": "test", "path": "/a", "value": 3}]),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b"}]),
    ({}, [{"op": "replace", "path": "/constructor", "value": 1}]),
]


async def test_state_patches_follow_their_standard(playground: Playground) -> None:
    cases = [{"document": document, "patch": patch} for document, patch, *_ in (*PATCHES, *WRONG_PATCHES)]
    results = (await playground.play("patches", cases=cases))["result"]
    right, wrong = results[: len(PATCHES)], results[len(PATCHES) :]
    assert [case["result"] for case in right] == [expected for *_, expected in PATCHES]
    assert all("error" in case for case in wrong)
    assert all(case["untouched"] for case in results)


async def test_the_page_may_load_nothing_from_elsewhere(callboard: Callboard, client: FrontClient) -> None:
    page = await client.request("GET", "/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.body
    assert "//" not in page.body.replace("http://www.w3.org", "")
    async with client.http.get(f"{callboard.fronts[0]}/", headers={"If-None-Match": page.headers["Etag"]}) as again:
        assert again.status == 304
    assert (await client.request("GET", "/playground/..%2Froutes.py")).status == 404


def _user(playground: Playground) -> str:
    return jwt.decode(playground.token, options={"verify_signature": False})["sub"]
