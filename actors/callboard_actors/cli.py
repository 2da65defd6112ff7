"""`callboard actors`: one process of session actors; start as many as you like."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable

from callboard_runtime.settings import Settings


def actors() -> None:
    """Run session actors: they take commands, commit them and wake the workers. Start any number of processes."""
    settings = Settings()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signalled(settings))


async def _until_signalled(settings: Settings) -> None:
    from callboard_actors.wiring import run_actors  # late: the command line lists its commands without FastStream

    serving = asyncio.create_task(run_actors(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        # Once only: a supervisor's second signal must not cut the hand-over short.
        asyncio.get_running_loop().add_signal_handler(number, _once(serving.cancel))
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _once(action: Callable[[], object]) -> Callable[[], None]:
    done = False

    def first() -> None:
        nonlocal done
        if not done:
            done = True
            action()

    return first


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
