"""The page about the inspector says what the code does: its commands, its limits."""

import typer.main

from callboard_http import lookout
from callboard_runtime.cli import build_app
from callboard_runtime.inspection import broker, database, paging, processes, run_detail
from unit import docs_pages as docs

PAGE = docs.ROOT / "docs" / "inspector.md"


def test_the_commands_that_are_told_of_are_there() -> None:
    root = typer.main.get_command(build_app())
    told = [docs.spans(cell)[0].split()[1:] for cell in docs.table(PAGE, "command").column("command")]
    assert len(told) >= 10
    for names in told:
        command = root
        for name in names:
            command = getattr(command, "commands", {}).get(name)
            assert command is not None, names


def test_the_limits_are_those_of_the_code() -> None:
    told = [float(value.replace(" ", "")) for value in docs.table(PAGE, "limit").column("value")]
    assert told == [
        paging.MAX_PAGE,
        lookout.AT_ONCE,
        database.LONGEST,
        run_detail.SHOWN,
        run_detail.CHARACTERS,
        lookout.FRESH,
        processes.MOST,
        paging.MAX_PAGE,
        broker.SEARCHED,
    ]
