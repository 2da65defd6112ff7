"""What `callboard agents` does: reads and writes system_agents and explains the resolved configuration."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.config.loader import Rows, fetch_rows
from callboard_runtime.config.parts import SCRIPTED_PROVIDER, LlmParams
from callboard_runtime.config.resolver import TABLE, Resolver, RuntimeConfig, parse_rows, resolve_agent_runtime_config
from callboard_runtime.config.specs import PROMPTS, AgentRow
from callboard_runtime.config.static import StaticConfig, load_static
from callboard_runtime.errors import ConfigError, InvalidInput, NotFound
from callboard_runtime.persistence.agent_repository import AgentChange, changed, put_agent, remove_agent
from callboard_runtime.persistence.database import create_engine, transaction
from callboard_runtime.settings import Settings

T = TypeVar("T")


class AgentLine(TypedDict):
    agent_type: str
    model_code: str
    enabled: bool
    workflows: list[str]
    source: str  # of the model_code


class ValueLine(TypedDict):
    key: str
    value: Any
    source: str


class Finding(TypedDict):
    workflow: str
    result: str  # ok, warning, error
    detail: str


def overview() -> list[AgentLine]:
    """Every agent of the files, with what the database says of it."""
    settings, static = _static()
    rows = parse_rows(_rows(settings), static)
    return [_line(name, rows.get(name), static, settings) for name in sorted(static.agents)]


def _line(name: str, row: AgentRow | None, static: StaticConfig, settings: Settings) -> AgentLine:
    uses = [
        flow_name
        for flow_name, flow in sorted(static.workflows.items())
        if name == flow.manager or name in {stage.agent for stage in flow.stages}
    ]
    model_code, source, _ = Resolver(static, {name: row} if row else {}, settings.llm).model_code(name)
    enabled = row.enabled if row else True
    return AgentLine(agent_type=name, model_code=model_code, enabled=enabled, workflows=uses, source=source)


def describe(agent_type: str) -> list[ValueLine]:
    """Every value of one agent with its source; raises NotFound."""
    settings, static = _static()
    _require_agent(agent_type, static)
    rows = parse_rows(_rows(settings), static)
    row, resolver = rows.get(agent_type), Resolver(static, rows, settings.llm)
    model_code, source, _ = resolver.model_code(agent_type)
    return [
        ValueLine(key="model_code", value=model_code, source=source),
        *_param_lines(agent_type, row, static),
        *_prompt_lines(agent_type, row, static),
        ValueLine(key="tools", value=list(resolver.tools_of(agent_type)), source="tools.yaml"),
        ValueLine(key="enabled", value=row.enabled if row else True, source=TABLE if row else "default"),
    ]


def _param_lines(name: str, row: AgentRow | None, static: StaticConfig) -> list[ValueLine]:
    ours = row.llm_params.model_dump(exclude_none=True) if row else {}
    files = static.agents[name].llm_params.model_dump(exclude_none=True)
    return [
        ValueLine(
            key=f"llm_params.{key}",
            value=ours.get(key, files.get(key)),
            source=TABLE if key in ours else static.where("agents", name, "llm_params", key),
        )
        for key in LlmParams.model_fields
        if key in ours or key in files
    ]


def _prompt_lines(name: str, row: AgentRow | None, static: StaticConfig) -> list[ValueLine]:
    lines: list[ValueLine] = []
    for key in PROMPTS:
        section, entry = (
            ("agents", static.agents.get(name)) if key in PROMPTS[:3] else ("tasks", static.tasks.get(name))
        )
        ours = getattr(row.prompts, key) if row else None
        if ours is not None or entry is not None:
            source = TABLE if ours is not None else static.where(section, name, key)
            lines.append(ValueLine(key=key, value=ours if ours is not None else getattr(entry, key), source=source))
    return lines


def change(
    agent_type: str, *, model: str | None, params: Sequence[str], prompts: Sequence[str], enabled: bool | None
) -> None:
    """Write the agent's row after checking that every workflow that could run before still can.

    Raises NotFound for an unknown agent, InvalidInput for a malformed option, ConfigError for a value that is wrong.
    """
    settings, static = _static()
    _require_agent(agent_type, static)
    wanted = AgentChange(
        model_code=model or None,
        clear_model=model == "",
        llm_params={key: _value(text) for key, text in _pairs("--param", params)},
        prompts={key: _prompt(text) for key, text in _pairs("--prompt", prompts)},
        enabled=enabled,
    )
    if wanted == AgentChange(llm_params={}, prompts={}):
        raise InvalidInput("nothing to set: give --model, --param, --prompt, --enable, --disable or --reset")

    async def write(conn: AsyncConnection) -> None:
        rows = {str(row["agent_type"]): row for row in await fetch_rows(conn)}
        new = changed(rows.get(agent_type), agent_type, wanted)
        _require_no_worse(tuple(rows.values()), (*(rows | {agent_type: new}).values(),), static, settings)
        await put_agent(conn, new)

    _with_database(settings, write)


def reset(agent_type: str) -> bool:
    """Remove the agent's row; False when there was none."""

    async def remove(conn: AsyncConnection) -> bool:
        return await remove_agent(conn, agent_type)

    return _with_database(Settings(), remove)


