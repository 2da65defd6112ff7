"""`callboard agents`: what each agent is, where that comes from, and how to change it without touching files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from callboard_runtime.cli.options import Json

app = typer.Typer(help="List, show, change and check agents.", no_args_is_help=True, rich_markup_mode=None)

AgentType = Annotated[str, typer.Argument(help="The agent's name in agents.yaml.")]


@app.command("list")
def list_agents(as_json: Json = False) -> None:
    """List the agents with their models."""
    from callboard_runtime.cli import agents_service as service
    from callboard_runtime.cli.output import print_json, print_table

    agents = service.overview()
    if as_json:
        print_json(agents)
        return
    columns = ("agent", "model", "enabled", "workflows", "from")
    rows = (
        (a["agent_type"], a["model_code"], "yes" if a["enabled"] else "no", ", ".join(a["workflows"]), a["source"])
        for a in agents
    )
    print_table(columns, rows)


@app.command()
def show(agent_type: AgentType, as_json: Json = False) -> None:
    """Show one agent, and where each value is from."""
    from callboard_runtime.cli import agents_service as service
    from callboard_runtime.cli.output import print_json, print_table

    values = service.describe(agent_type)
    if as_json:
        print_json(values)
    else:
        print_table(("key", "value", "from"), ((v["key"], str(v["value"]), v["source"]) for v in values))


@app.command("set")
def set_agent(
    agent_type: AgentType,
    model: Annotated[
        str | None, typer.Option("--model", help="model_code; an empty one goes back to the files'.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="Model parameter KEY=VALUE; KEY= removes it. Repeatable.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Prompt KEY=TEXT or KEY=@FILE; KEY= removes it. Repeatable."),
    ] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="May workflows use it?")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Remove the row: the files alone decide again.")] = False,
) -> None:
    """Change an agent's row in the database.

    Runs that are accepted from then on use it. The whole configuration is checked first; what would break a workflow is
    refused.
    """
    from callboard_runtime.cli import agents_service as service

    if reset:
        print(f"{agent_type}: " + ("row removed" if service.reset(agent_type) else "there was no row"))
        return
    service.change(agent_type, model=model, params=param or [], prompts=prompt or [], enabled=enabled)
    print(f"{agent_type}: saved")


@app.command()
def validate(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Check these files instead of CALLBOARD_CONFIG__DIR.")
    ] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Do not read the database.")] = False,
    as_json: Json = False,
) -> None:
    """Check every workflow.

    Each is resolved as a run would; exit 1 when one of them cannot run.
    """
    from callboard_runtime.cli import agents_service as service
    from callboard_runtime.cli.output import print_json, print_table

    findings = service.validate(directory, with_rows=not files_only)
    if as_json:
        print_json(findings)
    else:
        print_table(("workflow", "result", "detail"), ((f["workflow"], f["result"], f["detail"]) for f in findings))
    if any(finding["result"] == "error" for finding in findings):
        raise typer.Exit(1)
