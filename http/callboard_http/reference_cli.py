"""`callboard openapi` and `callboard asyncapi`: the documents on the standard output, for generators of clients."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

ASYNCAPI = Path(__file__).parent / "openapi" / "asyncapi.yaml"
Form = Annotated[Literal["json", "yaml"], typer.Option("--format", help="Form of the document.")]


def openapi(form: Form = "json") -> None:
    """Print the OpenAPI 3.1 document of the HTTP API."""
    from callboard_http.openapi.document import document  # late: it imports every route

    _print(document(), form)


def asyncapi(form: Form = "yaml") -> None:
    """Print the AsyncAPI 3.0 document of what goes over the broker."""
    _print(yaml.safe_load(ASYNCAPI.read_text()), form)


def _print(content: object, form: str) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    else:
        yaml.safe_dump(content, sys.stdout, sort_keys=False, allow_unicode=True, width=120)
