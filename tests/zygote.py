"""A process that has imported everything and runs nothing: it forks a Callboard process in milliseconds on request.

Importing CrewAI takes many seconds; a fault test starts workers again and again. Nothing is kicked off in this process
and no connection is opened: a child starts as a fresh `callboard` command would, only with its modules loaded; and with
the bug that CALLBOARD_TEST_PLANT names, by which the chaos suite tests its checker.

In:  one JSON object per packet on the inherited socket: `{"start": argv, "env": {…}, "log": path}` or `{"code": pid}`
Out: `{"pid": n}`, or `{"code": exit code, null while it runs}`; first of all `{"ready": seconds}`
"""

import ctypes
import gc
import json
import os
import random
import signal
import socket
import sys
import time
from importlib import import_module

_PR_SET_PDEATHSIG = 1
_PACKET = 256 * 1024
_MODULES = (
    "callboard_runtime.llm.libraries",
    "callboard_runtime.crew.runtime",
    "callboard_runtime.entry.tasks",
    "callboard_runtime.cli.worker",
    "callboard_actors.wiring",
    "callboard_http.app",
    "celery.bin.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "uvloop",
)


def serve(channel: socket.socket) -> None:
    """Answer requests until the other end is closed; returns in the children, whose command is then to be run."""
    codes: dict[int, int] = {}
    while packet := channel.recv(_PACKET):
        _reap(codes)
        request = json.loads(packet)
        if "start" not in request:
            channel.send(json.dumps({"code": codes.get(request["code"])}).encode())
            continue
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            channel.close()
            _become(request, parent)
            return
        channel.send(json.dumps({"pid": pid}).encode())
    os._exit(0)


def _reap(codes: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        codes[pid] = os.waitstatus_to_exitcode(status)


def _become(request: dict[str, object], parent: int) -> None:
    """Make this fork look like a process of its own."""
    os.setsid()
    _die_with(parent)
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    os.environ.update(request["env"])  # type: ignore[arg-type]
    if folder := os.environ.get("CALLBOARD_TEST_PACKAGES"):  # behind everything that is installed
        sys.path.append(folder)
    sys.argv = list(request["start"])  # type: ignore[call-overload]
    random.seed()
    if name := os.environ.get("CALLBOARD_TEST_PLANT"):
        import_module("chaos.plants").apply(name)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Import, then serve on the socket whose descriptor is the first argument."""
    began = time.monotonic()
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in _MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, what the children share
    channel.send(json.dumps({"ready": round(time.monotonic() - began, 1)}).encode())
    serve(channel)
    import_module("callboard_runtime.cli").main()


if __name__ == "__main__":
    main()
