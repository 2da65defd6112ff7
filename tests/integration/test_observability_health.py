"""Readiness of an actors process while its services go away and come back, asked over its own port."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from callboard_actors import wiring
from callboard_actors.wiring import run_actors
from callboard_runtime.embedded.paths import free_port
from callboard_runtime.entry.loop_thread import LoopThread
from callboard_runtime.errors import SettingsError
from callboard_runtime.observe import endpoint, health
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import MetricsSettings, Settings
from services.proxy import TcpProxy
from waiting import until

Answer = tuple[int, dict[str, Any]]


async def ask(port: int, path: str) -> Answer | None:
    def get() -> Answer | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except urllib.error.URLError:
            return None

    return await asyncio.to_thread(get)


@asynccontextmanager
async def without_table(postgres_url: str, table: str) -> AsyncGenerator[None]:
    """As before the migration that brings it."""
    engine = create_engine(postgres_url, pool=1)
    async with engine.begin() as db:
        await db.exec_driver_sql(f"ALTER TABLE {table} RENAME TO to_come")
    yield
    async with engine.begin() as db:
        await db.exec_driver_sql(f"ALTER TABLE to_come RENAME TO {table}")
    await engine.dispose()


async def test_readiness_follows_the_services(
    postgres_url: str,
    redis_url: str,
    redis_prefix: str,
    embedded_amqp_url: str,
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A process sets its collector once; this one is pytest's, with what other tests have left.
    monkeypatch.setattr(wiring, "leave_loaded_alone", lambda: None)
    broker, database, port = await tcp_proxy(embedded_amqp_url), await tcp_proxy(postgres_url), free_port()
    settings = Settings(
        database_url=SecretStr(database.url(postgres_url)),
        amqp_url=SecretStr(broker.url(embedded_amqp_url)),
        redis_url=SecretStr(redis_url),
        redis_prefix=redis_prefix,
        metrics=MetricsSettings(port=port),
    )

    async def says(ready: bool, **checks: bool) -> bool:
        answer = await ask(port, "/readyz")
        return (
            answer is not None
            and answer[0] == (200 if ready else 503)
            and answer[1]["checks"] | checks == answer[1]["checks"]
        )

    await database.refuse()
    serving = asyncio.create_task(run_actors(settings))
    try:
        await until(lambda: says(False, started=False), "an answer before the services are there")
        assert await ask(port, "/healthz") == (200, {"status": "ok"})
        async with without_table(postgres_url, "partitions"):
            await database.accept()
            await until(lambda: "lacks a table: run `callboard migrate`" in caplog.text, "what it waits for")
            assert await says(False, started=False)
        await until(lambda: says(True, database=True, schema=True, broker=True), "readiness")
        for proxy, name in ((broker, "broker"), (database, "database")):
            await proxy.refuse()
            await until(lambda name=name: says(False, **{name: False}), f"unreadiness without the {name}")
            assert await ask(port, "/healthz") == (200, {"status": "ok"})
            await proxy.accept()
            await until(lambda: says(True, database=True, broker=True), f"readiness with the {name} back")
        async with without_table(postgres_url, "webhook_deliveries"):
            await until(lambda: says(False, database=True, schema=False), "unreadiness without a table")
        await until(lambda: says(True, schema=True), "readiness with the table back")
        assert (await ask(port, "/nowhere") or (0, {}))[0] == 404
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_processes_that_share_a_setting_take_ports_in_turn() -> None:
    settings = MetricsSettings(port=free_port())
    assert settings.port is not None
    with endpoint.serving(settings), endpoint.serving(settings):
        answers = [await ask(port, "/readyz") for port in range(settings.port, settings.port + 32)]
    assert answers.count((503, {"status": "unready", "checks": {"started": False}})) == 2
    assert await ask(settings.port, "/readyz") is None


def test_an_address_that_is_not_ours_is_refused() -> None:
    with (
        pytest.raises(SettingsError, match="CALLBOARD_METRICS__HOST"),
        endpoint.serving(MetricsSettings(port=free_port(), host="192.0.2.1")),
    ):
        pass


async def test_a_stuck_loop_is_not_ready_and_in_the_end_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOP_TIMEOUT", 0.05)
    monkeypatch.setattr(health, "DEAD_LOOP", 0.05)
    let_go, other, watched = threading.Event(), LoopThread("stuck"), health.Health()
    assert watched.alive()
    watched.watch(other.loop, {"database": lambda: True})
    other.loop.call_soon_threadsafe(let_go.wait)
    try:
        assert watched.report().checks == {"event_loop": False}
        assert not watched.alive()
    finally:
        let_go.set()
    await until(lambda: watched.report().ready and watched.alive(), "the loop to turn again")
    other.stop()
