"""The embedded broker as a child process: says its port, ends when told, and does not outlive its parent."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aio_pika
import pytest

from callboard_runtime.embedded.amqp.__main__ import PASSWORD_VARIABLE
from waiting import wait_until

PATIENCE = 30.0  # seconds; a busy machine starts interpreters slowly
SOURCE = Path(__file__).parents[2] / "runtime"


def _command(port_file: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "callboard_runtime.embedded.amqp", "--port-file", str(port_file), *arguments]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), **more}


def test_child_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    child = subprocess.Popen(
        _command(port_file, "--user", "me"),
        env=_environment(**{PASSWORD_VARIABLE: "p@ss/word"}),
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(port_file.exists, "the port", timeout=PATIENCE)
        asyncio.run(_declare_a_queue(int(port_file.read_text())))
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=PATIENCE)
        assert (child.returncode, errors) == (0, b"")
    finally:
        child.kill()
        child.wait()


async def _declare_a_queue(port: int) -> None:
    connection = await aio_pika.connect(host="127.0.0.1", port=port, login="me", password="p@ss/word")
    async with connection:
        await (await connection.channel()).declare_queue("q")


def test_a_password_is_required(tmp_path: Path) -> None:
    environment = {key: value for key, value in _environment().items() if key != PASSWORD_VARIABLE}
    done = subprocess.run(_command(tmp_path / "port"), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert PASSWORD_VARIABLE in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not kill parents this way")
def test_child_ends_when_its_parent_was_killed(tmp_path: Path) -> None:
    port_file, pid_file = tmp_path / "port", tmp_path / "pid"
    command = _command(port_file, "--password", "p")
    parent_source = (
        "import os, pathlib, subprocess, sys, signal\n"
        f"child = subprocess.Popen({command!r} + ['--parent-pid', str(os.getpid())])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_source], env=_environment())
    try:
        wait_until(port_file.exists, "the port", timeout=PATIENCE)
        child = int(pid_file.read_text())
        parent.kill()
        parent.wait()
        wait_until(lambda: not _is_running(child), "the end of the child", timeout=PATIENCE)
    finally:
        parent.kill()
        parent.wait()


def _is_running(pid: int) -> bool:
    """A zombie that nobody collects has ended, too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
