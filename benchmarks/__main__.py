"""`python -m benchmarks`: run workloads, print their tables, keep them under benchmarks/results."""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.results import Result, markdown, publish, save
from benchmarks.sizes import QUICK, Sizes
from benchmarks.workloads import WORKLOADS
from benchmarks.workloads.chat import AGUI_CREWAI
from benchmarks.world import World, say

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
SEED = 1
COMPARED = ("ag-ui-crewai", "crewai", "litellm", "fastapi")
SPARE_FILES = 500  # what a front and the readers' process open besides streams


def main() -> int:
    """The exit code is 1 when a workload failed; the others are kept all the same."""
    options = _options()
    random.seed(SEED)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sizes = _sizes(options)
    if max(sizes.idle, sizes.storm, sizes.crowd + sizes.crowd_idle) + SPARE_FILES > most:
        say(f"at most {most} files may be open here: raise `ulimit -Hn`, or give a smaller --idle or --crowd-idle")
        return 2
    about = {**machine.describe(), "seed": SEED, "sizes": str(sizes)}
    if options.agui_crewai:
        about["compared"] = machine.packages_of(options.agui_crewai, COMPARED)
    with World() as world:
        world.workers = sizes.workers
        results, failed = _run(world, sizes, options.only or list(WORKLOADS))
    folder = save(options.out, results, about)
    say(f"results are in {folder}")
    if options.publish:
        publish(README, results, about, " ".join(["make bench", *_arguments()]))
    return 1 if failed else 0


def _run(world: World, sizes: Sizes, names: list[str]) -> tuple[list[Result], bool]:
    results: list[Result] = []
    for name in names:
        try:
            results.append(WORKLOADS[name](world, sizes))
        except Exception:  # noqa: BLE001 - one workload's failure leaves the others' figures
            say(f"{name} failed:")
            traceback.print_exc()
            continue
        print(markdown(results[-1]), end="\n\n", flush=True)
    return results, len(results) < len(names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="sizes that only show that everything works")
    parser.add_argument("--workers", type=int, default=1, help="Callboard worker processes")
    parser.add_argument("--idle", type=int, help="idle streams")
    parser.add_argument("--readers", type=int, help="active readers of one front (fan_out)")
    parser.add_argument("--crowd", type=int, help="active readers of one front, with a log behind them (readers)")
    parser.add_argument("--crowd-idle", type=int, help="idle streams beside them")
    parser.add_argument("--agui-crewai", help="Python of an environment that has ag-ui-crewai, to compare with it")
    parser.add_argument("--publish", action="store_true", help="put the tables into benchmarks/README.md")
    parser.add_argument("--out", type=Path, default=RESULTS / "latest", help="folder for the results")
    options = parser.parse_args()
    if unknown := set(options.only) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    if options.agui_crewai:
        os.environ[AGUI_CREWAI] = options.agui_crewai
    return options


def _arguments() -> list[str]:
    """What was given on the command line, as `make bench` takes it; absolute paths are this machine's, and left out."""
    given = ["…" if each.startswith("/") else each for each in sys.argv[1:] if each != "--publish"]
    return [f'ARGS="{" ".join(given)}"'] if given else []


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = replace(QUICK if options.quick else Sizes(), workers=options.workers)
    given = {
        name: getattr(options, name) for name in ("idle", "readers", "crowd", "crowd_idle") if getattr(options, name)
    }
    return replace(sizes, **given)


if __name__ == "__main__":
    sys.exit(main())
