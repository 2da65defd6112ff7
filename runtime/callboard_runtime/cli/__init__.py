"""The command line: `up` for one terminal; `http`, `actors` and `worker` for production; the rest to operate."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from callboard_runtime.cli import agents, approvals, config, dlq, migrate, runs, sessions, status, webhooks
from callboard_runtime.cli.processes import add_documents, add_load, add_processes
from callboard_runtime.cli.running import COMMANDS, use_running_services
from callboard_runtime.errors import CallboardError, ConfigError, InvalidInput, SettingsError, Unavailable

_EPILOG = """
Start with `callboard up`: it brings its own PostgreSQL, Valkey and message broker and prints the address of the
playground. In production run `callboard migrate` once per release, then any number of `http`, `actors` and `worker`
processes. Settings come from CALLBOARD_… variables and from .env: see `callboard config env-example`.

`status`, `runs`, `sessions`, `approvals`, `agents`, `webhooks` and `dlq` look at the configured services, else at those
of a `callboard up` on this machine; with --json they print what programs can read. `--install-completion` teaches them
to your shell. Exit codes: 0 done; 1 failed, or `status` or a check found something wrong; 2 wrong usage or settings.
"""

_NEXT: tuple[tuple[type[CallboardError], str], ...] = (
    (SettingsError, "`callboard config show` prints the settings as they are read"),
    (ConfigError, "`callboard agents validate` checks the whole agent configuration"),
    (Unavailable, "is the server running, and is its URL right? `callboard config show` prints it"),
)


def main() -> None:
    """Run the `callboard` command; exit code 2 for wrong usage or settings, 1 for any other error."""
    command = typer.main.get_command(build_app())
    try:
        command(prog_name="callboard")
    except CallboardError as error:
        if "--debug" in sys.argv[1:]:
            raise
        sys.exit(report(error))


def report(error: CallboardError) -> int:
    """Print an error as one line, with what to do next, and return the exit code."""
    message = " ".join(error.message.split())
    print(f"error: {message}", file=sys.stderr)
    hint = next((text for kind, text in _NEXT if isinstance(error, kind)), None)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return 2 if isinstance(error, SettingsError | InvalidInput) else 1


def build_app() -> typer.Typer:
    """The command tree; the processes' own modules are imported when they are started."""
    app = typer.Typer(
        name="callboard",
        help="An agent backend that never loses a turn.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    add_processes(app)
    app.command("migrate")(migrate.migrate)
    app.command("status")(status.status)
    app.add_typer(runs.app, name="runs")
    app.add_typer(sessions.app, name="sessions")
    app.add_typer(approvals.app, name="approvals")
    app.add_typer(agents.app, name="agents")
    app.add_typer(config.app, name="config")
    app.add_typer(dlq.app, name="dlq")
    app.add_typer(webhooks.app, name="webhooks")
    add_load(app)
    add_documents(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"callboard {metadata.version('callboard')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options that come before the command; `main` reads --debug itself, as it also covers what happens before."""
    if context.invoked_subcommand in COMMANDS and not {"--help", "--files-only"} & set(sys.argv):
        use_running_services()
