"""`callboard load`: a load test of a deployment, from outside, that checks every event."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from callboard_runtime.errors import InvalidInput
from callboard_runtime.load.plan import MESSAGE, TOOL_MESSAGE, Plan
from callboard_runtime.load.progress import Progress, print_summary
from callboard_runtime.load.report import as_json, render
from callboard_runtime.load.stats import summarise
from callboard_runtime.load.tester import LoadTest, Outcome
from callboard_runtime.load.users import Tokens


def load(
    url: Annotated[str, typer.Argument(help="Address of the deployment, such as https://agents.example.com.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Users with one run each at a time.")] = 10,
    rate: Annotated[float | None, typer.Option(help="Runs per second instead, however many are in flight.")] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Most runs in flight with --rate.")] = 2000,
    duration: Annotated[float | None, typer.Option(help="Seconds in which runs begin; default 10.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="End after so many runs.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users that the runs belong to, with --jwt-secret.")] = None,
    runs_per_session: Annotated[int, typer.Option(min=1, help="Runs that follow each other in a session.")] = 1,
    reconnect_rate: Annotated[float, typer.Option(help="Share of streams that are cut and resumed, 0 to 1.")] = 0.0,
    frontend_tool: Annotated[float, typer.Option(help="Share of runs with a frontend tool, answered at once.")] = 0.0,
    approval: Annotated[float, typer.Option(help="Share of runs with an approval, given at once.")] = 0.0,
    think: Annotated[float, typer.Option(help="Seconds a user thinks between two runs, on average.")] = 0.0,
    agent: Annotated[str | None, typer.Option(help="agent_id to run.")] = None,
    message: Annotated[str, typer.Option(help="What the users write.")] = MESSAGE,
    tool_message: Annotated[str, typer.Option(help="What makes the model call `ui.confirm`.")] = TOOL_MESSAGE,
    approval_message: Annotated[
        str | None, typer.Option(help="What makes the model call a tool that needs approval.")
    ] = None,
    token: Annotated[str | None, typer.Option(envvar="CALLBOARD_LOAD_TOKEN", help="One bearer token for all.")] = None,
    jwt_secret: Annotated[
        str | None,
        typer.Option(envvar="CALLBOARD_LOAD_JWT_SECRET", help="HS256 secret to make a token for each user with."),
    ] = None,
    jwt_issuer: Annotated[str | None, typer.Option(help="`iss` of those tokens.")] = None,
    jwt_audience: Annotated[str | None, typer.Option(help="`aud` of those tokens.")] = None,
    patience: Annotated[float, typer.Option(help="Seconds without progress after which a run counts as failed.")] = 60,
    verify: Annotated[bool, typer.Option(help="Compare what came with the sessions' logs afterwards.")] = True,
    seed: Annotated[int, typer.Option(help="Chooses which runs are cut, and where.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Load a deployment with runs and check every event that comes back.

    Ends with exit code 1 if any event was lost, doubled, altered or out of order, or if no run succeeded. Each user may
    start as many runs per minute as CALLBOARD_HTTP__RUNS_PER_MINUTE says: spread them with --users and --jwt-secret.
    """
    if token and jwt_secret:
        raise InvalidInput("--token, --jwt-secret: name one of them")
    plan = Plan(
        concurrency=concurrency,
        rate=rate,
        max_in_flight=max_in_flight,
        duration=duration if duration is not None or runs is not None else 10.0,
        runs=runs,
        users=users or (concurrency if jwt_secret else 1),
        runs_per_session=runs_per_session,
        reconnect_share=reconnect_rate,
        frontend_tool_share=frontend_tool,
        approval_share=approval,
        think=think,
        agent_id=agent,
        message=message,
        tool_message=tool_message,
        approval_message=approval_message,
        patience=patience,
        verify=verify,
        seed=seed,
    ).checked()
    outcome = _run(url, plan, Tokens(token, jwt_secret, jwt_issuer, jwt_audience))
    raise typer.Exit(_tell(url, plan, outcome, report, json_file))


def _run(url: str, plan: Plan, tokens: Tokens) -> Outcome:
    progress = Progress(Console(stderr=True))
    try:
        test = LoadTest(url, plan, tokens, progress.count)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_shown(test, progress))
    except ValueError as error:
        raise InvalidInput(str(error)) from None


async def _shown(test: LoadTest, progress: Progress) -> Outcome:
    showing = asyncio.create_task(progress.show(test))
    try:
        return await test.run()
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


def _tell(url: str, plan: Plan, outcome: Outcome, report: Path | None, json_file: Path | None) -> int:
    """Print and write the figures; returns the exit code."""
    summary, now = summarise(outcome), datetime.now(UTC)
    print_summary(Console(), summary)
    if report is not None:
        report.write_text(render(url, plan, outcome, summary, now), "utf-8")
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(url, plan, summary, now), indent=1) + "\n", "utf-8")
    return 1 if outcome.broken or not summary.succeeded else 0


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
