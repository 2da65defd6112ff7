"""What `callboard approvals` does: reads from the database, decides through a front."""

from __future__ import annotations

import asyncio
import difflib
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.cli.inspect_service import ask
from callboard_runtime.errors import (
    CallboardError,
    InvalidInput,
    NotFound,
    SettingsError,
    Unauthenticated,
    Unavailable,
    from_code,
)
from callboard_runtime.inspection.approvals import find_approval, list_approvals
from callboard_runtime.inspection.paging import MAX_PAGE
from callboard_runtime.inspection.views import ApprovalLine, ApprovalList
from callboard_runtime.settings import Settings

if TYPE_CHECKING:
    from callboard_runtime.client.errors import ProblemError

PATIENCE = 5.0  # seconds for a front that is away

Decision = Literal["approved", "rejected"]


def pending(count: int, after: str | None) -> ApprovalList:
    return ask(lambda engine: list_approvals(engine, count, after))


def decide(
    interrupt_id: str,
    decision: Decision,
    url: str | None,
    token: str | None,
    *,
    edited_args: dict[str, Any] | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Answer the interrupt through a front, which decides whether the token's user may; its answer.

    Raises NotFound for what is not open, and the front's own refusals.
    """
    line = ask(lambda engine: _open(engine, interrupt_id))
    answer = {"interrupt_id": interrupt_id, "status": decision, "payload": reason, "edited_args": edited_args}
    body = {"answers": [{name: value for name, value in answer.items() if value is not None}]}
    path = f"/api/v1/agent/runs/{quote(line.run_id, safe='')}/resume?user={quote(line.user_id, safe='')}"
    return asyncio.run(_post(url or _own_front(), token, path, body))


def arguments(text: str | None) -> dict[str, Any] | None:
    """The JSON object of `--args`; raises InvalidInput."""
    if text is None:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"--args: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInput('--args: must be a JSON object, such as {"amount": "5.00"}')
    return cast(dict[str, Any], value)


async def _open(engine: AsyncEngine, interrupt_id: str) -> ApprovalLine:
    found = await find_approval(engine, interrupt_id)
    if found is not None:
        return found
    page = await list_approvals(engine, MAX_PAGE, None)
    near = difflib.get_close_matches(interrupt_id, [line.interrupt_id for line in page.approvals], n=1, cutoff=0.8)
    meant = f"; did you mean {near[0]}?" if near else "; `callboard approvals list` prints what is open"
    raise NotFound(f"no approval {interrupt_id} is open{meant}")


def _own_front() -> str:
    http = Settings().http
    host = "127.0.0.1" if http.host in ("0.0.0.0", "::", "") else http.host  # noqa: S104 - where we listen, not call
    return f"http://{host}:{http.port}"


async def _post(url: str, token: str | None, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        from callboard_runtime.client.errors import ClientError, ProblemError
        from callboard_runtime.client.retry import Patience
        from callboard_runtime.client.transport import Transport
    except ModuleNotFoundError as error:
        fix = "pip install 'callboard[client]'"
        raise SettingsError(f"deciding needs {error.name}, which is not installed: {fix}") from error
    try:
        transport = Transport(url, token, Patience(PATIENCE), None)
    except ValueError as error:
        raise InvalidInput(str(error).replace("base_url", "--url")) from None
    transport.start()
    try:
        return await transport.call("POST", path, body)
    except ProblemError as error:
        raise _refusal(error, token) from error
    except ClientError as error:
        raise Unavailable(f"no front answers at {url} ({error}): name one with --url") from error
    finally:
        await transport.close()


def _refusal(error: ProblemError, token: str | None) -> CallboardError:
    if error.status == 401 and not token:
        return Unauthenticated(f"{error.detail}; give one with --token")
    if error.status == 404:
        return NotFound(f"{error.detail}: this token's user may not decide on it")
    return from_code(error.code, error.detail)
