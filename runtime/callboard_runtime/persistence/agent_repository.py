"""Rows of system_agents: what an operator changes without touching files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.persistence.tables import SystemAgent


@dataclass(frozen=True, slots=True)
class AgentChange:
    """What is to change in a row: None leaves a column; llm_params and prompts are merged key by key, None removes."""

    model_code: str | None = None
    clear_model: bool = False
    llm_params: Mapping[str, Any] | None = None
    prompts: Mapping[str, str | None] | None = None
    enabled: bool | None = None


def changed(row: Mapping[str, Any] | None, agent_type: str, change: AgentChange) -> dict[str, Any]:
    """The row as it will be; pure, so that it can be validated before it is written."""
    old = row or {"model_code": None, "llm_params": {}, "prompts": {}, "enabled": True}
    model_code = None if change.clear_model else change.model_code or old["model_code"]
    return {
        "agent_type": agent_type,
        "model_code": model_code,
        "llm_params": _merged(old["llm_params"], change.llm_params),
        "prompts": _merged(old["prompts"], change.prompts),
        "enabled": old["enabled"] if change.enabled is None else change.enabled,
    }


def _merged(old: Mapping[str, Any], new: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in {**old, **(new or {})}.items() if value is not None}


async def put_agent(conn: AsyncConnection, row: Mapping[str, Any]) -> None:
    """Write a whole row, new or not; runs accepted afterwards use it."""
    values = {**row, "updated_at": func.now()}
    rest = {key: value for key, value in values.items() if key != "agent_type"}
    statement = insert(SystemAgent).values(values)
    await conn.execute(statement.on_conflict_do_update(index_elements=[SystemAgent.agent_type], set_=rest))


async def remove_agent(conn: AsyncConnection, agent_type: str) -> bool:
    """Delete a row, so that the files alone decide again; False when there was none."""
    done = await conn.execute(delete(SystemAgent).where(SystemAgent.agent_type == agent_type))
    return done.rowcount > 0
