"""The container's health check believes a heartbeat of its own host, and only a fresh one."""

import runpy
from pathlib import Path

import asyncpg
import pytest

HEALTH = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "container_health.py"))
_BEAT = "INSERT INTO processes (id, kind, host, beat_at) VALUES ('p', $1, $2, now() - make_interval(secs => $3))"


@pytest.mark.parametrize(
    ("kind", "host", "age", "well"),
    [
        ("worker", "here", 1, True),
        ("worker", "here", 11, False),
        ("worker", "elsewhere", 1, False),
        ("actors", "here", 1, False),
    ],
)
async def test_a_worker_is_well_while_it_beats(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, kind: str, host: str, age: int, *, well: bool
) -> None:
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    await connection.execute(_BEAT, kind, host, age)
    await connection.close()
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", postgres_url)
    assert await HEALTH["beats"]("worker", "here") is well
