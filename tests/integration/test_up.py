"""`callboard up`, as a new user meets it: one command, one printed line that streams a run, Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

PATIENCE = 100.0  # seconds; CrewAI is imported, and the machine may be busy


@pytest.mark.timeout(240)
async def test_up_says_where_it_is_streams_the_printed_line_and_ends_on_ctrl_c() -> None:
    data = Path(os.environ.get("TMPDIR", "/tmp")) / f"callboard-up-{os.getpid()}"  # PostgreSQL's account must reach it
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "callboard_runtime.cli", "up", "--port", "0", "--data-dir", str(data)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "CALLBOARD_ENV_FILE": ""},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            said = (await process.stdout.readuntil(b"}'\n")).decode()
        assert re.search(r"playground: http://127\.0\.0\.1:\d+", said)
        assert "scripted model" in said
        line = said[said.index("curl -N") :]
        curl = await asyncio.create_subprocess_shell(
            line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            streamed, _ = await curl.communicate()
        assert b"RUN_STARTED" in streamed
        assert b"TEXT_MESSAGE_CONTENT" in streamed
        assert b"RUN_FINISHED" in streamed
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            rest, _ = await process.communicate()
        assert process.returncode == 0
        assert rest.decode().rstrip().endswith("callboard: stopped")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
