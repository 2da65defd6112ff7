"""A module of tools, and what they did."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from callboard_runtime.settings import Settings

MODULE = """
import asyncio
from callboard_runtime.tools.spec import ToolContext

RUNS = []

async def add(a, b=0):
    RUNS.append(("add", a, b))
    return {"sum": a + b}

def plain(text="x"):
    RUNS.append(("plain", text))
    return f"plain {text}\\x00"

def who(context: ToolContext):
    return f"{context.user_id} {context.tool_call_id}"

def fails():
    raise RuntimeError("it broke")

def gives_up():
    raise TimeoutError("the shop does not answer")

async def sleeps():
    await asyncio.sleep(30)

def big():
    return "x" * 400_000
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "mytools.py").write_text(MODULE)
    llm = {"timeout": 20, "first_token_timeout": 10, "retries": 0}
    return Settings(llm=llm, config={"dir": tmp_path})


@pytest.fixture
def ran_tools(settings: Settings) -> list[tuple[Any, ...]]:
    """What the tools of this test's module did."""
    from callboard_runtime.tools.registry import load_function

    return load_function("add", "mytools:add", settings.config.dir).__globals__["RUNS"]


@pytest.fixture(autouse=True)
def _fresh_modules() -> None:
    sys.modules.pop("callboard_user_tools.mytools", None)
