"""Tickets: what an EventSource, which cannot send headers, shows in place of a token; good for one run of one user."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

import jwt

from callboard_http.auth import Principal
from callboard_runtime.errors import Unauthenticated
from callboard_runtime.settings import Settings

_AUDIENCE = "callboard-ticket"
_PURPOSE = b"callboard event stream ticket v1"


class Tickets:
    """Issues and checks tickets. Their key is derived from a secret that all fronts of one deployment share."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.auth.jwt_secret
        shared = secret.get_secret_value() if secret else settings.required_database_url()
        self._key = hmac.digest(shared.encode(), _PURPOSE, hashlib.sha256)

    def issue(self, principal: Principal, owner: str, run_id: str) -> str:
        """A ticket for one run of `owner`, valid for as long as the principal's token."""
        claims = {
            "aud": _AUDIENCE,
            "sub": principal.user_id,
            "own": owner,
            "run": run_id,
            "roles": sorted(principal.roles),
            "exp": principal.expires_at,
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def principal(self, ticket: str, owner: str | None, run_id: str) -> tuple[Principal, str]:
        """Who holds the ticket, and whose run it is for; raises Unauthenticated unless it is for this run."""
        try:
            claims = jwt.decode(
                ticket, self._key, algorithms=["HS256"], audience=_AUDIENCE, options={"require": ["exp", "sub"]}
            )
        except jwt.InvalidTokenError:
            raise Unauthenticated("the ticket has expired or cannot be read; get a new one") from None
        if claims["run"] != run_id or owner not in (None, claims["own"]):
            raise Unauthenticated("the ticket is for another run")
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        return Principal(claims["sub"], frozenset(claims["roles"]), expires), claims["own"]
