"""`make chaos`: rounds for ten minutes, or the planted bugs (`ARGS=--plants`); exits 1 with the seed on a violation."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos import plants, takeover
from chaos.rounds import Installation, Result, installation, table
from services.session import Services
from stack import Zygote

ROUND = {"sessions": 6, "turns": 3, "blows": 8, "heavy": True}
PLANT_ROUND = {"sessions": 8, "turns": 2, "heavy": False, "end_within": 30.0}
PLANT_ROUNDS = 8  # rounds in which a planted bug must be found
console = Console()


def main() -> int:
    options = _options()
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # else it tells of every try while the broker is taken away
    services = Services()
    folder = Path(tempfile.mkdtemp(prefix="callboard-chaos-"))
    folder.chmod(0o755)
    zygote, status = Zygote(folder), 1
    try:
        status = asyncio.run(_run(options, services, zygote, folder))
    finally:
        zygote.stop()
        services.stop()
        if status == 0:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"the logs are in {folder}", highlight=False, soft_wrap=True)
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description="Fault injection on real processes.")
    parser.add_argument("--seed", type=int, help="repeat the rounds of this seed")
    parser.add_argument("--minutes", type=float, default=10, help="how long to go on (default 10)")
    parser.add_argument("--plants", nargs="*", metavar="NAME", help="plant each bug, or the named ones, and find it")
    parser.add_argument(
        "--takeovers", type=int, metavar="N", help="kill N actors, freeze a few, and tell how long it took"
    )
    return parser.parse_args()


async def _run(options: argparse.Namespace, services: Services, zygote: Zygote, folder: Path) -> int:
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    if options.plants is not None:
        return await _find_plants(options.plants or list(plants.EVERY), seed, services, zygote, folder)
    if options.takeovers:
        found = await takeover.measure(services, zygote, folder / "takeover", options.takeovers)
        console.print(takeover.shown(found), highlight=False, soft_wrap=True)
        return 0
    result = Result(seed)
    async with installation(services, zygote, folder / "chaos") as it:
        await _rounds(it, seed, options.minutes * 60, result)
    _report(result)
    return 1 if result.broken else 0


async def _rounds(it: Installation, seed: int, seconds: float, result: Result) -> None:
    """Rounds until the next one would, as they go, not end in time."""
    began, number = time.monotonic(), 0
    while not result.broken and (time.monotonic() - began) * (number + 1) <= seconds * max(number, 1):
        await it.round(seed + 10 * number, result=result, **ROUND)
        number += 1
        console.print(
            f"{time.monotonic() - began:.0f} of {seconds:.0f} s, round {number}: {result.accepted} runs, "
            f"{sum(result.blows.values())} blows, {sum(result.examined.values())} checks, "
            f"{sum(map(len, result.broken.values()))} violations",
            highlight=False,
        )


async def _find_plants(names: list[str], seed: int, services: Services, zygote: Zygote, folder: Path) -> int:
    missed: list[str] = []
    for name in names:
        began, result, scene = time.monotonic(), Result(seed), plants.scene(name)
        blows = len(scene.blows) + (0 if scene.only else 2)
        async with installation(services, zygote, folder / name, plant=name) as it:
            for number in range(PLANT_ROUNDS):
                await it.round(
                    seed + 10 * number,
                    result=result,
                    blows=blows,
                    first=scene.blows,
                    kinds=scene.kinds,
                    **PLANT_ROUND,
                )
                if scene.promises & result.broken.keys():
                    break
        found = [f"promise {number}: {what[0]}" for number, what in result.broken.items() if number in scene.promises]
        shown = found[0][:160] if found else f"NOT FOUND {result.broken}"
        console.print(f"{name}: {time.monotonic() - began:.0f} s, {shown}", highlight=False, soft_wrap=True)
        missed += [] if found else [name]
    console.print(
        f"{len(names) - len(missed)} of {len(names)} bugs found{': not ' if missed else ''}{', '.join(missed)}"
    )
    return 1 if missed else 0


def _report(result: Result) -> None:
    console.print(table([result]))
    console.print(
        f"seed {result.seed}: {result.seconds:.0f} s, {result.turns} turns, {result.accepted} runs accepted, "
        f"{dict(result.statuses)}, {result.calls} model calls ({result.lost} lost with their process), "
        f"cost {result.cost}, {result.reconnects} reconnects, {result.refused} commands refused by a full queue\n"
        f"{sum(result.blows.values())} blows: {dict(sorted(result.blows.items()))}",
        highlight=False,
        soft_wrap=True,
    )
    for promise, what in result.broken.items():
        for item in what[:5]:
            console.print(f"[red]promise {promise}:[/red] {item}", highlight=False, soft_wrap=True)
    if result.broken:
        console.print(f"repeat with: make chaos ARGS='--seed {result.seed}'")


if __name__ == "__main__":
    sys.exit(main())
