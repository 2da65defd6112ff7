"""`callboard migrate`: bring the database to this release's schema."""

from __future__ import annotations

from typing import Annotated

import typer


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 unless the schema is current.")
    ] = False,
) -> None:
    """Bring the database to this release's schema.

    Safe to run many times, and from many processes at once."""
    from callboard_runtime.persistence import migrate as schema
    from callboard_runtime.settings import Settings

    url = Settings().required_database_url()
    before, newest = schema.current(url), schema.head()
    if check:
        print(f"database: {before or 'empty'}; this release: {newest}")
        if before != newest:
            raise typer.Exit(1)
        return
    schema.upgrade(url)
    print(f"database: {newest} (as before)" if before == newest else f"database: {before or 'empty'} -> {newest}")
