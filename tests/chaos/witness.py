"""A witness inside the database: who wrote a session, over which version, whose its partition was; who lost a run.

It is a trigger of the test's own database, so that it sees what was written and not what the code believes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from callboard_runtime.domain.ids import partition_of

_TESTIFY = """
CREATE TABLE chaos_witness (
    session_id uuid NOT NULL, was bigint NOT NULL, became bigint NOT NULL, writer text, owners text[] NOT NULL
);
CREATE FUNCTION chaos_testify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_witness
    SELECT NEW.id, CASE TG_OP WHEN 'UPDATE' THEN OLD.state_version ELSE 0 END, NEW.state_version,
           current_setting('application_name'),
           (SELECT array_agg(coalesce(owner, '') ORDER BY partition) FROM partitions);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_testify AFTER INSERT OR UPDATE OF state_snapshot, state_version ON sessions
    FOR EACH ROW EXECUTE FUNCTION chaos_testify();
CREATE TABLE chaos_returned (process text PRIMARY KEY, at timestamptz NOT NULL);
CREATE FUNCTION chaos_note_return() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_returned VALUES (NEW.id, clock_timestamp())
    ON CONFLICT (process) DO UPDATE SET at = excluded.at;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_returned AFTER UPDATE ON processes
    FOR EACH ROW WHEN (NEW.beat_at - OLD.beat_at > interval '2 seconds') EXECUTE FUNCTION chaos_note_return();
CREATE TABLE chaos_robbed (attempt_id uuid NOT NULL, session_id uuid NOT NULL, silence interval, awake interval);
CREATE FUNCTION chaos_note_robbed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_robbed
    SELECT NEW.attempt_id, NEW.session_id, clock_timestamp() - p.beat_at, clock_timestamp() - r.at
      FROM processes p LEFT JOIN chaos_returned r ON r.process = p.id
     WHERE p.id = NEW.process AND p.attempts @> to_jsonb(NEW.attempt_id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_robbed AFTER UPDATE OF outcome ON run_attempts
    FOR EACH ROW WHEN (NEW.outcome = 'superseded') EXECUTE FUNCTION chaos_note_robbed();
"""
_TESTIMONY = """
SELECT w.session_id, w.was, w.became, w.writer, w.owners FROM chaos_witness w JOIN sessions s ON s.id = w.session_id
 WHERE s.user_id = $1
"""

# Between a decision and its commit a service may freeze: who was silent lately may have been so when it was decided.
# A cancelled run that does not end in time is ended by its actor, whoever lives: that promise is the bounded cancel.
_ROBBED = """
SELECT r.attempt_id, r.silence FROM chaos_robbed r
  JOIN sessions s ON s.id = r.session_id
  JOIN run_attempts a USING (attempt_id)
 WHERE s.user_id = $1 AND (r.awake IS NULL OR r.awake > interval '10 seconds')
   AND NOT EXISTS (SELECT FROM run_attempts t JOIN runs u ON u.id = t.run_id
                    WHERE t.run_id = a.run_id AND t.epoch = a.epoch + 1 AND t.process = 'actor'
                      AND u.status = 'cancelled')
"""

Require = Callable[[bool, int, str], None]


async def call(database_url: str) -> None:
    """Put the witness into a migrated database."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await connection.execute(_TESTIFY)
    finally:
        await connection.close()


async def examine(
    query: Callable[..., Awaitable[Sequence[dict[str, Any]]]], user: str, silent_after: float, require: Require
) -> None:
    """Every state followed its predecessor and was written by its partition's owner; the living keep their runs."""
    for row in await query(_TESTIMONY, user):
        session_id, owner = row["session_id"], row["owners"][partition_of(row["session_id"])]
        require(row["became"] == row["was"] + 1, 4, f"{session_id}: version {row['became']} over {row['was']}")
        require(row["writer"] == owner, 4, f"{session_id}: written by {row['writer']}, the partition is {owner}'s")
    for row in await query(_ROBBED, user):
        silence = row["silence"].total_seconds()
        require(
            silence > silent_after, 9, f"attempt {row['attempt_id']} was superseded {silence:.1f} s after a heartbeat"
        )
