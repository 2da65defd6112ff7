"""`callboard status`: is everything there, and what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from callboard_runtime.cli.options import Json

if TYPE_CHECKING:
    from callboard_runtime.inspection.views import Backlog, Depth, ProcessLine, Service, Status


def status(as_json: Json = False) -> None:
    """Show services, processes, queues and backlog.

    Ends with exit code 1 when something is wrong, and says what to do about it.
    """
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_json

    found = service.status()
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _tell(found)
    raise typer.Exit(1 if found.problems else 0)


def _tell(found: Status) -> None:
    from callboard_runtime.cli.told import section

    section("services", ("service", "state", "problem"), map(_service, found.services))
    columns = ("process", "kind", "state", "last beat", "runs at work", "slots free")
    section("processes", columns, map(_process, found.processes or ()))
    if found.backlog is not None:
        section("runs", ("status", "runs", "oldest"), _backlog(found.backlog))
    section("queues", ("queue", "waiting", "consumers"), map(_queue, found.queues or ()))
    print()
    print("\n".join(f"problem: {problem}" for problem in found.problems) or "all is well")


def _service(service: Service) -> tuple[str, ...]:
    return (service.name, "reachable" if service.reachable else "AWAY", service.problem or "")


def _process(process: ProcessLine) -> tuple[str, ...]:
    from callboard_runtime.cli.told import span

    state = "alive" if process.alive else "SILENT"
    load = (str(len(process.attempts)), str(process.slots)) if process.kind == "worker" else ("", "")
    return (process.id, process.kind, state, f"{span(process.silent)} ago", *load)


def _backlog(backlog: Backlog) -> list[tuple[str, ...]]:
    from callboard_runtime.cli.told import ago

    most = backlog.counted_to
    rows = [(line.status, _counted(line.runs, most), ago(line.oldest)) for line in backlog.runs]
    return [*rows, ("(messages to be sent)", _counted(backlog.outbox_due, most), ago(backlog.outbox_oldest))]


def _queue(queue: Depth) -> tuple[str, ...]:
    missing = f" ({queue.missing} not declared)" if queue.missing else ""
    return (queue.name, str(queue.messages), f"{queue.consumers}{missing}")


def _counted(count: int, most: int) -> str:
    return f"over {most}" if count >= most else str(count)
