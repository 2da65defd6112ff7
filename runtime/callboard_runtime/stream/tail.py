"""The tail of each session's events in Redis: what was sent and is perhaps not committed yet. The log is the truth.

A session's tail is one Redis stream. An entry's id is the event's id; the entry `<epoch>-0` is a fence: Redis itself
refuses every older id after it. Appends and fences are one Lua script each, so nothing comes in between.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Final, Self
from uuid import UUID

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionGone

from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.stream.pipelined import PipelinedScript

KEEP: Final = 3600.0  # seconds a tail outlives its last append
SOCKET_TIMEOUT: Final = 1.0  # seconds; a run must not wait longer for something it can do without
CONNECTIONS: Final = 32

# KEYS tail; ARGV epoch, first seq, committed seq, create (0 or 1), keep (ms), lines…
_APPEND = """
local epoch, first, committed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local last_epoch, last_seq = -1, 0
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest then
  local e, s = string.match(newest[1], '(%d+)-(%d+)')
  last_epoch, last_seq = tonumber(e), tonumber(s)
end
if last_epoch > epoch then return 'FENCED' end
if last_epoch < epoch then
  if ARGV[4] == '0' then return 'EMPTY' end
  last_seq = 0
end
if first > math.max(last_seq, committed) + 1 then return 'BEHIND' end
local added = false
for i = 6, #ARGV do
  local seq = first + i - 6
  if seq > last_seq then
    redis.call('XADD', KEYS[1], string.format('%d-%d', epoch, seq), 'l', ARGV[i])
    added = true
  end
end
if added and last_epoch >= 0 and last_epoch < epoch then
  redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', epoch))
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 'OK'
"""

# KEYS tail; ARGV epoch, keep (ms). Returns the epoch's predecessor with its newest entries that follow one another.
_FENCE = """
local epoch = tonumber(ARGV[1])
local fence = string.format('%d-0', epoch)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local newer = newest and tonumber(string.match(newest[1], '^%d+')) >= epoch
if not newer then redis.call('XADD', KEYS[1], fence, 'l', '') end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local lines, first, owner = {}, 0, nil
local upto = '(' .. fence
while true do
  local page = redis.call('XREVRANGE', KEYS[1], upto, '-', 'COUNT', 512)
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    local e, s = string.match(entry[1], '(%d+)-(%d+)')
    e, s = tonumber(e), tonumber(s)
    if s == 0 or (owner and (e ~= owner or s ~= first - 1)) then return {owner or 0, first, lines} end
    owner, first = e, s
    lines[#lines + 1] = entry[2][2]
  end
  upto = '(' .. page[#page][1]
end
return {owner or 0, first, lines}
"""


class TailResult(enum.Enum):
    """What became of an append."""

    OK = "OK"  # the lines are there, now or since before
    FENCED = "FENCED"  # a newer epoch owns the session: publish nothing more
    BEHIND = "BEHIND"  # lines before these are missing: send all that is not committed
    EMPTY = "EMPTY"  # Redis lost this epoch's stream: create it again once the actor accepted a command of this epoch


class TailStore:
    """The tails of all sessions. Redis' errors come through: every caller can do without Redis."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """`prefix` begins every key."""
        self._redis, self._prefix = redis, prefix
        self._append = PipelinedScript(redis, _APPEND)
        self._fence = redis.register_script(_FENCE)

    @classmethod
    def from_url(cls, url: str, prefix: str) -> Self:
        """A store with a connection pool of its own; nothing is retried inside the client."""
        return cls(connect_redis(url), prefix)

    def key(self, session_id: UUID) -> str:
        return f"{self._prefix}:tail:{session_id}"

    async def append(self, session_id: UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult:
        """Add a batch in order; what is already there is skipped.

        `committed` is the last seq of this epoch that is in the log: lines up to it may be missing here. `create` is
        for a caller whose epoch the actor has just confirmed: it may begin the stream.
        """
        arguments = (batch.epoch, batch.first_seq, committed, int(create), int(KEEP * 1000), *batch.lines)
        return TailResult(_text(await self._append(self.key(session_id), arguments)))

    async def fence(self, session_id: UUID, epoch: int) -> EventBatch | None:
        """Refuse everything older than `epoch` from now on, and return what the newest older epoch has sent.

        The batch ends with that epoch's last line and reaches back to the first hole; None if there is nothing.
        Repeating it gives the same.
        """
        arguments = (epoch, int(KEEP * 1000))
        owner, first, lines = await self._fence(keys=[self.key(session_id)], args=arguments)
        if not lines:
            return None
        return EventBatch(epoch=owner, first_seq=first, lines=tuple(_text(line) for line in reversed(lines)))

    async def read(self, session_id: UUID, after: EventId, epoch: int) -> EventBatch | None:
        """The lines of `epoch` after a position, up to the first hole; the first may itself lie behind a hole."""
        seq = after.seq if after.epoch == epoch else 0
        entries = await self._redis.xrange(self.key(session_id), min=f"({epoch}-{seq}", max=f"{epoch}-{2**53}")
        return _contiguous(epoch, entries or ())

    async def read_many(self, asked: Iterable[tuple[UUID, EventId]], most: int) -> list[EventBatch | None]:
        """For each session and event the lines of the event's epoch after it, `most` at most, in one exchange."""
        asked = list(asked)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for session_id, after in asked:
                last = f"{after.epoch}-{2**53}"
                pipeline.xrange(self.key(session_id), min=f"({after}", max=last, count=most)
            found = await pipeline.execute()
        return [_contiguous(after.epoch, entries or ()) for (_, after), entries in zip(asked, found, strict=True)]

    async def delete(self, session_id: UUID) -> None:
        """Remove the tail with its content."""
        await self._redis.delete(self.key(session_id))

    async def close(self) -> None:
        await self._redis.aclose()


def connect_redis(url: str, *, connections: int = CONNECTIONS) -> Redis:
    """A client that waits for a free connection instead of raising, and repeats nothing by itself."""
    pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        max_connections=connections,
        timeout=SOCKET_TIMEOUT,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    pool.connection_class = type("GuardedConnection", (_Guarded, pool.connection_class), {})
    return Redis.from_pool(pool)


class _Guarded:
    """Part of a connection: what uvloop raises of a transport that is closed already reads as any broken one.

    Without it a connection that dies between two requests fails the second one with a RuntimeError, once.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
        except RuntimeError as error:
            raise ConnectionGone(str(error)) from error


def _contiguous(epoch: int, entries: Iterable[tuple[Any, Any]]) -> EventBatch | None:
    first = 0
    lines: list[str] = []
    for entry_id, fields in entries:
        seq = int(_text(entry_id).partition("-")[2])
        if lines and seq != first + len(lines):
            break
        first = first or seq
        lines.append(_text(next(iter(fields.values()))))
    return EventBatch(epoch=epoch, first_seq=first, lines=tuple(lines)) if lines else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
