"""`python -m benchmarks.worker_cuts`: processor ms of a kick-off with a streamed answer, with one cut undone at a time.

Each case is a process of its own, which makes one run after the other: 64 tokens, the model without pauses.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import program

RUNS, WARM = 150, 20


def _litellms_wrapper() -> None:
    from callboard_runtime.llm import provider

    provider.is_openai_shaped = lambda raw, name: False


def _litellms_extras() -> None:
    from callboard_runtime.llm import setup

    setup.apply_trims = lambda: None


def _crewais_listeners() -> None:
    from callboard_runtime.crew import factory

    factory.apply_trims = lambda: None


def _crewais_threads() -> None:
    from callboard_runtime.crew import runtime

    runtime.prepare_loop = lambda loop, concurrency: None


UNDONE: dict[str, Callable[[], None]] = {
    "nothing undone": lambda: None,
    "LiteLLM's own wrapper around the stream": _litellms_wrapper,
    "what LiteLLM and OpenAI's SDK do for each request": _litellms_extras,
    "CrewAI's listeners, records and look for files": _crewais_listeners,
    "threads for what only makes a request": _crewais_threads,
}


async def _measured() -> float:
    from benchmarks.programs.crew import SETTINGS, FirstText, brief
    from callboard_runtime.agui.stream import RunStream
    from callboard_runtime.crew import runtime
    from callboard_runtime.crew.memory_journal import MemoryJournal
    from callboard_runtime.garbage import leave_loaded_alone
    from callboard_runtime.llm.setup import warm_up

    warm_up(SETTINGS)
    leave_loaded_alone()
    runtime.prepare_loop(asyncio.get_running_loop(), SETTINGS.worker.concurrency)
    for number in range(WARM + RUNS):
        if number == WARM:
            began = time.process_time()
        given = brief("64 tokens at 0 ms")
        outcome = await runtime.CrewAIRuntime(given, MemoryJournal(), RunStream(FirstText()), SETTINGS).run()
        assert outcome.text.split()[-1] == "word63"
    return 1000 * (time.process_time() - began) / RUNS


def main() -> None:
    if len(sys.argv) > 2:
        import uvloop

        UNDONE[sys.argv[1]]()
        print(f"{uvloop.run(_measured()):.1f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        model, url = program("model", Path(folder))
        try:
            for name in UNDONE:
                argv = [sys.executable, "-m", "benchmarks.worker_cuts", name, f"{url}/v1"]
                found = subprocess.run(argv, check=True, capture_output=True, text=True)
                print(f"{name}: {found.stdout.splitlines()[-1]} ms")
        finally:
            model.stop()


if __name__ == "__main__":
    main()
