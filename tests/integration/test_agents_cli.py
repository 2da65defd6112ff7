"""`callboard migrate` and `callboard agents` against a real PostgreSQL: what they write is what a run is given."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.cli import agents_service
from callboard_runtime.config.loader import fetch_rows, load_runtime_config
from callboard_runtime.persistence import migrate
from callboard_runtime.persistence.database import connect, create_engine, transaction
from callboard_runtime.persistence.tables import SystemAgent
from callboard_runtime.settings import Settings
from command_line import Run, runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> Run:
    """Run `callboard` on this test's database and return its exit code."""
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", postgres_url)
    return runner(monkeypatch)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=2)
    yield engine
    await engine.dispose()


def show(run: Run, capsys: pytest.CaptureFixture[str], agent: str = "intent") -> dict[str, tuple[object, str]]:
    assert run("agents", "show", agent, "--json") == 0
    return {line["key"]: (line["value"], line["source"]) for line in json.loads(capsys.readouterr().out)}


# -- migrate ----------------------------------------------------------------------------------------------------------


def test_migrate_and_check(run: Run, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    head = migrate.head()
    assert run("migrate", "--check") == 0
    migrate.downgrade(postgres_url, "base")
    capsys.readouterr()

    assert run("migrate", "--check") == 1
    assert capsys.readouterr().out == f"database: empty; this release: {head}\n"
    assert migrate.current(postgres_url) is None

    assert run("migrate") == 0
    assert capsys.readouterr().out == f"database: empty -> {head}\n"
    assert run("migrate") == 0
    assert capsys.readouterr().out == f"database: {head} (as before)\n"
    assert migrate.is_current(postgres_url)


def test_a_database_without_tables_says_what_to_do(
    run: Run, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate.downgrade(postgres_url, "base")
    assert run("agents", "list") == 2
    assert "error: the database lacks a table: run `callboard migrate`" in capsys.readouterr().err


# -- agents -----------------------------------------------------------------------------------------------------------


def test_list_names_agents_models_and_workflows(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("agents", "set", "intent", "--model", "gpt-5-mini") == 0
    capsys.readouterr()
    assert run("agents", "list", "--json") == 0
    listed = {agent["agent_type"]: agent for agent in json.loads(capsys.readouterr().out)}
    assert (listed["intent"]["model_code"], listed["intent"]["source"]) == ("gpt-5-mini", "system_agents[intent]")
    assert (listed["answer"]["model_code"], listed["answer"]["source"]) == ("deepseek-v3.2", "agents.yaml (packaged)")
    assert listed["answer"]["workflows"] == ["chat", "default"]
    assert run("agents", "list") == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["agent", "model", "enabled", "workflows", "from"]
    models = {"answer": "deepseek-v3.2", "demo": "deepseek-v3.2", "intent": "gpt-5-mini"}
    assert {line.split()[0]: line.split()[1] for line in table[1:]} == models


def test_set_show_and_reset(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompt = tmp_path / "role.txt"
    prompt.write_text("Oracle\n")
    before = show(run, capsys)
    args = ["--model", "gpt-5.4", "--param", "temperature=0.5", "--param", 'stop=["x"]']
    assert (
        run("agents", "set", "intent", *args, "--prompt", f"role=@{prompt}", "--prompt", "description=Look: {message}")
        == 0
    )
    capsys.readouterr()

    after = show(run, capsys)
    table = "system_agents"
    assert after["model_code"] == ("gpt-5.4", "system_agents[intent]")
    assert after["llm_params.temperature"] == (0.5, table)
    assert after["llm_params.stop"] == (["x"], table)
    assert after["llm_params.max_tokens"] == (200, "agents.yaml (packaged)")
    assert after["role"] == ("Oracle", table)
    assert after["description"] == ("Look: {message}", table)
    assert after["goal"] == before["goal"]

    assert run("agents", "set", "intent", "--model", "", "--param", "temperature=", "--prompt", "role=") == 0
    capsys.readouterr()
    partly = show(run, capsys)
    assert partly["model_code"] == before["model_code"]
    assert partly["llm_params.temperature"] == before["llm_params.temperature"]
    assert partly["role"] == before["role"]
    assert partly["llm_params.stop"] == (["x"], table)

    assert run("agents", "set", "intent", "--reset") == 0
    assert capsys.readouterr().out == "intent: row removed\n"
    assert show(run, capsys) == before
    assert run("agents", "set", "intent", "--reset") == 0
    assert capsys.readouterr().out == "intent: there was no row\n"


def test_a_run_is_given_what_was_set(run: Run, postgres_url: str) -> None:
    assert run("agents", "set", "intent", "--model", "scripted", "--param", "seed=7") == 0

    async def resolved() -> tuple[str, int | None]:
        engine = create_engine(postgres_url, pool=0)
        async with connect(engine) as conn:
            config = await load_runtime_config(conn, None, Settings())
        return config.intent.llm.model_code, config.intent.llm.params.seed

    assert asyncio.run(resolved()) == ("scripted", 7)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("ghost", "--model", "gpt-5.4"), 1, "there is no agent 'ghost'; agents.yaml has: answer, demo, intent"),
        (("intent", "--model", "nope"), 1, "system_agents[intent]: model_code: unknown model 'nope'"),
        (("intent", "--param", "temprature=1"), 1, "system_agents[intent]: llm_params.temprature: unknown key"),
        (("intent", "--param", "temperature=hot"), 1, "system_agents[intent]: llm_params.temperature: "),
        (("intent", "--param", "temperature"), 2, "--param 'temperature': write KEY=VALUE, or KEY= to remove it"),
        (("intent", "--prompt", "role={nobody}"), 1, "system_agents[intent]: prompts.role: there is no variable"),
        (("intent", "--prompt", "motto=x"), 1, "system_agents[intent]: motto: unknown key"),
        (("intent", "--prompt", "role=@/no/such/file"), 2, "--prompt: /no/such/file cannot be read"),
        (
            ("intent", "--disable"),
            1,
            "system_agents[intent]: enabled: is false, but workflow 'default' needs this agent",
        ),
        (("intent",), 2, "nothing to set"),
    ],
)
def test_what_would_not_work_is_not_written(
    run: Run, capsys: pytest.CaptureFixture[str], postgres_url: str, args: tuple[str, ...], code: int, says: str
) -> None:
    assert run("agents", "set", *args) == code
    assert f"error: {says}" in capsys.readouterr().err

    async def rows() -> int | None:
        engine = create_engine(postgres_url, pool=0)
        async with connect(engine) as conn:
            return await conn.scalar(select(func.count()).select_from(SystemAgent))

    assert asyncio.run(rows()) == 0


def test_an_agent_that_no_workflow_needs_may_be_disabled(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "workflow.yaml").write_text("default: {stages: [answer]}")
    monkeypatch.setenv("CALLBOARD_CONFIG__DIR", str(tmp_path))
    assert run("agents", "set", "intent", "--disable") == 0
    capsys.readouterr()
    assert show(run, capsys)["enabled"] == (False, "system_agents")
    assert run("agents", "set", "intent", "--enable") == 0


def test_validate_reports_every_workflow(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("agents", "validate", "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert [(f["workflow"], f["result"]) for f in findings if f["result"] != "warning"] == [
        ("chat", "ok"),
        ("default", "ok"),
        ("demo", "ok"),
    ]
    assert findings[0]["detail"] == "answer (deepseek-v3.2)"
    assert "CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK" in findings[1]["detail"]


def test_validate_fails_for_what_cannot_run(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents.yaml").write_text("answer: {model_code: nope}")
    assert run("agents", "validate", "--dir", str(tmp_path), "--files-only") == 1
    out = capsys.readouterr().out
    assert "agents.yaml in CALLBOARD_CONFIG__DIR: answer.model_code: unknown model 'nope'" in out
    (tmp_path / "agents.yaml").write_text("answer: {mdel_code: nope}")
    monkeypatch.setenv("CALLBOARD_CONFIG__DIR", str(tmp_path))
    assert run("agents", "validate", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["workflow"] == "(all)"


def test_validate_warns_of_tools_that_are_not_here(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "{function: 'MODULE:run', description: D, agents: [answer]}"
    tools = {"here": "beside_tools", "installed": "json", "gone": "no_such_module_at_all"}
    (tmp_path / "tools.yaml").write_text(
        "\n".join(f"{name}: {entry.replace('MODULE', module)}" for name, module in tools.items())
    )
    (tmp_path / "beside_tools.py").write_text("def run(): ...")
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK", "k")
    assert run("agents", "validate", "--dir", str(tmp_path), "--files-only", "--json") == 0
    warnings = {f["detail"] for f in json.loads(capsys.readouterr().out) if f["result"] == "warning"}
    assert warnings == {"tool gone: module no_such_module_at_all is not found here; workers need it"}


def test_a_broken_workflow_does_not_stop_a_repair_elsewhere(
    run: Run, capsys: pytest.CaptureFixture[str], postgres_url: str
) -> None:
    async def break_it() -> None:
        engine = create_engine(postgres_url, pool=0)
        async with transaction(engine) as conn:
            await conn.execute(text("INSERT INTO system_agents (agent_type, model_code) VALUES ('intent', 'nope')"))

    asyncio.run(break_it())
    assert run("agents", "validate") == 1
    assert run("agents", "list") == 0
    assert run("agents", "set", "answer", "--model", "gpt-5.4") == 0
    assert run("agents", "set", "intent", "--model", "gpt-5-mini") == 0
    assert run("agents", "validate") == 0
    capsys.readouterr()


# -- rows -------------------------------------------------------------------------------------------------------------


async def test_rows_are_read_anew_each_time(engine: AsyncEngine) -> None:
    settings = Settings()
    async with transaction(engine) as conn:
        assert await fetch_rows(conn) == ()
        before = await load_runtime_config(conn, "chat", settings)
        await conn.execute(
            text("INSERT INTO system_agents (agent_type, llm_params) VALUES ('answer', '{\"seed\": 3}')")
        )
        after = await load_runtime_config(conn, "chat", settings)
        (row,) = await fetch_rows(conn)
    assert (before.answer.llm.params.seed, after.answer.llm.params.seed) == (None, 3)
    assert row == {
        "agent_type": "answer",
        "model_code": None,
        "llm_params": {"seed": 3},
        "prompts": {},
        "enabled": True,
    }


def test_the_service_is_what_the_command_prints(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("agents", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == agents_service.overview()
