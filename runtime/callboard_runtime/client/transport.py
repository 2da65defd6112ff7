"""Requests to a Callboard server, sent again when that is safe and promising.

In:  method, path, body
Out: parsed JSON, or an open event stream; a typed error for everything else
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from yarl import URL

from callboard_runtime.client.errors import ProblemError, ServerLost, Unavailable, UnexpectedAnswer, problem
from callboard_runtime.client.retry import Patience, Tries

Token = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or a function, plain or async, that is asked for one before every request."""

BROKEN = (aiohttp.ClientError, TimeoutError, OSError)
_NOT_YET = "NOT_PENDING_YET"  # the answer came before the pause: the same one will do in a moment


class Transport:
    """Adds address, token and patience to an aiohttp session, which it closes only if it made it."""

    def __init__(
        self, base_url: str, token: Token | None, patience: Patience, http: aiohttp.ClientSession | None
    ) -> None:
        self._base = _checked(base_url)
        self._token, self.patience = token, patience
        self._own = http is None
        self._http = http

    def start(self) -> None:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=True)

    async def close(self) -> None:
        if self._own and self._http is not None:
            await self._http.close()
            self._http = None

    async def call(self, method: str, path: str, body: Any = None, *, timeout: float = 30.0) -> Any:
        """The answer's JSON, None without one. Every call of this API may be repeated, and is, while that promises.

        Raises ProblemError as the server refused, ServerLost when it cannot be reached.
        """
        tries = Tries(self.patience)
        while True:
            try:
                return await self._once(method, path, body, timeout)
            except ProblemError as error:
                if not isinstance(error, Unavailable) and error.code != _NOT_YET:
                    raise
                await tries.pause(error, error.retry_after)
            except BROKEN as error:
                await tries.pause(_lost(error))

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str], silence: float
    ) -> AsyncGenerator[aiohttp.ClientResponse | None]:
        """An open event stream; None when nothing follows the cursor. `silence` seconds without a byte break it."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        given = {"Accept": "text/event-stream", **headers}
        async with self._request("GET", path, headers=given, timeout=timeout) as response:
            if response.status not in (200, 204):
                raise await _refused(response)
            if response.status == 200 and response.content_type != "text/event-stream":
                raise UnexpectedAnswer(f"{response.url} answers with {response.content_type}, not with events")
            yield response if response.status == 200 else None

    async def _once(self, method: str, path: str, body: Any, timeout: float) -> Any:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if data else {}
        async with self._request(method, path, headers=headers, timeout=limits, data=data) as response:
            if not 200 <= response.status < 300:
                raise await _refused(response)
            raw = await response.read()
        try:
            return orjson.loads(raw) if raw else None
        except orjson.JSONDecodeError:
            raise UnexpectedAnswer(f"{response.url} answers with something that is not JSON") from None

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        if self._http is None:
            raise RuntimeError("the client is not open: use it with `async with`")
        url = URL(self._base + path, encoded=True)
        given = {**headers, **await self._authorization()}
        async with self._http.request(method, url, headers=given, timeout=timeout, data=data) as response:
            yield response

    async def _authorization(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        return {"Authorization": f"Bearer {token}"} if token else {}


def _checked(base_url: str) -> str:
    url = URL(base_url)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url: {base_url!r} must be a URL such as https://agents.example.com")
    return base_url.rstrip("/")


async def _refused(response: aiohttp.ClientResponse) -> ProblemError:
    raw = await response.read()
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    return problem(response.status, body, response.headers.get("Retry-After"))


def _lost(error: Exception) -> ServerLost:
    lost = ServerLost(f"{type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
