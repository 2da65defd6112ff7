"""The examples that need a whole Callboard: the README's `curl` line, and the Python client of the HTTP API's page."""

import asyncio
import json
import shutil
from typing import Any

import pytest
from pydantic import SecretStr

from callboard_runtime.settings import Settings
from front_client import fresh, token
from shared_stacks import SharedStacks
from stack import Callboard
from unit import docs_pages as docs

from .http_harness import serving

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def stack(stacks: SharedStacks) -> Callboard:
    return stacks.stack("embedded")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
async def test_the_readmes_curl_line_streams_a_run(stack: Callboard) -> None:
    settings = Settings(
        database_url=SecretStr(stack.urls.database),
        amqp_url=SecretStr(stack.urls.amqp),
        redis_url=SecretStr(stack.urls.redis),
        redis_prefix=stack.environment["CALLBOARD_REDIS_PREFIX"],
        dev_auth=True,  # as `callboard up` starts its front
    )
    async with serving(settings) as front:
        events = await _curl(front.url)
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] == "RUN_FINISHED"
    assert "".join(event.get("delta", "") for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


async def _curl(url: str) -> list[dict[str, str]]:
    """What the line of the README prints, for a front at `url`."""
    [line] = [block for block in docs.blocks(docs.README, "sh") if block.startswith("curl ")]
    command = line.replace("http://127.0.0.1:8000", url).replace("curl ", "curl --silent --show-error ", 1)
    shell = await asyncio.create_subprocess_exec("sh", "-c", command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(120):
        printed, _ = await shell.communicate()
    assert shell.returncode == 0
    return [json.loads(line.removeprefix("data: ")) for line in printed.decode().splitlines() if line[:5] == "data:"]


async def test_the_python_example_gets_an_answer(stack: Callboard) -> None:
    [program] = docs.blocks(docs.HTTP_API, "python")
    example: dict[str, Any] = {}
    exec(compile(program, "example", "exec"), example)
    async with asyncio.timeout(120):
        assert await example["ask"](stack.fronts[0], token(fresh("user")), "count to 3") == "1 2 3"