def _require_no_worse(old: Rows, new: Rows, static: StaticConfig, settings: Settings) -> None:
    for name in sorted(static.workflows):
        try:
            resolve_agent_runtime_config(new, static, agent_id=name, llm=settings.llm)
        except ConfigError:
            if _resolves(old, name, static, settings):
                raise


def _resolves(rows: Rows, name: str, static: StaticConfig, settings: Settings) -> bool:
    try:
        resolve_agent_runtime_config(rows, static, agent_id=name, llm=settings.llm)
    except ConfigError:
        return False
    return True


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given]
    if bad := [text for text, equals, _ in pairs if not equals or not text]:
        raise InvalidInput(f"{option} {bad[0]!r}: write KEY=VALUE, or KEY= to remove it")
    return [(key, value) for key, _, value in pairs]


def _value(text: str) -> Any:
    """JSON where it is JSON (0.2, true, ["a"]), else the text itself; None to remove the key."""
    if not text:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _prompt(text: str) -> str | None:
    if not text.startswith("@"):
        return text or None
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--prompt: {text[1:]} cannot be read as UTF-8 text ({error.__class__.__name__})") from error


def validate(directory: Path | None, *, with_rows: bool) -> list[Finding]:
    """One line per workflow, and one per thing that would fail later: a missing key, a tool that is not there."""
    settings = Settings()
    directory = directory or settings.config.dir
    try:
        static = load_static(directory)
        rows = _rows(settings) if with_rows else ()
        parse_rows(rows, static)
    except ConfigError as error:
        return [Finding(workflow="(all)", result="error", detail=error.message)]
    findings: list[Finding] = []
    for name in sorted(static.workflows):
        findings += _findings(name, rows, static, settings, directory)
    return findings


def _findings(name: str, rows: Rows, static: StaticConfig, settings: Settings, directory: Path | None) -> list[Finding]:
    try:
        config = resolve_agent_runtime_config(rows, static, agent_id=name, llm=settings.llm)
    except ConfigError as error:
        return [Finding(workflow=name, result="error", detail=error.message)]
    stages = ", ".join(f"{stage.name} ({stage.llm.model_code})" for stage in config.stages.values())
    stages = stages if config.flow is None else f"flow {config.flow.flow}"
    warnings = [*_missing_keys(config, settings), *_missing_tools(config, directory)]
    return [
        Finding(workflow=name, result="ok", detail=stages),
        *(Finding(workflow=name, result="warning", detail=text) for text in warnings),
    ]


def _missing_keys(config: RuntimeConfig, settings: Settings) -> list[str]:
    models = [m for stage in config.stages.values() for m in (stage.llm, *stage.llm.fallbacks)]
    providers = sorted({model.provider for model in models} - {SCRIPTED_PROVIDER})
    return [
        f"no key for {name}: workers need CALLBOARD_LLM__PROVIDER_KEYS__{name.upper()}"
        for name in providers
        if settings.llm.provider_keys.of(name) is None and name not in settings.llm.api_base
    ]


def _missing_tools(config: RuntimeConfig, directory: Path | None) -> list[str]:
    return [
        f"tool {tool.name}: module {tool.function.partition(':')[0]} is not found here; workers need it"
        for tool in config.tools.values()
        if not _importable(tool.function.partition(":")[0], directory)
    ]


def _importable(module: str, directory: Path | None) -> bool:
    top = module.partition(".")[0]
    beside = directory is not None and any((directory / name).exists() for name in (f"{top}.py", top))
    return beside or importlib.util.find_spec(top) is not None


def _static() -> tuple[Settings, StaticConfig]:
    settings = Settings()
    return settings, load_static(settings.config.dir)


def _require_agent(name: str, static: StaticConfig) -> None:
    if name not in static.agents:
        raise NotFound(f"there is no agent {name!r}; agents.yaml has: {', '.join(sorted(static.agents))}")


def _rows(settings: Settings) -> Rows:
    return _with_database(settings, fetch_rows)


def _with_database(settings: Settings, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    async def run() -> T:
        engine = create_engine(settings, pool=0, name="callboard-cli")
        try:
            async with transaction(engine) as conn:
                return await work(conn)
        finally:
            await engine.dispose()

    return asyncio.run(run())
