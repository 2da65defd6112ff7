"""The broker as a supervised child process: `python -m callboard_runtime.embedded.amqp`.

Writes its port to `--port-file` when it listens, ends on SIGTERM or SIGINT, and with `--parent-pid` also when
that process is gone.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from callboard_runtime.embedded.amqp.server import EmbeddedBroker

logger = logging.getLogger(__name__)

PASSWORD_VARIABLE = "CALLBOARD_EMBEDDED_AMQP_PASSWORD"  # noqa: S105 - the name of a variable
_PARENT_CHECK = 1.0  # seconds


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m callboard_runtime.embedded.amqp", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--user", default="callboard")
    parser.add_argument("--password", help=f"better given in {PASSWORD_VARIABLE}, which other users cannot read")
    parser.add_argument("--port-file", type=Path, help="receives the port once the broker listens")
    parser.add_argument("--parent-pid", type=int, help="end when this process is gone")
    parser.add_argument("--log-level", default="WARNING")
    arguments = parser.parse_args(argv)
    arguments.password = arguments.password or os.environ.get(PASSWORD_VARIABLE)
    if not arguments.password:
        parser.error(f"a password is needed: --password or {PASSWORD_VARIABLE}")
    return arguments


async def serve(arguments: argparse.Namespace) -> None:
    """Run until a signal, or the parent's end, says stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows loops have no signal handlers
            loop.add_signal_handler(number, stopping.set)
    broker = EmbeddedBroker(arguments.user, arguments.password)
    await broker.start(arguments.host, arguments.port)
    if arguments.port_file is not None:
        write_port(arguments.port_file, broker.port)
    await _until_stopped(stopping, arguments.parent_pid)
    await broker.stop()


def write_port(path: Path, port: int) -> None:
    """Atomically, so that a reader sees the whole number or no file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(f"{port}\n")
    draft.replace(path)


def parent_is_gone(parent_pid: int, first_parent: int) -> bool:
    """Being adopted by someone else tells the direct child at once; others have to ask for the process."""
    if first_parent == parent_pid:
        return os.getppid() != parent_pid
    try:
        os.kill(parent_pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


async def _until_stopped(stopping: asyncio.Event, parent_pid: int | None) -> None:
    first_parent = os.getppid()
    while not stopping.is_set():
        if parent_pid is not None and parent_is_gone(parent_pid, first_parent):
            logger.warning("parent process is gone", extra={"action": "amqp_orphaned"})
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), None if parent_pid is None else _PARENT_CHECK)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    logging.basicConfig(level=arguments.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(arguments))
    else:
        uvloop.run(serve(arguments))


if __name__ == "__main__":
    main()
