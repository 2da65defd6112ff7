"""`callboard sessions`: everybody's sessions, for those who run the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard_runtime.cli import completion
from callboard_runtime.cli.options import After, Json, User

if TYPE_CHECKING:
    from callboard_runtime.inspection.views import RunLine, SessionDetail, SessionLine

app = typer.Typer(help="List and show sessions of all users.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = ("session", "user", "status", "changed", "messages", "tokens", "cost")


@app.command("list")
def list_sessions(
    user: User = None,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="idle, active, awaiting_input or deleted; several with commas.",
            autocompletion=completion.session_statuses,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most sessions to list.")] = 50,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List sessions, the one that changed last first; what users wrote is left out."""
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_page

    page = service.sessions(user, status, limit, after)
    print_page(page, COLUMNS, map(_row, page.sessions), as_json=as_json)


@app.command()
def show(
    which: Annotated[
        str, typer.Argument(help="A session's threadId, or its internal id.", autocompletion=completion.session_ids)
    ],
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show one session and its newest runs; that you looked is noted in the audit log."""
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_json, print_table
    from callboard_runtime.cli.runs import COLUMNS as RUN_COLUMNS
    from callboard_runtime.cli.runs import row

    detail, runs = service.session(which, user)
    if as_json:
        print_json({**detail.model_dump(mode="json"), "runs": [run.model_dump(mode="json") for run in runs]})
        return
    print_table(("what", "value"), _facts(detail, runs))
    print()
    print_table(RUN_COLUMNS, map(row, runs))


def _row(line: SessionLine) -> tuple[str, ...]:
    from callboard_runtime.cli.told import ago, money

    usage = line.usage
    counts = (str(line.message_count), str(usage.total_tokens), money(usage.cost, usage.unpriced_calls))
    return (line.session_id, line.user_id, line.status, ago(line.updated_at), *counts)


def _facts(detail: SessionDetail, runs: tuple[RunLine, ...]) -> list[tuple[str, str]]:
    from callboard_runtime.cli.told import ago, plain

    active = next((run.run_id for run in runs if run.id == detail.active_run), plain(detail.active_run))
    pairs = {
        "title": plain(detail.title),
        "active run": active,
        "queued runs": str(len(detail.queued_runs)),
        "last event": plain(detail.last_event_id),
        "epoch": str(detail.epoch),
        "partition": f"{detail.partition}, written by {detail.partition_owner or 'nobody yet'}",
        "deleted": ago(detail.deleted_at),
        "internal id": str(detail.session.id),
    }
    return [*zip(COLUMNS, _row(detail.session), strict=True), *((name, text) for name, text in pairs.items() if text)]
