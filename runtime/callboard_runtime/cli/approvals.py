"""`callboard approvals`: what waits for a person, and the decision, which a front takes like anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard_runtime.cli import completion
from callboard_runtime.cli.options import After, Json

if TYPE_CHECKING:
    from callboard_runtime.inspection.views import ApprovalLine

app = typer.Typer(help="List open approvals, and decide on them.", no_args_is_help=True, rich_markup_mode=None)

Which = Annotated[
    str, typer.Argument(help="The interrupt, as `list` prints it.", autocompletion=completion.interrupt_ids)
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of a front; default: that of the settings."),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="CALLBOARD_TOKEN", help="Bearer token of who decides; `callboard up` needs none."),
]


@app.command("list")
def list_approvals(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most waiting runs to look at.")] = 50,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List the calls that wait for a decision, longest first; `callboard runs show` has their arguments."""
    from callboard_runtime.cli import approvals_service as service
    from callboard_runtime.cli.output import print_page

    page = service.pending(limit, after)
    columns = ("interrupt", "tool", "status", "run", "session", "user", "waits", "expires")
    print_page(page, columns, map(_row, page.approvals), as_json=as_json)


@app.command()
def approve(
    which: Which,
    args: Annotated[
        str | None, typer.Option("--args", help="JSON object of arguments that replace the model's.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Let a call happen.

    The front takes it as it takes any answer: the token's user must own the session, or have a role that may approve.
    """
    from callboard_runtime.cli import approvals_service as service

    _report("approved", service.decide(which, "approved", url, token, edited_args=service.arguments(args)), as_json)


@app.command()
def reject(
    which: Which,
    reason: Annotated[str | None, typer.Option("--reason", help="What the model is told.")] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Forbid a call; the run goes on without it."""
    from callboard_runtime.cli import approvals_service as service

    _report("rejected", service.decide(which, "rejected", url, token, reason=reason), as_json)


def _report(done: str, answer: dict[str, Any], as_json: bool) -> None:
    from callboard_runtime.cli.output import print_json

    if as_json:
        print_json(answer)
        return
    waiting = " (other answers are still missing)" if answer.get("status") == "awaiting_input" else ""
    print(f"{done}: run {answer['run_id']} is {answer['status']}{waiting}")


def _row(line: ApprovalLine) -> tuple[str, ...]:
    from callboard_runtime.cli.told import ago, took

    whose = (line.run_id, line.session_id, line.user_id)
    return (line.interrupt_id, line.tool_name, line.status, *whose, took(line.requested_at, None), ago(line.expires_at))
