"""Pages keyed by position: the position is a time and an id, so that a page costs the same wherever it is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Self
from uuid import UUID

import orjson

from callboard_runtime.errors import InvalidInput
from callboard_runtime.inspection.database import Row

MAX_PAGE = 200


class Position(NamedTuple):
    """Where a page ends: rows beyond it come next."""

    at: datetime
    id: UUID

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `encode` wrote; raises InvalidInput for anything else."""
        try:
            at, row_id = orjson.loads(base64.urlsafe_b64decode(text))
            return cls(datetime.fromisoformat(at).astimezone(UTC), UUID(row_id))
        except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
            raise InvalidInput("after: not a position that an earlier page gave as `next`") from None

    def encode(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([self.at, str(self.id)])).decode()


NEWEST = Position(datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))
OLDEST = Position(datetime(1, 1, 2, tzinfo=UTC), UUID(int=0))


def check_count(count: int) -> int:
    """The number of rows of a page; raises InvalidInput for too many."""
    if not 1 <= count <= MAX_PAGE:
        raise InvalidInput(f"limit: must be a number from 1 to {MAX_PAGE}")
    return count


def page_of(rows: Sequence[Row], count: int, time: str) -> tuple[Sequence[Row], str | None]:
    """The page, and the `after` of the next one, of rows that were read one beyond `count`; `time` orders them."""
    kept = rows[:count]
    return kept, Position(kept[-1][time], kept[-1]["id"]).encode() if len(rows) > count else None
