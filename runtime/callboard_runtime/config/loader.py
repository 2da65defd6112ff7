"""The configuration as it is now: rows of system_agents, read anew each time, over the YAML files."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.config.resolver import DEFAULT_WORKFLOW, RuntimeConfig, resolve_agent_runtime_config
from callboard_runtime.config.static import StaticConfig, load_static
from callboard_runtime.errors import NotFound
from callboard_runtime.persistence.tables import SystemAgent
from callboard_runtime.settings import LlmSettings, Settings

Rows = tuple[dict[str, object], ...]
"""The columns of every row of system_agents, in the order of agent_type."""

_KEPT = 256  # resolved configurations
_resolved: OrderedDict[tuple[object, ...], RuntimeConfig] = OrderedDict()

_QUERY = select(
    SystemAgent.agent_type, SystemAgent.model_code, SystemAgent.llm_params, SystemAgent.prompts, SystemAgent.enabled
).order_by(SystemAgent.agent_type)


async def fetch_rows(connection: AsyncConnection) -> Rows:
    """Every row of system_agents: one query, which serves any number of resolutions."""
    return tuple(dict(row) for row in (await connection.execute(_QUERY)).mappings())


def resolve_rows(rows: Rows, agent_id: str | None, settings: Settings) -> RuntimeConfig:
    """The configuration of workflow `agent_id` (None: `default`); cached until a file, a row or a setting differs.

    Raises NotFound for an unknown workflow and ConfigError naming file or table and key.
    """
    static = load_static(settings.config.dir)
    name = agent_id or DEFAULT_WORKFLOW
    _require_workflow(static, name)
    key = (settings.config.dir, static.stamp, _digest(rows), _reach(settings.llm), name)
    found = _resolved.get(key)
    if found is None:
        found = _resolved[key] = resolve_agent_runtime_config(rows, static, agent_id=name, llm=settings.llm)
        while len(_resolved) > _KEPT:
            _resolved.popitem(last=False)
    return found


async def load_runtime_config(connection: AsyncConnection, agent_id: str | None, settings: Settings) -> RuntimeConfig:
    """`fetch_rows` and `resolve_rows` in one."""
    return resolve_rows(await fetch_rows(connection), agent_id, settings)


def _require_workflow(static: StaticConfig, name: str) -> None:
    if name not in static.workflows:
        raise NotFound(f"there is no agent {name!r}; there are: {', '.join(sorted(static.workflows))}")


def _digest(rows: Rows) -> bytes:
    return hashlib.sha256(orjson.dumps(rows)).digest()


def _reach(llm: LlmSettings) -> tuple[object, ...]:
    keyed = tuple(sorted(llm.provider_keys.model_dump(exclude_none=True)))
    return llm.default_model, llm.allow_scripted, keyed, tuple(sorted(llm.api_base))
