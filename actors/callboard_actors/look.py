"""One look at the database for a whole group of commands: their sessions' states, and what most decisions need.

In: commands, and which of their sessions are not in memory. Out: `Found`. Any number of commands costs one round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from callboard_actors.connections import Connections
from callboard_actors.facts import KnownAttempt, KnownRun
from callboard_actors.sessions import Held
from callboard_runtime.config.loader import Rows
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.domain.state_snapshot import RunStatus, StateSnapshot


@dataclass(slots=True)
class Found:
    """What was there; keys that nobody asked for are missing."""

    sessions: dict[UUID, Held] = field(default_factory=dict[UUID, Held])
    runs: dict[UUID, KnownRun] = field(default_factory=dict[UUID, KnownRun])  # under the id that was asked for
    messages: dict[UUID, frozenset[str]] = field(default_factory=dict[UUID, frozenset[str]])  # by session
    agents: Rows = ()
    attempts: dict[UUID, KnownAttempt] = field(default_factory=dict[UUID, KnownAttempt])
    counts: dict[UUID, int] = field(default_factory=dict[UUID, int])  # attempts by run
    inputs: dict[UUID, RunInput | None] = field(default_factory=dict[UUID, RunInput | None])


async def look(connections: Connections, unknown: Sequence[UUID], commands: Iterable[c.Command]) -> Found:
    """Read the states of the `unknown` sessions and what `commands` name; raises Unavailable."""
    question = _Question(unknown, commands)
    if not question.parts:
        return Found()
    [row] = await connections.fetch(question.text, *question.parameters)
    return _read({part: orjson.loads(row[part] or b"[]") for part in question.parts})


class _Question:
    """The statement: a column of JSON for each thing that is asked for."""

    def __init__(self, unknown: Sequence[UUID], commands: Iterable[c.Command]) -> None:
        self.parts: dict[str, str] = {}
        self.parameters: list[object] = []
        runs: list[tuple[UUID, str, str]] = []
        messages: list[tuple[UUID, str]] = []
        starts: list[tuple[UUID, UUID]] = []
        accepts = False
        for command in commands:
            match command:
                case c.AcceptRun():
                    accepts = True
                    runs.append((run_uuid(command.user_id, command.run_id), command.user_id, command.run_id))
                    messages += [(command.session_id, message.message_id) for message in command.input.messages]
                case c.CancelRun():
                    runs.append((run_uuid(command.user_id, command.run_id), command.user_id, command.run_id))
                case c.StartRun():
                    starts.append((command.attempt_id, command.run_id))
                case _:
                    pass
        self._ask("sessions", _SESSIONS, [(session_id,) for session_id in unknown])
        self._ask("runs", _RUNS, runs)
        self._ask("messages", _MESSAGES, messages)
        self._ask("starts", _STARTS, starts)
        if accepts:
            self.parts["agents"] = _AGENTS
        self.text = "SELECT " + ", ".join(f"({sql})::text AS {name}" for name, sql in self.parts.items())

    def _ask(self, name: str, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            columns = [list(column) for column in zip(*rows, strict=True)]
            places = {f"p{n}": f"${len(self.parameters) + n + 1}" for n in range(len(columns))}
            self.parts[name] = sql.format(**places)
            self.parameters += columns


_SESSIONS = """SELECT json_agg(json_build_array(id, COALESCE(state_snapshot, '{{}}'::jsonb), state_version))
FROM sessions WHERE id = ANY({p0}::uuid[])"""

# A run is known under its own internal id, or under the runId that a later leg was asked for with.
_RUNS = """SELECT json_agg(json_build_array(k.id, r.id, r.client_run_id, r.session_id, r.status, r.leg, (
    SELECT json_agg(json_build_array(l.client_run_id, l.digest, l.leg)) FROM run_legs l WHERE l.run_id = r.id)))
FROM unnest({p0}::uuid[], {p1}::text[], {p2}::text[]) AS k (id, user_id, client_run_id)
JOIN runs r ON r.id = COALESCE((SELECT id FROM runs WHERE id = k.id), (
    SELECT run_id FROM run_legs WHERE user_id = k.user_id AND client_run_id = k.client_run_id
    ORDER BY created_at LIMIT 1))"""

_MESSAGES = """SELECT json_agg(json_build_array(m.session_id, m.message_id))
FROM unnest({p0}::uuid[], {p1}::text[]) AS k (session_id, message_id)
JOIN messages m ON m.session_id = k.session_id AND m.message_id = k.message_id"""

_STARTS = """SELECT json_agg(json_build_array(k.run_id,
    (SELECT count(*) FROM run_attempts WHERE run_id = k.run_id), (SELECT input FROM runs WHERE id = k.run_id),
    k.attempt_id, a.epoch, s.lines,
    (SELECT count(*) FROM run_attempts b WHERE b.run_id = a.run_id AND b.epoch <= a.epoch)))
FROM unnest({p0}::uuid[], {p1}::uuid[]) AS k (attempt_id, run_id)
LEFT JOIN run_attempts a ON a.attempt_id = k.attempt_id
LEFT JOIN event_segments s ON s.session_id = a.session_id AND s.epoch = a.epoch AND s.first_seq = 1"""

_AGENTS = """SELECT json_agg(a ORDER BY agent_type)
FROM (SELECT agent_type, model_code, llm_params, prompts, enabled FROM system_agents) a"""


def _read(parts: Mapping[str, list[Any]]) -> Found:
    found = Found(agents=tuple(parts.get("agents", ())))
    for session_id, snapshot, version in parts.get("sessions", ()):
        found.sessions[UUID(session_id)] = Held(StateSnapshot.load(snapshot), version)
    for asked, *run in parts.get("runs", ()):
        found.runs[UUID(asked)] = _known_run(*run)
    for session_id, message_id in parts.get("messages", ()):
        key = UUID(session_id)
        found.messages[key] = found.messages.get(key, frozenset()) | {message_id}
    for run_id, count, given, attempt_id, *attempt in parts.get("starts", ()):
        key = UUID(run_id)
        found.counts[key] = count
        found.inputs[key] = RunInput.model_validate(given) if given is not None else None
        if attempt[0] is not None:
            found.attempts[UUID(attempt_id)] = _known_attempt(UUID(attempt_id), *attempt)
    return found


def _known_run(
    run_id: str, client_run_id: str, session_id: str, status: str, leg: int, legs: list[tuple[str, str, int]] | None
) -> KnownRun:
    digests = {(name, digest): number for name, digest, number in legs or ()}
    return KnownRun(UUID(run_id), client_run_id, UUID(session_id), RunStatus(status), leg, digests)


def _known_attempt(attempt_id: UUID, epoch: int, lines: str | None, number: int) -> KnownAttempt:
    opening = EventBatch(epoch=epoch, first_seq=1, lines=tuple((lines or "").split("\n")))
    return KnownAttempt(attempt_id=attempt_id, epoch=epoch, number=number, opening=opening)
