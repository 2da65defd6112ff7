"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
After = Annotated[str | None, typer.Option("--after", help="The next page: what `next` of the last one said.")]
User = Annotated[str | None, typer.Option("--user", help="Of this user.")]
