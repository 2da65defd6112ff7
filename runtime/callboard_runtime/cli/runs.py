"""`callboard runs`: everybody's runs, and all there is to know of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard_runtime.cli import completion
from callboard_runtime.cli.options import After, Json, User

if TYPE_CHECKING:
    from callboard_runtime.inspection.views import RunDetail, RunLine

app = typer.Typer(help="List and show runs of all users.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = ("run", "session", "user", "agent", "status", "begun", "took", "calls", "tokens", "cost")


@app.command("list")
def list_runs(
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="queued, running, awaiting_input, cancelling, succeeded, failed or cancelled; several with commas.",
            autocompletion=completion.run_statuses,
        ),
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this agent_id.")] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", help="Of this threadId or internal id.", autocompletion=completion.session_ids),
    ] = None,
    newer_than: Annotated[str | None, typer.Option("--newer-than", help="Such as 30s, 10m, 2h, 7d.")] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", help="Such as 30s, 10m, 2h, 7d.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most runs to list.")] = 50,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first; what users wrote is left out."""
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_page

    page = service.runs(status, agent, session, newer_than, older_than, limit, after)
    print_page(page, COLUMNS, map(row, page.runs), as_json=as_json)


@app.command()
def show(
    which: Annotated[str, typer.Argument(help="A runId, or an internal id.", autocompletion=completion.run_ids)],
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show one run: legs, attempts, journal, model calls, what it waits for, audit; that you looked is noted."""
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_json

    detail = service.run(which, user)
    if as_json:
        print_json(detail.model_dump(mode="json"))
    else:
        _tell(detail)


def row(line: RunLine) -> tuple[str, ...]:
    """A run as a row under `COLUMNS`."""
    from callboard_runtime.cli.told import ago, money, took

    usage, status = line.usage, line.status + (f" {line.error_code}" if line.error_code else "")
    times = (ago(line.created_at), took(line.started_at, line.ended_at))
    counts = (str(line.calls), str(usage.total_tokens), money(usage.cost, usage.unpriced_calls))
    return (line.run_id, line.session_id, line.user_id, line.agent_id, status, *times, *counts)


def _tell(detail: RunDetail) -> None:
    from callboard_runtime.cli.output import print_table
    from callboard_runtime.cli.told import section

    print_table(("what", "value"), _facts(detail))
    waits = ("tool", "status", "arguments", "interrupt")
    section("waits for", waits, _open_calls(detail))
    section("attempts", ("epoch", "leg", "process", "outcome", "begun", "took"), _attempts(detail))
    section("journal", ("step", "kind", "status", "epoch", "took", "key"), _steps(detail))
    calls = ("stage", "model", "status", "in", "out", "cost", "first token", "latency")
    section("model calls", calls, _calls(detail))
    section("audit", ("when", "who", "did", "to"), _audit(detail))
    if detail.cut:
        print(f"\nonly the newest rows are shown of: {', '.join(detail.cut)}")


def _facts(detail: RunDetail) -> list[tuple[str, str]]:
    from callboard_runtime.cli.told import ago

    pairs = {
        "error": detail.error_message or "",
        "legs": str(len(detail.legs)),
        "deadline": ago(detail.deadline) if detail.run.status in ("queued", "running", "cancelling") else "",
        "internal id": str(detail.run.id),
    }
    return [*zip(COLUMNS, row(detail.run), strict=True), *((name, text) for name, text in pairs.items() if text)]


def _open_calls(detail: RunDetail) -> list[tuple[str, ...]]:
    from callboard_runtime.persistence.database import dump_json

    return [
        (call.tool_name, call.status, dump_json(call.args), call.interrupt_id or "(the client's own tool)")
        for call in detail.open_calls
    ]


def _attempts(detail: RunDetail) -> list[tuple[str, ...]]:
    from callboard_runtime.cli.told import ago, took

    return [
        (str(a.epoch), str(a.leg), a.process, a.outcome or "running", ago(a.started_at), took(a.started_at, a.ended_at))
        for a in detail.attempts
    ]


def _steps(detail: RunDetail) -> list[tuple[str, ...]]:
    from callboard_runtime.cli.told import took

    return [
        (s.name, s.kind, s.status, str(s.epoch), took(s.begun_at, s.recorded_at) if s.recorded_at else "", s.key)
        for s in detail.steps
    ]


def _calls(detail: RunDetail) -> list[tuple[str, ...]]:
    from callboard_runtime.cli.told import money

    return [
        (
            call.stage,
            call.model,
            call.status + (" (estimated)" if call.estimated else ""),
            str(call.input_tokens),
            str(call.output_tokens),
            money(call.cost),
            _ms(call.first_token_ms),
            _ms(call.latency_ms),
        )
        for call in detail.calls
    ]


def _audit(detail: RunDetail) -> list[tuple[str, ...]]:
    from callboard_runtime.cli.told import ago

    return [(ago(line.at), line.actor, line.action, line.subject or "") for line in detail.audit]


def _ms(value: int | None) -> str:
    return "" if value is None else f"{value} ms"
