"""Messages and session totals on a real PostgreSQL: order, gaplessness under concurrency, repeats, refusals."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from callboard_actors.connections import Connections
from callboard_actors.ownership import take_partition
from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.domain.usage import CallUsage, UsageTotals
from callboard_runtime.errors import Conflict, Gone, InvalidInput, NotFound, Unavailable
from callboard_runtime.persistence import database
from callboard_runtime.persistence.database import connect, create_engine, snapshot, transaction
from callboard_runtime.persistence.message_repository import append_message, list_messages
from callboard_runtime.persistence.session_repository import (
    ensure_session,
    get_session_aggregate,
    update_session_aggregate,
)
from callboard_runtime.persistence.tables import MessageRow, SessionRow
from callboard_runtime.settings import Settings
from services import TcpProxy


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=8)
    yield engine
    await engine.dispose()


@pytest.fixture
async def session_id(engine: AsyncEngine) -> UUID:
    async with transaction(engine) as conn:
        return await ensure_session(conn, user_id="ana", thread_id="t1")


async def test_user_row_comes_before_assistant_row(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        first = await append_message(conn, session_id=session_id, message_id="u1", role="user", content="hello")
        second = await append_message(conn, session_id=session_id, message_id="a1", role="assistant", content="hi")
    assert (first, second) == (1, 2)
    async with connect(engine) as conn:
        rows = await list_messages(conn, session_id)
    assert [(row.seq, row.role, row["content"]) for row in rows] == [(1, "user", "hello"), (2, "assistant", "hi")]
    assert rows[0].created_at <= rows[1].created_at


async def test_seq_is_gapless_under_concurrency(engine: AsyncEngine, session_id: UUID) -> None:
    async def one(number: int) -> int:
        async with transaction(engine) as conn:
            seq = await append_message(conn, session_id=session_id, role="user", content=number)
            if number % 5 == 0:
                raise RuntimeError("this transaction is given up")
            return seq

    done = await asyncio.gather(*(one(number) for number in range(25)), return_exceptions=True)
    kept = sorted(seq for seq in done if isinstance(seq, int))
    assert kept == list(range(1, 21))
    async with connect(engine) as conn:
        rows = await list_messages(conn, session_id)
        assert (await get_session_aggregate(conn, session_id)).message_count == 20
    assert [row.seq for row in rows] == kept
    assert [row.created_at for row in rows] == sorted(row.created_at for row in rows)


async def test_same_message_again_is_one_row(engine: AsyncEngine, session_id: UUID) -> None:
    async def post() -> int:
        async with transaction(engine) as conn:
            return await append_message(conn, session_id=session_id, message_id="m", role="user", content={"a": 1})

    assert set(await asyncio.gather(*(post() for _ in range(6)))) == {1}
    async with connect(engine) as conn:
        assert await conn.scalar(select(func.count()).select_from(MessageRow)) == 1


async def test_same_message_id_with_another_content_is_a_conflict(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        await append_message(conn, session_id=session_id, message_id="m", role="user", content="one")
    with pytest.raises(Conflict, match="'m'"):
        async with transaction(engine) as conn:
            await append_message(conn, session_id=session_id, message_id="m", role="user", content="two")


async def test_every_field_comes_back(engine: AsyncEngine, session_id: UUID) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    run_id = uuid4()
    async with transaction(engine) as conn:
        await append_message(
            conn, session_id=str(session_id), message_id="a", role="assistant", run_id=str(run_id), tool_calls=calls
        )
        await append_message(
            conn, session_id=session_id, message_id="t", role="tool", content="42", tool_call_id="c1", name="f"
        )
        one, two = await list_messages(conn, session_id)
    assert (one.run_id, one.tool_calls, one.content) == (run_id, calls, None)
    assert (two.tool_call_id, two.name, two.content, two.withdrawn) == ("c1", "f", "42", False)
    with pytest.raises(KeyError):
        _ = two["password"]


async def test_listing_pages_and_hides_what_was_withdrawn(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        for number in range(1, 7):
            await append_message(conn, session_id=session_id, role="user", content=number)
        await conn.execute(update(MessageRow).where(MessageRow.seq.in_([2, 3])).values(withdrawn=True))
        page = await list_messages(conn, session_id, limit=2)
        rest = await list_messages(conn, session_id, after_seq=page[-1].seq)
        everything = await list_messages(conn, session_id, include_withdrawn=True)
        seventh = await append_message(conn, session_id=session_id, role="user", content="after")
    assert [row.seq for row in page] == [1, 4]
    assert [row.seq for row in rest] == [5, 6]
    assert [row.seq for row in everything] == [1, 2, 3, 4, 5, 6]
    assert seventh == 7


async def test_sessions_do_not_mix(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        other = await ensure_session(conn, user_id="bob", thread_id="t1")
        await append_message(conn, session_id=session_id, role="user", content="ana's")
        assert await append_message(conn, session_id=other, role="user", content="bob's") == 1
        assert [row.content for row in await list_messages(conn, other)] == ["bob's"]
        assert await list_messages(conn, uuid4()) == []


async def test_ensure_session_is_idempotent(engine: AsyncEngine, session_id: UUID) -> None:
    assert session_id == session_uuid("ana", "t1")
    async with transaction(engine) as conn:
        assert await ensure_session(conn, user_id="ana", thread_id="t1", title="later") == session_id
        assert await conn.scalar(select(SessionRow.title)) is None


async def test_an_orm_session_serves_as_well(engine: AsyncEngine, session_id: UUID) -> None:
    async with AsyncSession(engine) as orm, orm.begin():
        assert await append_message(orm, session_id=session_id, role="user", content="x") == 1


async def test_the_actor_sees_the_append(engine: AsyncEngine, session_id: UUID) -> None:
    state = StateSnapshot.new(session_id, user_id="ana").to_json()
    async with transaction(engine) as conn:
        await conn.execute(update(SessionRow).values(state_snapshot=state, state_version=4))
        await append_message(conn, session_id=session_id, role="user", content="x")
        row = (await conn.execute(select(SessionRow.state_snapshot, SessionRow.state_version))).one()
    assert row.state_version == 5
    assert row.state_snapshot is not None
    assert StateSnapshot.load(row.state_snapshot).message_count == 1
    assert StateSnapshot.load(row.state_snapshot).user_id == "ana"


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"session_id": uuid4()}, NotFound, "no session"),
        ({"session_id": "t1"}, InvalidInput, "session_id"),
        ({"role": "wizard"}, InvalidInput, "wizard"),
        ({"run_id": "r1"}, InvalidInput, "run_id"),
    ],
)
async def test_refusals(
    engine: AsyncEngine, session_id: UUID, fields: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        async with transaction(engine) as conn:
            await append_message(conn, **{"session_id": session_id, "role": "user", "content": "x", **fields})


async def test_a_deleted_session_takes_nothing(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        await conn.execute(update(SessionRow).values(deleted_at=func.now()))
        with pytest.raises(Gone):
            await append_message(conn, session_id=session_id, role="user", content="x")
        with pytest.raises(Gone):
            await update_session_aggregate(conn, session_id)


async def test_totals_are_counted_and_added(engine: AsyncEngine, session_id: UUID) -> None:
    call = CallUsage(provider="p", model="m", input_tokens=10, output_tokens=5, cost=Decimal("0.1"))
    async with transaction(engine) as conn:
        await append_message(conn, session_id=session_id, role="user", content="x")
        await append_message(conn, session_id=session_id, role="assistant", content="y")
        await update_session_aggregate(conn, session_id, usage=call)
        await update_session_aggregate(conn, session_id, input_tokens=1, output_tokens=2, cost="0.0000000001")
        unpriced = UsageTotals().plus(call.model_copy(update={"cost": None}))
        total = await update_session_aggregate(conn, session_id, usage=unpriced)
        messages = await list_messages(conn, session_id)
    assert (total.message_count, total.last_message_at) == (2, messages[-1].created_at)
    assert (total.input_tokens, total.output_tokens, total.total_tokens) == (21, 12, 33)
    assert total.cost == Decimal("0.1000000001")
    assert total.unpriced_calls == 1


async def test_counting_again_changes_nothing(engine: AsyncEngine, session_id: UUID) -> None:
    async with transaction(engine) as conn:
        await append_message(conn, session_id=session_id, role="user", content="x")
        once = await update_session_aggregate(conn, session_id, title="Hello")
        assert await update_session_aggregate(conn, session_id) == once
        assert await conn.scalar(select(SessionRow.title)) == "Hello"


async def test_totals_of_an_unknown_session(engine: AsyncEngine) -> None:
    async with transaction(engine) as conn:
        with pytest.raises(NotFound):
            await get_session_aggregate(conn, uuid4())
        with pytest.raises(NotFound):
            await update_session_aggregate(conn, uuid4())


async def test_json_survives_the_database(engine: AsyncEngine, session_id: UUID) -> None:
    content = {"text": "né \U0001f600", "big": 2**70, "nested": [{"none": None}], "quoted": '"'}
    async with transaction(engine) as conn:
        await append_message(conn, session_id=session_id, role="user", content=content)
        (row,) = await list_messages(conn, session_id)
    # Beyond 64 bits a JSON number is read as a float, as every JavaScript client does.
    assert row.content == content | {"big": float(2**70)}


async def test_snapshot_reads_one_moment_and_writes_nothing(engine: AsyncEngine, session_id: UUID) -> None:
    async with snapshot(engine) as reader:
        assert await list_messages(reader, session_id) == []
        async with transaction(engine) as writer:
            await append_message(writer, session_id=session_id, role="user", content="x")
        assert await list_messages(reader, session_id) == []
        with pytest.raises(DBAPIError, match="read-only"):
            await append_message(reader, session_id=session_id, role="user", content="x")


async def test_a_lost_connection_reads_as_unavailable_once(engine: AsyncEngine, session_id: UUID) -> None:
    with pytest.raises(Unavailable, match="try again"):
        async with transaction(engine) as conn:
            await conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with connect(engine) as conn:
        assert await list_messages(conn, session_id) == []


async def test_an_unreachable_server_reads_as_unavailable(postgres_url: str) -> None:
    async with TcpProxy.for_url(postgres_url) as proxy:
        gone = proxy.url(postgres_url)
    engine = create_engine(gone)
    with pytest.raises(Unavailable):
        async with connect(engine):
            pass
    await engine.dispose()


async def test_a_wrong_statement_is_no_outage_and_shows_no_content(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with connect(engine) as conn:
            await conn.execute(
                text("SELECT no_such_function(status) FROM runs WHERE status = :secret"), {"secret": "hunter2"}
            )
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError("x"), ValueError("x"), KeyError("x")])
async def test_a_callers_own_mistake_is_no_outage(engine: AsyncEngine, error: Exception) -> None:
    with pytest.raises(type(error)):
        async with transaction(engine):
            raise error


async def test_an_exhausted_server_is_an_outage(postgres_url: str, engine: AsyncEngine) -> None:
    async with connect(engine) as conn:
        database = await conn.scalar(text("SELECT current_database()"))
        await conn.execute(text(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0'))
        await conn.execute(text("CREATE ROLE one_more LOGIN"))
        await conn.commit()
        other = create_engine(postgres_url.replace("callboard:callboard@", "one_more:x@"))
        with pytest.raises(Unavailable, match="TooManyConnectionsError"):
            async with connect(other):
                pass
        await conn.execute(text("DROP ROLE one_more"))
        await conn.commit()


async def test_connections_carry_their_name_and_their_limit(postgres_url: str) -> None:
    engine = create_engine(postgres_url, pool=1, name="callboard-test")
    async with connect(engine) as conn:
        name = await conn.scalar(text("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"))
    assert name == "callboard-test"
    assert engine.pool.size() == 1  # type: ignore[attr-defined]
    await engine.dispose()


async def test_what_a_vanished_process_had_locked_is_free_again(
    postgres_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard_runtime.persistence.database.IDLE_TRANSACTION", 0.3)
    frozen = create_engine(postgres_url)

    async def frozen_within_a_transaction() -> None:
        async with transaction(frozen) as conn:
            await conn.execute(text("SELECT 1 FROM partitions WHERE partition = 7 FOR SHARE"))
            async with asyncio.timeout(20):
                assert await take_partition(engine, 7, "another")
            await conn.execute(text("SELECT 1"))  # as if it woke up

    with pytest.raises(Unavailable):
        await frozen_within_a_transaction()
    await frozen.dispose()


async def test_a_server_that_vanished_holds_neither_commits_nor_the_end(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMMAND_TIMEOUT", "CLOSE_TIMEOUT"):
        monkeypatch.setattr(f"callboard_actors.connections.{name}", 0.5)
    async with TcpProxy.for_url(postgres_url) as proxy, asyncio.timeout(60):
        connections = await Connections.open(Settings(database_url=proxy.url(postgres_url)), 2, "vanishing")
        await connections.fetch("SELECT 1")
        proxy.vanish()
        with pytest.raises(Unavailable):
            await connections.fetch("SELECT 1")
        assert [tuple(row) for row in await connections.fetch("SELECT 2")] == [(2,)]
        proxy.vanish()
        await connections.close()
        proxy.bury()


async def test_connections_to_a_server_that_vanished_are_left_in_time(
    postgres_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CLOSE_TIMEOUT", 0.2)
    proxy = await tcp_proxy(postgres_url)
    engine = database.create_engine(proxy.url(postgres_url), pool=3)
    opened = [await engine.connect() for _ in range(3)]
    raw = [(await connection.get_raw_connection()).driver_connection for connection in opened]
    for connection in opened:
        await connection.close()
    proxy.vanish()
    async with asyncio.timeout(10):  # each of them alone waits longer
        await database.close_engine(engine)
    for one in raw:
        one.terminate()
