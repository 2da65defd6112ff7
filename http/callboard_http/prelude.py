"""What a reader without a cursor is told first, and from where it reads on.

In:  a leg's moment, and its uncommitted tail.
Out: RUN_STARTED, snapshots and the starts of what is open, without ids but for the last, which carries the position.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from callboard_http.chunk import Chunk
from callboard_http.moments import Moment
from callboard_http.scene import Scene
from callboard_http.tail_reads import TailReads
from callboard_runtime.agui.run_events import pause_outcome, run_error, run_finished, run_started
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventId, to_line
from callboard_runtime.domain.state_snapshot import RunStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prelude:
    """`unsure` is what it shows beyond the log; `announced`: the leg's own RUN_STARTED, still to come, is told.

    Whoever tells the chunks takes them away: a stream must not hold a whole conversation for as long as it is open.
    """

    chunks: list[Chunk]
    position: EventId
    unsure: Chunk | None = None
    announced: bool = False


async def prelude(moment: Moment, tail: TailReads | None) -> Prelude:
    """The prelude to a leg that runs, ended or waits for a worker; without Redis, of what is committed."""
    if moment.end is not None:
        position = EventId(moment.end.epoch, moment.end.seq - 1)  # the closing event itself is read from the log
        return Prelude(_numbered(_events(moment, ()), position), position)
    if not moment.started:
        return Prelude([Chunk.unlogged(*_events(moment, ()))], ORIGIN, announced=True)
    beyond = await _beyond_log(moment, tail)
    position = beyond.last if beyond else moment.log
    seen = [chunk for chunk in (moment.shown, beyond) if chunk is not None]
    return Prelude(_numbered(_events(moment, seen), position), position, beyond)


def ending(moment: Moment, end: EventId) -> Chunk:
    """The closing event of a leg that ended, with its id; of a pause it names what is still open."""
    event = moment.closing
    if event is None:
        event = terminal(moment.thread_id, moment.client_run_id, moment.status, moment.error_code, moment.error_message)
    if moment.status is RunStatus.AWAITING_INPUT and moment.open_calls:
        event = event | {"outcome": pause_outcome(moment.open_calls)}
    return Chunk(end.epoch, end.seq, to_line(event).encode(), closing=True)


def terminal(
    thread_id: str, run_id: str, status: RunStatus, error_code: str | None, error_message: str | None
) -> AguiEvent:
    """How a run ended, as its row tells it."""
    if status is RunStatus.FAILED:
        return run_error(error_message or "The run failed.", error_code or "INTERNAL")
    outcome = "cancelled" if status is RunStatus.CANCELLED else "success"
    return run_finished(thread_id, run_id, {"type": outcome}, {})


def _events(moment: Moment, seen: Sequence[Chunk]) -> list[AguiEvent]:
    scene = Scene(moment.messages, moment.shared_state)
    for chunk in seen:
        for event in chunk.events():
            scene.see(event)
    return [run_started(moment.thread_id, moment.client_run_id), *scene.events()]


def _numbered(events: Sequence[AguiEvent], position: EventId) -> list[Chunk]:
    """The events as chunks, the last of which has the id from which one goes on."""
    *first, last = events
    return [Chunk.unlogged(*first), Chunk(position.epoch, position.seq, to_line(last).encode())]


async def _beyond_log(moment: Moment, tail: TailReads | None) -> Chunk | None:
    """What the present epoch sent and nobody committed yet; up to the first hole, and without the leg's end."""
    if tail is None:
        return None
    try:
        batch = await tail.read(moment.key.session_id, moment.log, moment.log.epoch)
    except (RedisError, OSError, TimeoutError) as error:
        logger.warning("tail not read: %r", error, extra={"action": "tail_not_read"})
        return None
    if batch is None or batch.first_seq != moment.log.seq + 1:
        return None
    chunk = Chunk.of_batch(batch)
    return chunk.without_last() if chunk.closing else chunk
