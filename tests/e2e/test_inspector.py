"""The inspector in a real Chromium: what operators find there, who gets in, and that it keeps up by itself.

`CALLBOARD_TEST_SHOTS=<folder>` keeps pictures of it.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from callboard_runtime.domain.ids import run_uuid, utcnow
from callboard_runtime.persistence.database import create_engine, transaction
from callboard_runtime.persistence.tables import WebhookDeliveryRow
from e2e.driving import Driver, Mark, find_chromium
from front_client import FrontClient, Json, fresh, token
from stack import Callboard

pytestmark = [pytest.mark.timeout(150), pytest.mark.parametrize("setting", [("current", "rabbitmq")], ids=["rabbitmq"])]

PAUSED = "Refund order 77"


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    driver = Driver(find_chromium(), "inspector_scenarios.mjs")
    yield driver
    driver.close()


@dataclass(frozen=True)
class Inspector:
    """Plays scenarios as one operator."""

    driver: Driver
    url: str
    operator: str

    async def play(self, scenario: str, *, marks: dict[str, Mark] | None = None, **given: Any) -> Json:
        shots = os.environ.get("CALLBOARD_TEST_SHOTS")
        about = {"scenario": scenario, "url": self.url, "token": token(self.operator, roles=["operator"])}
        return await self.driver.play(about | {"shots": shots} | given, marks or {})


@pytest.fixture
def inspector(driver: Driver, callboard: Callboard) -> Inspector:
    return Inspector(driver, f"{callboard.fronts[0]}/inspector", fresh("operator"))


async def give_up_a_delivery(callboard: Callboard, run: UUID) -> None:
    """A line of the webhooks' log, as no actor of these tests has a URL to tell."""
    ids = {name: uuid4() for name in ("id", "event_id", "endpoint", "session_id")}
    told = {"url": f"https://{'long-' * 12}name.example/hooks", "type": "run.interrupted", "attempts": 50}
    engine = create_engine(callboard.environment["CALLBOARD_DATABASE_URL"], pool=0)
    async with transaction(engine) as connection:
        row = {**ids, **told, "run_id": run, "last_status": 502, "last_error": "Bad Gateway", "given_up_at": utcnow()}
        await connection.execute(insert(WebhookDeliveryRow).values(**row))


async def command(callboard: Callboard, *args: str) -> str:
    """What `callboard …` prints in another terminal."""
    program = [sys.executable, "-c", "from callboard_runtime.cli import main; main()", *args]
    process = await asyncio.create_subprocess_exec(
        *program,
        env={**os.environ, **callboard.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    return out.decode()


async def paused(client: FrontClient) -> tuple[str, str]:
    """A run that waits for an approval, and its interrupt."""
    run = await client.start(PAUSED, agent="demo")
    reader = await client.read(run)
    return run, reader.frames[-1].event["outcome"]["interrupts"][0]["id"]


async def test_an_approval_is_found_decided_on_the_command_line_and_seen_to_its_end(
    inspector: Inspector, callboard: Callboard, client: FrontClient
) -> None:
    run, interrupt = await paused(client)
    owner = token(client.user)

    async def decide() -> None:
        edited = '{"order_id": "77", "amount": "5.00"}'
        where = ("--url", callboard.fronts[0], "--token", owner)
        told = await command(callboard, "approvals", "approve", interrupt, "--args", edited, *where)
        assert told.startswith(f"approved: run {run} is ")

    told = await inspector.play("follow", interrupt=interrupt, marks={"decide": decide})
    seen = told["result"]
    assert told["problems"] == []
    assert seen["flaws"] == []
    assert "issue_refund" in seen["before"]
    assert interrupt in seen["before"]
    assert '"order_id": "77"' in seen["record"]
    assert seen["unfolded"] == 1, "what was unfolded stays so"
    assert seen["focused"]
    assert "Leg 2" in seen["after"]
    assert "tool_call.approved" in seen["after"]
    rows = await callboard.query(
        "SELECT count(*) AS looks FROM audit_log WHERE actor = $1 AND action = 'operator_read' AND run_id = $2",
        inspector.operator,
        run_uuid(client.user, run),
    )
    assert rows[0]["looks"] >= 2, "each look at something new is noted"


async def test_nobody_but_an_owner_or_approver_decides(callboard: Callboard, client: FrontClient) -> None:
    run, interrupt = await paused(client)
    where = ("--url", callboard.fronts[0], "--token", token(fresh("operator"), roles=["operator"]))
    with pytest.raises(AssertionError, match="may not decide"):
        await command(callboard, "approvals", "reject", interrupt, *where)
    answer = await client.request("GET", f"/api/v1/agent/runs/{run}")
    assert answer.body["status"] == "awaiting_input"


async def test_a_users_session_is_found_by_keyboard_and_its_text_stays_text(
    inspector: Inspector, client: FrontClient
) -> None:
    text = "<img src=x onerror=window.pwned=1> <script>window.pwned=2</script>"
    await client.read(await client.start(text))
    seen = (await inspector.play("find", user=client.user, title=text))["result"]
    assert seen["at"] == [f"#/sessions?user={client.user}", "filter-user"]
    assert (seen["made"], seen["pwned"], seen["refused"]) == (0, None, "TypeError")
    assert text in seen["said"]


async def test_a_token_of_an_operator_is_asked_for(inspector: Inspector) -> None:
    user, operator = token(fresh("user")), token(fresh("operator"), roles="operator")
    seen = (await inspector.play("signIn", token=None, user=user, operator=operator))["result"]
    assert seen["flaws"] == []
    assert "not accepted" in seen["answers"][0]
    assert "not an operator's" in seen["answers"][1]
    assert seen["empty"] == ""
    assert seen["kept"][0] == operator
    assert operator not in seen["kept"][1]
    assert seen["left"] is None


async def test_every_view_fits_and_is_for_everybody(
    callboard: Callboard, inspector: Inspector, client: FrontClient
) -> None:
    run, _ = await paused(client)
    await give_up_a_delivery(callboard, run_uuid(client.user, run))
    told = await inspector.play("views", run=str(run_uuid(client.user, run)))
    assert told["problems"] == []
    assert len(told["result"]) == 16
    assert {name: seen for name, seen in told["result"].items() if seen["flaws"] or not seen["wide"]} == {}
    assert all(seen["title"] for seen in told["result"].values())


async def test_the_page_outlasts_an_outage_and_rests_when_told(inspector: Inspector) -> None:
    seen = (await inspector.play("outage"))["result"]
    assert seen["kept"] >= 3, "what was known stays on the page"
    assert (seen["still"], seen["pressed"]) == (0, "true")
