"""Ids: clients name threads and runs as they like, unique per user; UUIDs derived from the names key all inside."""

from __future__ import annotations

import uuid
import zlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import StringConstraints

PARTITIONS = 64  # a constant of the wire: changing it is a migration
LANES = 256

_SESSIONS = uuid.UUID("6f1d2c0e-54a8-5d0b-9d5e-4f1f0f6b7a01")
_RUNS = uuid.UUID("6f1d2c0e-54a8-5d0b-9d5e-4f1f0f6b7a02")

_SHAPE = r"^\.*[A-Za-z0-9_:~@/+=-][A-Za-z0-9._:~@/+=-]*$"  # a path drops the segments `.` and `..`, however encoded
ClientId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_SHAPE)]
"""An id chosen outside: 1 to 200 characters of `A-Z a-z 0-9 . _ : ~ @ / + = -`, not dots alone."""

UserId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def session_uuid(user_id: str, thread_id: str) -> uuid.UUID:
    """The internal id of a user's thread; the same names always give the same id."""
    return uuid.uuid5(_SESSIONS, f"{user_id}\n{thread_id}")


@lru_cache(maxsize=4096)  # an actor asks several times for every command
def run_uuid(user_id: str, run_id: str) -> uuid.UUID:
    """The internal id of a user's run."""
    return uuid.uuid5(_RUNS, f"{user_id}\n{run_id}")


def task_id(run: uuid.UUID, leg: int) -> str:
    """The Celery task id of one leg's wake-ups: every copy of a wake-up has the same one."""
    return str(uuid.uuid5(run, f"leg-{leg}"))


def partition_of(session_id: uuid.UUID) -> int:
    """The partition queue of a session: crc32 of its text form, modulo 64."""
    return zlib.crc32(str(session_id).encode()) % PARTITIONS


def lane_of(session_id: uuid.UUID) -> int:
    """The live lane that carries a session's events, 0 to 255."""
    return zlib.crc32(session_id.bytes) % LANES


def new_id() -> uuid.UUID:
    """A fresh random id."""
    return uuid.uuid4()


def utcnow() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)
