"""Who the runs belong to: users with tokens, and their sessions."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import jwt

from callboard_runtime.client import CallboardClient
from callboard_runtime.load.ledger import Received

LIFETIME = 3600  # seconds


@dataclass(frozen=True, slots=True)
class Tokens:
    """One given token for everybody, or a token per user signed with the deployment's HS256 secret, or none."""

    token: str | None = None
    secret: str | None = field(default=None, repr=False)
    issuer: str | None = None
    audience: str | None = None

    def of(self, user: str) -> str:
        """A token of this user; empty for a deployment that wants none."""
        if self.secret is None:
            return self.token or ""
        claims = {"sub": user, "exp": int(time.time()) + LIFETIME, "iss": self.issuer, "aud": self.audience}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self.secret, algorithm="HS256")


@dataclass(slots=True)
class Session:
    """A thread of one user, and what its streams brought."""

    thread_id: str
    client: CallboardClient
    received: Received = field(default_factory=Received)
    runs: int = 0
    complete: bool = True  # every stream was read to its end

    @property
    def verifiable(self) -> bool:
        return self.complete and bool(self.received.ranges)


class SessionPool:
    """Hands out a session for each run: an idle one as long as it may be reused, else a new one of the next user."""

    def __init__(self, clients: list[CallboardClient], runs_per_session: int, tag: str) -> None:
        self.sessions: list[Session] = []
        self._clients, self._most, self._tag = clients, runs_per_session, tag
        self._idle: deque[Session] = deque()

    def take(self) -> Session:
        session = self._idle.popleft() if self._idle else self._new()
        session.runs += 1
        return session

    def give_back(self, session: Session) -> None:
        if session.complete and session.runs < self._most:
            self._idle.append(session)

    def _new(self) -> Session:
        number = len(self.sessions)
        session = Session(f"{self._tag}-{number}", self._clients[number % len(self._clients)])
        self.sessions.append(session)
        return session
