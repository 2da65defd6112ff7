"""The commands that start processes: found by name, imported only when run, so that each needs only its own extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import typer

from callboard_runtime.errors import SettingsError
from callboard_runtime.garbage import nothing_collected

GROUP = "callboard.commands"


@dataclass(frozen=True, slots=True)
class Process:
    """A command and where its function is: here, or in a package that says so with an entry point."""

    name: str
    help: str
    extra: str  # what to install
    target: str | None = None  # "module:function"; None: an entry point


PROCESSES = (
    Process(
        "up",
        "Run everything here, with embedded services.",
        "all",
        "callboard_runtime.cli.up:up",
    ),
    Process("http", "Run an HTTP front; start any number.", "http"),
    Process("actors", "Run session actors; start any number.", "actors"),
    Process(
        "worker", "Run a worker, which runs the crews; any number.", "worker", "callboard_runtime.cli.worker:worker"
    ),
)

DOCUMENTS = (
    Process("openapi", "Print the OpenAPI document of the HTTP API.", "http"),
    Process("asyncapi", "Print the AsyncAPI document of what goes over the broker.", "http"),
)
TRACED = ("http", "actors", "worker")

LOAD = Process("load", "Load a deployment with runs, and check every event.", "client")


def add_processes(app: typer.Typer) -> None:
    """Add the commands that are there, in order, and any that other packages bring."""
    entry_points = _entry_points()
    known = {process.name for process in (*PROCESSES, *DOCUMENTS)}
    others = [Process(name, f"From {target}.", "all") for name, target in entry_points.items() if name not in known]
    for process in (*PROCESSES, *others):
        target = process.target or entry_points.get(process.name)
        if target is not None and _exists(target):
            _add(app, process, target)


def add_load(app: typer.Typer) -> None:
    """Add the load tester, which starts no process but needs packages of its own."""
    _add(app, LOAD, "callboard_runtime.cli.load:load")


def add_documents(app: typer.Typer) -> None:
    """Add the commands that print the reference, if the front that it describes is there."""
    entry_points = _entry_points()
    for command in DOCUMENTS:
        target = entry_points.get(command.name)
        if target is not None and _exists(target):
            _add(app, command, target)


def _entry_points() -> dict[str, str]:
    return {entry.name: entry.value for entry in metadata.entry_points(group=GROUP)}


def _exists(target: str) -> bool:
    try:
        return find_spec(target.partition(":")[0]) is not None
    except ImportError:
        return False


def _add(app: typer.Typer, process: Process, target: str) -> None:
    options: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    def forward(ctx: typer.Context) -> None:
        with nothing_collected():
            command = _load(process, target)
        if "--help" not in ctx.args:
            _start_watching(process.name)
        command(args=list(ctx.args), prog_name=f"callboard {process.name}")

    app.command(process.name, help=process.help, context_settings=options, add_help_option=False)(forward)


def _start_watching(name: str) -> None:
    from callboard_runtime.cli.logs import start_logging
    from callboard_runtime.observe.start import start_tracing
    from callboard_runtime.settings import Settings

    settings = Settings()
    start_logging(settings.log_level, settings.log_format, settings)
    if name in TRACED:
        start_tracing(settings, name)


def _load(process: Process, target: str) -> Callable[..., None]:
    """The real command, with its own options and help; raises SettingsError when its packages are not installed."""
    module, _, name = target.partition(":")
    try:
        function = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        fix = f"pip install 'callboard[{process.extra}]'"
        raise SettingsError(f"`callboard {process.name}` needs {error.name}, which is not installed: {fix}") from error
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(process.name)(function)
    return typer.main.get_command(single)
