"""The client: one method per thing that a user can do."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import BaseModel, ValidationError

from callboard_runtime.client.errors import UnexpectedAnswer
from callboard_runtime.client.models import AcceptedRun, Event, Message, RunView, SessionView
from callboard_runtime.client.retry import Patience
from callboard_runtime.client.stream import SILENCE, EventStream
from callboard_runtime.client.transport import Token, Transport
from callboard_runtime.domain.commands import ToolAnswer
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.run_input import MultitaskStrategy

API = "/api/v1/agent"
PROTOCOL = "1.0"  # of AG-UI
_MESSAGE_IDS = uuid.UUID("6f1d2c0e-54a8-5d0b-9d5e-4f1f0f6b7a03")

M = TypeVar("M", bound=BaseModel)
Json = Mapping[str, Any]


class CallboardClient:
    """A user of one Callboard server. Use it with `async with`; it may serve any number of tasks at once.

    `token` may be a function, so that long streams outlive one token. Calls are repeated over lost connections and
    503s for `patience`; the server makes that safe. `http` is an aiohttp session to share; it stays open.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Token | None = None,
        patience: Patience | None = None,
        http: aiohttp.ClientSession | None = None,
    ) -> None:
        """Raises ValueError for a URL that is none."""
        self._transport = Transport(base_url, token, patience or Patience(), http)

    async def __aenter__(self) -> Self:
        self._transport.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def post_run(
        self,
        thread_id: str,
        message: str | Sequence[Json],
        *,
        run_id: str | None = None,
        agent_id: str | None = None,
        tools: Sequence[Json] = (),
        context: Sequence[Json] = (),
        state: Any = None,
        strategy: MultitaskStrategy | str | None = None,
        forwarded_props: Json | None = None,
    ) -> AcceptedRun:
        """Start a run; it is durable when this returns. `message` is the user's text, or AG-UI messages.

        The same `run_id` with the same arguments is the same run, however often it is posted. Raises Conflict for a
        run_id that was used with others, and for a session that the strategy `reject` finds busy.
        """
        run_id = run_id or str(uuid.uuid4())
        named = {"agentId": agent_id, "multitaskStrategy": str(strategy) if strategy else None}
        body = {
            "threadId": thread_id,
            "runId": run_id,
            "protocolVersion": PROTOCOL,
            "messages": [_user_message(run_id, message)] if isinstance(message, str) else list(message),
            "tools": list(tools),
            "context": list(context),
            "state": {} if state is None else state,
            "forwardedProps": {**(forwarded_props or {}), **{key: value for key, value in named.items() if value}},
        }
        return _as(AcceptedRun, await self._transport.call("POST", f"{API}/runs", body))

    def events(
        self,
        run_id: str,
        *,
        after: EventId | str | None = None,
        snapshot: bool = False,
        silence: float = SILENCE,
    ) -> EventStream:
        """Follow a leg to its closing event: the run's latest one, or the one with the events behind `after`.

        Every event comes once and in order, over as many connections as it takes; nothing comes if nothing follows
        `after`. With `snapshot` a leg under way begins with its messages and state as they are now, in place of the
        events that led there. `silence` is how many seconds without a sign of life break a connection.
        """
        cursor = EventId.parse(after) if isinstance(after, str) else after
        return EventStream(self._transport, f"{_run(run_id)}/events", cursor, snapshot=snapshot, silence=silence)

    async def get_run(self, run_id: str) -> RunView:
        """Where the run stands. Raises NotFound, Gone."""
        return _as(RunView, await self._transport.call("GET", _run(run_id)))

    async def cancel(self, run_id: str, reason: str | None = None) -> AcceptedRun:
        """End the run soon; after its end, `status` is that end. No step begins after this returned."""
        body = {"reason": reason} if reason else None
        return _as(AcceptedRun, await self._transport.call("POST", f"{_run(run_id)}/cancel", body))

    async def resume(self, run_id: str, answers: Sequence[ToolAnswer], *, leg_run_id: str | None = None) -> AcceptedRun:
        """Answer what a paused run waits for; it goes on once nothing is left open.

        `status` stays `awaiting_input` while other answers are missing. The same answers again get the same reply.
        Raises Conflict with code TOOL_RESULT_MISMATCH for what is not open, or was answered otherwise.
        """
        given = [answer.model_dump(mode="json", exclude_none=True) for answer in answers]
        body = {"answers": given, **({"run_id": leg_run_id} if leg_run_id else {})}
        return _as(AcceptedRun, await self._transport.call("POST", f"{_run(run_id)}/resume", body))

    async def approve(self, run_id: str, interrupt_id: str, *, edited_args: Json | None = None) -> AcceptedRun:
        """Let a call happen, with the arguments replaced if `edited_args` are given."""
        edited = dict(edited_args) if edited_args is not None else None
        answer = ToolAnswer(interrupt_id=interrupt_id, status="approved", edited_args=edited)
        return await self.resume(run_id, [answer])

    async def reject(self, run_id: str, interrupt_id: str, *, reason: str | None = None) -> AcceptedRun:
        """Forbid a call; the model is told, with the reason."""
        return await self.resume(run_id, [ToolAnswer(interrupt_id=interrupt_id, status="rejected", payload=reason)])

    async def answer(self, run_id: str, tool_call_id: str, result: Any) -> AcceptedRun:
        """Give the result of a call that the run left to its client."""
        return await self.resume(run_id, [ToolAnswer(tool_call_id=tool_call_id, status="result", payload=result)])

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def sessions(self, *, page_size: int = 100) -> AsyncGenerator[SessionView]:
        """The user's sessions, the one that changed last first."""
        async for item in self._paged(f"{API}/sessions", "sessions", None, page_size):
            yield _as(SessionView, item)

    async def get_session(self, session_id: str) -> SessionView:
        """A session, which is a thread's. Raises NotFound, Gone."""
        return _as(SessionView, await self._transport.call("GET", _session(session_id)))

    async def messages(
        self, session_id: str, *, after: int | None = None, page_size: int = 100
    ) -> AsyncGenerator[Message]:
        """The session's messages in order, those behind the seq `after`, a page at a time."""
        async for item in self._paged(f"{_session(session_id)}/messages", "messages", after, page_size):
            yield _as(Message, item)

    async def log(
        self, session_id: str, *, after: EventId | str | None = None, page_size: int = 500
    ) -> AsyncGenerator[Event]:
        """The committed events of all runs of the session, in order, as far as the log goes now."""
        async for item in self._paged(f"{_session(session_id)}/events", "events", after, page_size):
            yield Event(EventId.parse(item["id"]), item["event"])

    async def delete_session(self, session_id: str) -> None:
        """Delete all that the session holds; its runs end and its id is never used again."""
        await self._transport.call("DELETE", _session(session_id))

    async def _paged(self, path: str, name: str, after: object, page_size: int) -> AsyncGenerator[Json]:
        while True:
            query = {"limit": page_size, **({"after": str(after)} if after is not None else {})}
            page = await self._transport.call("GET", f"{path}?{urlencode(query)}")
            try:
                items, after = page[name], page["next"]
            except (TypeError, KeyError):
                raise UnexpectedAnswer(f"{path} answers without `{name}`") from None
            for item in items:
                yield item
            if after is None:
                return


def _run(run_id: str) -> str:
    return f"{API}/runs/{quote(run_id, safe='')}"


def _session(session_id: str) -> str:
    return f"{API}/sessions/{quote(session_id, safe='')}"


def _user_message(run_id: str, text: str) -> Json:
    """Its id is derived from the run's, so that posting the same run again is the same request."""
    return {"id": f"msg-{uuid.uuid5(_MESSAGE_IDS, run_id)}", "role": "user", "content": text}


def _as(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UnexpectedAnswer(f"the answer is not a {model.__name__}: {error.error_count()} wrong members") from error
