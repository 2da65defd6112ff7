"""The cache of session states: what does not fit into it is read, not forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from callboard_actors.sessions import NEW, Held, Sessions
from callboard_runtime.domain.state_snapshot import StateSnapshot

IDS = [UUID(int=number) for number in range(1, 6)]
STORED = {session_id: Held(StateSnapshot.new(session_id), 7) for session_id in IDS}


async def test_a_group_larger_than_the_cache_sees_its_sessions_as_they_are() -> None:
    asked: list[UUID] = []

    async def load(ids: Sequence[UUID]) -> Mapping[UUID, Held]:
        asked.extend(ids)
        return {session_id: STORED[session_id] for session_id in ids if session_id in STORED}

    sessions = Sessions(load, limit=2)
    unknown = UUID(int=99)
    for _ in range(2):
        held = await sessions.read([*IDS, unknown])
        assert held == STORED | {unknown: NEW}
    assert asked.count(IDS[-1]) == 1, "the newest are kept"
