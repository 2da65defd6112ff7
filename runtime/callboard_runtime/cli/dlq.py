"""`callboard dlq`: the messages that nobody could handle, why, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard_runtime.cli.options import Json

if TYPE_CHECKING:
    from callboard_runtime.broker.dead_letters import DeadLetter

app = typer.Typer(help="Look at dead letters, send them again, drop them.", no_args_is_help=True, rich_markup_mode=None)

Which = Annotated[str | None, typer.Argument(help="The message's id as `list` prints it.")]
Every = Annotated[bool, typer.Option("--all", help="Every message that lies there now.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Most messages to look at, oldest first.")]


@app.command("list")
def list_letters(as_json: Json = False, limit: Limit = 100) -> None:
    """List the dead letters, oldest first; they stay where they are."""
    from callboard_runtime.cli import dlq_service as service
    from callboard_runtime.cli.output import print_json, print_table

    letters, total = service.look(limit)
    if as_json:
        print_json([letter.summary() for letter in letters])
        return
    columns = ("id", "type", "session", "reason", "from", "deaths", "bytes", "age")
    print_table(columns, map(_row, letters))
    if total > len(letters):
        print(f"{total - len(letters)} more; --limit shows them")


@app.command()
def show(
    which: Annotated[str, typer.Argument(help="The message's id as `list` prints it.")], as_json: Json = False
) -> None:
    """Show one dead letter whole, without tokens; it stays where it is."""
    from callboard_runtime.cli import dlq_service as service
    from callboard_runtime.cli.output import print_json, print_table

    letter = service.find(which)
    if as_json:
        print_json({**letter.summary(), "headers": letter.shown_headers(), "body": letter.content()})
        return
    print_table(
        ("what", "value"), ((name, "" if value is None else str(value)) for name, value in letter.summary().items())
    )
    print()
    print_table(("header", "value"), ((name, str(value)) for name, value in letter.shown_headers().items()))
    print()
    print_json(letter.content())


@app.command()
def replay(which: Which = None, every: Every = False, as_json: Json = False) -> None:
    """Send dead letters again, to the queue they came from.

    Each is removed once the broker confirmed its copy. A command that was carried out already changes nothing.
    """
    from callboard_runtime.cli import dlq_service as service

    _report("replayed", service.replay(_one(which, every)), as_json)


@app.command()
def drop(
    which: Which = None,
    every: Every = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete dead letters."""
    from callboard_runtime.cli import dlq_service as service

    chosen = _one(which, every)
    if not yes:
        typer.confirm(f"delete {chosen or 'all dead letters'} for good?", abort=True)
    _report("dropped", service.drop(chosen), as_json)


def _one(which: str | None, every: bool) -> str | None:
    if (which is None) != every:
        raise typer.BadParameter("name one message, or --all")
    return which


def _report(done: str, ids: list[str], as_json: bool) -> None:
    from callboard_runtime.cli.output import print_json

    if as_json:
        print_json({done: ids})
    else:
        print(f"{done}: {len(ids)}" + (f" ({', '.join(ids)})" if 0 < len(ids) <= 10 else ""))


def _row(letter: DeadLetter) -> tuple[str, ...]:
    shown = (letter.id, letter.type, letter.session or "", letter.reason, letter.queue)
    return (*shown, str(letter.deaths), str(len(letter.body)), _age(letter.age))


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
