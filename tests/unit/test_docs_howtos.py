"""The how-to of tools and the quickstart: what they tell to write works as written."""

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from callboard_http.run_commands import Resume
from callboard_http.run_request import parse_run_request
from callboard_runtime.cli import build_app
from callboard_runtime.config.resolver import resolve_agent_runtime_config
from callboard_runtime.config.static import load_static
from callboard_runtime.domain.tool_policy import ToolMode, classify_tool_call
from callboard_runtime.tools.execute import execute
from callboard_runtime.tools.registry import backend_tool
from callboard_runtime.tools.spec import Tool, ToolContext, frontend_tools
from unit import docs_pages as docs

TOOLS = docs.ROOT / "docs" / "tools.md"
QUICKSTART = docs.ROOT / "docs" / "quickstart.md"
CONCEPTS = docs.ROOT / "docs" / "concepts.md"


def write(folder: Path, blocks: Iterable[str]) -> Path:
    """A page's files: the first line of each names it."""
    for block in blocks:
        (folder / block.splitlines()[0].removeprefix("# ")).write_text(block)
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write(tmp_path, [*docs.blocks(TOOLS, "yaml"), *docs.blocks(TOOLS, "python")])


def tools(shop: Path) -> dict[str, Tool]:
    config = resolve_agent_runtime_config([], load_static(shop), agent_id="shop")
    return {name: backend_tool(tool, shop) for name, tool in config.tools.items()}


def call(tool: Tool, **arguments: object) -> tuple[str, ToolContext]:
    context = ToolContext("call_1", tool.name, user_id="ada", thread_id="t1", run_id=None)
    assert tool.problem(arguments) is None
    return asyncio.run(execute(tool, arguments, context, 10_000)).content, context


def test_the_tools_of_the_page_do_what_it_says(shop: Path) -> None:
    found = tools(shop)
    assert {name: tool.decision().mode for name, tool in found.items()} == {
        "stock_of": ToolMode.BACKEND_DIRECT_EXECUTE,
        "reserve": ToolMode.BACKEND_APPROVAL_INTERRUPT,
    }
    assert json.loads(call(found["stock_of"], article="teapot")[0]) == {"article": "teapot", "pieces": 3}
    assert "there is no article 'cup'" in call(found["stock_of"], article="cup")[0]
    said, context = call(found["reserve"], article="teapot", pieces=2)
    assert said == "2 of teapot put aside for ada"
    assert context.state == {"reserved": {"teapot": 2}}
    assert "only 0 pieces" in call(found["reserve"], article="lamp", pieces=1)[0]


@pytest.mark.parametrize("arguments", [{}, {"article": "teapot", "pieces": 0}, {"article": "Teapot!", "pieces": 1}])
def test_the_schema_of_the_page_refuses_what_it_should(shop: Path, arguments: dict[str, object]) -> None:
    assert tools(shop)["reserve"].problem(arguments)


def test_the_requests_of_the_page_are_requests() -> None:
    resume, run, answers = docs.blocks(TOOLS, "json")
    assert Resume.model_validate_json(resume).resume[0].payload["approved"]
    request = parse_run_request(run.encode(), max_messages=10)
    assert request.agent_id == "shop"
    [tool] = frontend_tools(json.loads(run)["tools"])
    assert tool.decision().mode is classify_tool_call("ui.open_article").mode is ToolMode.FRONTEND_EXECUTE
    assert Resume.model_validate_json(answers).answers[0].status == "result"


@pytest.mark.parametrize("page", [TOOLS, QUICKSTART], ids=lambda page: page.name)
def test_the_files_of_a_page_pass_the_check_that_it_names(page: Path, tmp_path: Path) -> None:
    write(tmp_path, [*docs.blocks(page, "yaml"), *docs.blocks(page, "python")])
    checked = CliRunner().invoke(build_app(), ["agents", "validate", "--dir", str(tmp_path), "--files-only"])
    assert checked.exit_code == 0, checked.output
    assert any(name in checked.output for name in ("shop", "poet"))


def test_the_words_of_the_concepts_are_those_of_the_route() -> None:
    known = {row[0] for row in docs.table(docs.ROUTE, "word").rows}
    told = {row[0].strip("*") for row in docs.table(CONCEPTS, "word").rows}
    assert told - known == {"interrupt"}


def test_the_quickstarts_curl_line_is_the_readmes_which_is_tried() -> None:
    lines = [[block for block in docs.blocks(page, "sh") if "curl" in block] for page in (QUICKSTART, docs.README)]
    assert lines[0] == lines[1] != []


def test_the_index_has_every_page() -> None:
    index = (docs.ROOT / "docs" / "README.md").read_text()
    pages = [page.relative_to(docs.ROOT / "docs") for page in (docs.ROOT / "docs").rglob("*.md")]
    missing = [str(page) for page in pages if str(page) != "README.md" and f"({page}" not in index]
    assert missing == [], "name them in docs/README.md"


def test_the_comparison_is_dated_and_every_system_sourced() -> None:
    page = (docs.ROOT / "docs" / "comparison.md").read_text()
    assert re.search(r"as of \d+ \w+ 20\d\d", page)
    sections = dict(re.findall(r"^\*\*(.+?)\.\*\*(.+?)(?=^\*\*|^## )", page, re.MULTILINE | re.DOTALL))
    systems = {"LangGraph's Agent Server", "Agno's AgentOS", "CopilotKit's runtime", "Temporal", "Restate"}
    assert sections.keys() == systems
    assert [name for name, text in sections.items() if "](https://" not in text] == []


def test_the_hooks_are_the_locked_tools_and_check_what_lint_does() -> None:
    [local] = yaml.safe_load((docs.ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    entries = [hook["entry"].split() for hook in local["hooks"]]
    assert all((docs.ROOT / entry[0]).exists() for entry in entries)
    checks = re.findall(r"^check (.+)$", (docs.ROOT / "scripts" / "lint").read_text(), re.MULTILINE)
    told = [" ".join(entry).removeprefix(".venv/bin/").removesuffix(" --force-exclude") for entry in entries]
    assert {check.removesuffix(" .") for check in checks} <= set(told)
    assert {"python docs/generate.py"} == set(told) - {check.removesuffix(" .") for check in checks}
