"""One request to one webhook: signed, without redirects, and only to addresses that it may reach.

In: an event's id and body, a URL. Out: what came of it.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from aiohttp.typedefs import LooseHeaders
from pydantic import SecretStr
from standardwebhooks import Webhook

from callboard_runtime.domain.ids import utcnow
from callboard_runtime.settings import WebhookSettings
from callboard_runtime.webhook_rules import is_public

ERROR_LENGTH = 300  # characters of an error that the log keeps
DNS_KEPT = 30  # seconds
AGENT = "Callboard-Webhooks/1"


class PrivateAddress(OSError):
    """The name leads into a network that webhooks may not reach."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try: `status` is the answer's, or None with an `error`; `retry_after` in seconds."""

    status: int | None
    error: str | None = None
    retry_after: float = 0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more of it."""
        return self.status == 410


def signed_headers(secrets: Sequence[SecretStr], event_id: UUID, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks; one signature per secret, of id, time and body."""
    text = body.decode()
    signatures = [Webhook(secret.get_secret_value()).sign(str(event_id), at, text) for secret in secrets]
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
        "content-type": "application/json",
        "user-agent": AGENT,
    }


def retry_after(value: str | None, now: datetime) -> float:
    """The seconds that a Retry-After header asks for, as a number or a date; 0 without a usable one."""
    if value is None:
        return 0
    if value.strip().isascii() and value.strip().isdigit():
        return float(value[:12])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address that was looked up for this very connection. Raises PrivateAddress."""
    family, kind, protocol, _, place = address
    if not is_public(place[0]):
        problem = f"{place[0]} is a private address; CALLBOARD_WEBHOOKS__ALLOW_PRIVATE=true allows those"
        raise PrivateAddress(errno.EACCES, problem)
    return socket.socket(family, kind, protocol)


class Poster:
    """Posts to webhooks from one event loop."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._secrets = [secret for secret in (settings.secret, settings.old_secret) if secret is not None]
        # The filter sits where sockets are made: a name may lead elsewhere each time, and numbers are not looked up.
        connector = aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=DNS_KEPT, socket_factory=None if settings.allow_private else public_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=settings.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def post(self, url: str, event_id: UUID, body: dict[str, Any]) -> Outcome:
        """Post once; raises nothing that a receiver could cause. The answer's body is not read."""
        content = orjson.dumps(body)
        headers: LooseHeaders = signed_headers(self._secrets, event_id, utcnow(), content)
        try:
            async with self._session.post(url, data=content, headers=headers, allow_redirects=False) as response:
                wait = retry_after(response.headers.get("retry-after"), utcnow())
                return _answered(response.status, wait)
        except TimeoutError:
            return Outcome(None, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(None, _told(error))


def _answered(status: int, wait: float) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status)
    redirect = "; redirects are not followed: configure the address that it leads to" if 300 <= status < 400 else ""
    return Outcome(status, f"the receiver answered {status}{redirect}", wait)


def _told(error: Exception) -> str:
    """The error for the log, on one line and without the URL, which may hold a secret."""
    message = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    text = type(error).__name__ if isinstance(error, aiohttp.InvalidURL) else f"{type(error).__name__}: {message}"
    return json.dumps(text)[1:-1][:ERROR_LENGTH]
