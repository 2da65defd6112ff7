"""How long a session waits for another actor when its own dies or freezes: measured with the settings as shipped.

From the blow until a command for a partition of that actor is committed by another process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from chaos.rounds import installation
from front_client import FrontClient, fresh, run_input
from services.session import Services
from stack import Callboard, Node, Zygote

SHIPPED = {
    "CALLBOARD_ACTORS__SILENT_AFTER": "10",
    "CALLBOARD_ACTORS__SWEEP": "1",
    "CALLBOARD_ACTORS__STANDBY_DELAY": "1",
    "CALLBOARD_WORKER__HEARTBEAT": "2",
}


async def measure(services: Services, zygote: Zygote, folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds, by what was done to the actor: `kill`, and `freeze`."""
    found: dict[str, list[float]] = {"kill": [], "freeze": []}
    async with installation(services, zygote, folder, settings=SHIPPED, heartbeat=10) as it:
        for number in range(times):
            found["kill"].append(await _once(it.callboard, Node.kill))
            if number < max(1, times // 4):  # these take half a minute each
                found["freeze"].append(await _once(it.callboard, Node.pause))
    return found


async def _once(callboard: Callboard, blow: Callable[[Node], None]) -> float:
    await asyncio.to_thread(lambda: callboard.ensure(http=2, actors=2, worker=1))
    async with callboard.client(fresh("user")) as client:
        threads = [fresh("thread") for _ in range(12)]
        await asyncio.gather(*(_post(client, thread) for thread in threads))
        victim = callboard.of("actors")[0]
        await asyncio.to_thread(blow, victim)
        began = time.monotonic()
        await asyncio.gather(*(_post(client, thread) for thread in threads))  # half of them were the victim's
        return time.monotonic() - began


async def _post(client: FrontClient, thread: str) -> None:
    body = run_input("key:takeover talk 1", thread=thread, run=fresh("run"), forwardedProps={"agentId": "chat"})
    answer = await client.post_until_taken(body)
    assert answer.status == 202, answer


def shown(found: dict[str, list[float]]) -> str:
    return "; ".join(
        f"{name}: {len(seconds)} times, median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s"
        for name, seconds in found.items()
    )
