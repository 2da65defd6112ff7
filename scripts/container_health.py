"""The container's health check: whether its process lives, or with `ready` as argument, whether it can work now.

A front is asked over HTTP, the others too where they have a metrics port; else whether the database has heard of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

KINDS = ("http", "actors", "worker")
# Processes beat every two seconds, and are taken for dead after ten.
_BEATING = """
    SELECT count(*) FROM processes
    WHERE kind = :kind AND host = :host AND beat_at > now() - interval '10 seconds'
"""


def main() -> int:
    """0 when the container's own process is well; any other command than the three has no health."""
    kind = running_kind(Path("/proc/1/cmdline").read_bytes())
    if kind is None:
        return 0
    port = port_of(kind, os.environ)
    path = "readyz" if "ready" in sys.argv[1:] else "healthz"
    well = answers(port, path) if port else asyncio.run(beats(kind, socket.gethostname()))
    if not well:
        print(f"{kind}: not well", file=sys.stderr)
    return 0 if well else 1


def running_kind(command_line: bytes) -> str | None:
    """Which kind of process the container's first one is, by its arguments."""
    words = command_line.decode().split("\0")
    return next((word for word in words if word in KINDS), None)


def port_of(kind: str, environment: Mapping[str, str]) -> str | None:
    """Where this kind of process answers; None for one without a metrics port."""
    if kind == "http":
        return environment.get("CALLBOARD_HTTP__PORT") or "8000"
    return environment.get("CALLBOARD_METRICS__PORT") or None


def answers(port: str, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


async def beats(kind: str, host: str) -> bool:
    from sqlalchemy import text

    from callboard_runtime.persistence.database import connect, create_engine
    from callboard_runtime.settings import Settings

    engine = create_engine(Settings().required_database_url(), pool=0)
    try:
        async with connect(engine) as connection:
            count = await connection.scalar(text(_BEATING), {"kind": kind, "host": host})
            return bool(count)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
