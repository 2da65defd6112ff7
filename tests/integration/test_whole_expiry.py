"""A stack where few may approve, and soon: who does, and what becomes of what nobody approves."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from front_client import RUNS, FrontClient, Json, fresh
from promises import check_messages, check_usage, ended
from shared_stacks import SharedStacks
from stack import Callboard

from .refunds import audit, paused, refunds, resume

pytestmark = pytest.mark.timeout(240)

STRICT = {
    "CALLBOARD_RUNS__APPROVER_ROLES": "boss",
    "CALLBOARD_RUNS__APPROVER_NOT_REQUESTER": "true",
    "CALLBOARD_RUNS__TOOL_CALL_TTL": "8",
    "CALLBOARD_ACTORS__SWEEP": "0.25",
}


@pytest.fixture(scope="module")
def strict(stacks: SharedStacks) -> Iterator[Callboard]:
    stack = stacks.private("strict", stacks.real(), STRICT)
    stack.ensure(http=1, actors=1, worker=1)
    yield stack
    stack.kill_all()


async def check_too_late(strict: Callboard, client: FrontClient, run: str, interrupt: Json) -> None:
    """An approval changes nothing any more, and is on record behind the expiry."""
    late = await resume(client, run, {"interrupt_id": interrupt["id"], "status": "approved"})
    assert (late.status, late.code) == (409, "TOOL_RESULT_MISMATCH")
    assert await refunds(strict, client) == {}
    assert await audit(strict, client, (await client.run(run))["session_id"]) == {
        ("sweeper", "tool_call.expired"): 1,
        (client.user, "tool_result.refused"): 1,
    }


async def test_only_another_user_with_the_role_approves(strict: Callboard) -> None:
    async with strict.client(fresh("user"), roles=["boss"]) as ada, strict.client(fresh("bea"), roles=["boss"]) as bea:
        run, [interrupt] = await paused(ada, "refund order 42")
        approve = {"interrupt_id": interrupt["id"], "status": "approved"}
        own = await resume(ada, run, approve)
        assert (own.status, own.code) == (409, "TOOL_RESULT_MISMATCH")
        assert "somebody other than the requester" in own.body["detail"]
        async with strict.client(fresh("eve"), roles=["clerk"]) as eve:
            path = f"{RUNS}/{run}/resume?user={ada.user}"
            assert (await eve.request("POST", path, {"answers": [approve]})).status == 404
        assert (await bea.request("POST", path, {"answers": [approve]})).status == 202
        shown = await ended(ada, run)
        assert shown["status"] == "succeeded"
        assert await refunds(strict, ada) == {"42": Decimal("19.90")}
        assert await audit(strict, ada, shown["session_id"]) == {
            (ada.user, "tool_result.refused"): 1,
            (bea.user, "tool_call.approved"): 1,
        }


async def test_what_nobody_approves_expires_and_the_run_goes_on(strict: Callboard) -> None:
    async with strict.client(fresh("user")) as ada:
        run, [interrupt] = await paused(ada, "refund order 42")
        shown = await ended(ada, run)
        assert (shown["status"], len(shown["legs"])) == ("succeeded", 2)
        assert "not approved (expired)" in (await ada.messages(shown["session_id"]))[-1]["content"]
        await check_too_late(strict, ada, run, interrupt)


async def test_what_nobody_approves_fails_the_run_where_that_is_the_policy(strict: Callboard) -> None:
    strict.settings |= {"CALLBOARD_RUNS__ON_EXPIRY": "fail", "CALLBOARD_RUNS__TOOL_CALL_TTL": "2"}
    strict.kill_all()
    await asyncio.to_thread(strict.ensure, http=1, actors=1, worker=1)
    async with strict.client(fresh("user")) as ada:
        run, [interrupt] = await paused(ada, "refund order 42")
        shown = await ended(ada, run)
        assert (shown["status"], shown["error"]["code"]) == ("failed", "TOOL_CALL_EXPIRED")
        assert shown["error"]["message"] == "Nobody answered in time: issue_refund."
        log = await ada.log(shown["session_id"])
        assert [frame.type for frame in log if frame.type.startswith("RUN_")] == [
            "RUN_STARTED",
            "RUN_FINISHED",
            "RUN_STARTED",
            "RUN_ERROR",
        ]
        assert log[-1].event["code"] == "TOOL_CALL_EXPIRED"
        await check_too_late(strict, ada, run, interrupt)
        await check_messages(ada, shown["session_id"])
        await check_usage(strict, ada, shown["session_id"])
