"""`callboard webhooks`: what was delivered to the configured URLs, what is tried again, and what was given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard_runtime.cli import completion
from callboard_runtime.cli.options import After, Json

if TYPE_CHECKING:
    from callboard_runtime.inspection.views import DeliveryLine

app = typer.Typer(help="List deliveries to webhooks.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = ("event", "url", "status", "attempts", "answer", "run", "user", "since", "next try")


@app.command("list")
def list_deliveries(
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            help="open, delivered or given_up; several with commas.",
            autocompletion=completion.delivery_statuses,
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Most deliveries to list.")] = 50,
    after: After = None,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first: what each URL was told of, how often, and what it answered last."""
    from callboard_runtime.cli import inspect_service as service
    from callboard_runtime.cli.output import print_page

    page = service.deliveries(status, limit, after)
    print_page(page, COLUMNS, map(_row, page.deliveries), as_json=as_json)


def _row(line: DeliveryLine) -> tuple[str, ...]:
    from callboard_runtime.cli.told import ago, plain

    answer = " ".join(filter(None, (plain(line.last_status), line.last_error)))
    whose = (line.run_id or str(line.run), plain(line.user_id))
    times = (ago(line.created_at), ago(line.next_try))
    return (line.type, line.url, line.status, str(line.attempts), answer, *whose, *times)
