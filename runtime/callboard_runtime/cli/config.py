"""`callboard config`: the settings as they are read, and the example file of all of them."""

from __future__ import annotations

import os
import sys

import typer

from callboard_runtime.cli.options import Json

app = typer.Typer(help="Show the settings.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(as_json: Json = False) -> None:
    """Print the settings in use, without secrets."""
    from callboard_runtime.cli.output import print_json, print_table
    from callboard_runtime.cli.settings_doc import shown, unknown_variables
    from callboard_runtime.settings import Settings

    values = shown(Settings())
    for name in unknown_variables(os.environ):
        print(f"ignored: {name} (there is no such setting)", file=sys.stderr)
    if as_json:
        print_json(values)
    else:
        print_table(("variable", "value"), values.items())


@app.command("env-example")
def env_example() -> None:
    """Print an example .env of every setting."""
    from callboard_runtime.cli.settings_doc import env_example as text

    print(text(), end="")
