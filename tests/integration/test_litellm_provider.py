"""Requests through LiteLLM to a model server over HTTP: streams, usage, tools, and every kind of failure."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from callboard_runtime.crew.memory_journal import MemoryJournal
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.llm import provider as provider_module
from callboard_runtime.llm.answer import AnswerBuilder
from callboard_runtime.llm.caller import ModelCaller
from callboard_runtime.llm.errors import (
    ModelAuth,
    ModelBadResponse,
    ModelContextTooLong,
    ModelError,
    ModelRateLimited,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    model_error,
)
from callboard_runtime.llm.messages import ModelAnswer, ModelCall, ToolCall, Usage
from callboard_runtime.llm.provider import Target
from callboard_runtime.llm.reads import read_together
from callboard_runtime.llm.request import Request
from callboard_runtime.llm.setup import close_clients
from callboard_runtime.settings import LlmSettings
from waiting import until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")
KEY = "sk-canary-0123456789abcdef"
SETTINGS = LlmSettings(timeout=20, first_token_timeout=20, retries=0)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    program = Path(__file__).with_name("openai_server.py")
    process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(autouse=True)
async def _closed_connections() -> AsyncIterator[None]:
    yield
    await close_clients()


class Screen:
    """What was shown while an answer streamed."""

    message_id = "m"

    def __init__(self) -> None:
        self.shown: list[tuple[str, ...]] = []

    def text(self, delta: str) -> None:
        self.shown.append(("text", delta))

    def reasoning(self, delta: str) -> None:
        self.shown.append(("reasoning", delta))

    def calls(self, valid: Sequence[ToolCall]) -> None:
        self.shown.extend(("call", call.name) for call in valid)

    def ended(self) -> None: ...

    def withdrawn(self) -> None: ...


def request(server: str, model: str, settings: LlmSettings = SETTINGS, kind: str = "openai") -> tuple[Request, Screen]:
    call = ModelCall(
        "answer", "answer", ({"role": "user", "content": "Hi"},), tools=(TOOL,), names={"search": "search"}
    )
    screen = Screen()
    target = Target(kind, f"{kind}/{model}", KEY, server if kind == "anthropic" else f"{server}/v1")
    return Request(call, target, settings, AnswerBuilder(screen, call.names)), screen


TOOL = {
    "type": "function",
    "function": {"name": "search", "description": "Search", "parameters": {"type": "object", "properties": {}}},
}


async def ask(server: str, model: str, settings: LlmSettings = SETTINGS, kind: str = "openai") -> ModelAnswer:
    """The answer, or the stable error; whatever happens, the key is in neither."""
    made, _ = request(server, model, settings, kind)
    try:
        answer = await made.run()
    except Exception as error:
        stable = model_error(error, kind, model)
        assert KEY not in f"{stable} {stable!r} {stable.__dict__}"
        raise stable from None
    assert KEY not in repr(made.target)
    return answer


async def test_text_is_streamed_and_counted(server: str) -> None:
    made, screen = request(server, "ok")
    answer = await made.run()
    assert answer.text == "Hello wörld"
    assert _joined(screen) == {"text": "Hello wörld"}  # what is read together is shown together
    assert made.builder.usage == Usage(11, 7, 4, 3)
    usage = made.usage()
    assert (usage.cached_tokens, usage.reasoning_tokens, usage.estimated, usage.cost) == (4, 3, False, None)
    assert usage.first_token_ms is not None


async def test_tool_calls_get_ids_of_our_own_and_keep_the_providers(server: str) -> None:
    answer = await ask(server, "tools")
    assert answer.text == "Let me look. "
    assert [(call.name, call.arguments, call.wire_id) for call in answer.tool_calls] == [
        ("search", '{"q": "x"}', "call_0"),
        ("add", '{"a": 1}', "call_1"),
    ]
    assert len({call.id for call in answer.tool_calls} | {"call_0", "call_1"}) == 4
    assert [call["id"] for call in answer.to_wire()["tool_calls"]] == ["call_0", "call_1"]


async def test_reasoning_is_kept_apart(server: str) -> None:
    answer = await ask(server, "reasoning")
    assert (answer.reasoning, answer.text) == ("I think.", "Hello wörld")


@pytest.mark.parametrize("way", ["short", "litellm"])
async def test_missing_usage_is_estimated_and_marked(server: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _take(way, monkeypatch)
    made, _ = request(server, "nousage")
    await made.run()
    usage = made.usage()
    assert usage.estimated
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


@pytest.mark.parametrize(("model", "text"), [("nul", "a\ufffdb\U0001f600!"), ("lone", "x\ufffdy")])
async def test_what_cannot_be_kept_is_replaced(server: str, model: str, text: str) -> None:
    assert (await ask(server, model)).text == text


def _take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "litellm":
        monkeypatch.setattr(provider_module, "is_openai_shaped", lambda raw, provider: False)


@pytest.mark.parametrize("kind", ["openai", "hosted_vllm"])
@pytest.mark.parametrize("way", ["short", "litellm"])
@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("401", ModelAuth),
        ("403", ModelAuth),
        ("429", ModelRateLimited),
        ("500", ModelUnavailable),
        ("404", ModelRejected),
        ("context", ModelContextTooLong),
        ("garbage", (ModelBadResponse, ModelUnavailable)),
        ("page", ModelError),
        ("empty", ModelBadResponse),
        ("broken", ModelUnavailable),
    ],
)
async def test_every_failure_has_its_code_and_never_the_key(
    server: str, model: str, error: type[ModelError], way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _take(way, monkeypatch)
    with pytest.raises(error) as caught:
        await ask(server, model, kind=kind)
    assert KEY not in str(caught.value)


async def test_a_connection_cut_in_the_middle_is_unavailable(server: str) -> None:
    with pytest.raises(ModelUnavailable):
        await ask(server, "broken-cut")


async def test_nobody_at_the_address_is_unavailable() -> None:
    with pytest.raises(ModelUnavailable):
        await ask("http://127.0.0.1:9", "ok")


@pytest.mark.parametrize(("model", "words"), [("hang", "did not begin"), ("stall", "did not end")])
async def test_patience_ends(server: str, model: str, words: str) -> None:
    hasty = LlmSettings(timeout=0.5, first_token_timeout=0.3, retries=0)
    if model == "stall":
        hasty = LlmSettings(timeout=0.5, first_token_timeout=20, retries=0)
    with pytest.raises(ModelTimeout, match=words):
        await ask(server, model, hasty)


async def test_signs_of_life_do_not_outlast_the_whole_timeout(server: str) -> None:
    hasty = LlmSettings(timeout=0.5, first_token_timeout=3600, retries=0)
    async with asyncio.timeout(15):
        with pytest.raises(ModelTimeout, match="did not begin"):
            await ask(server, "drip", hasty)


class View(Screen):
    def messages(self, answer: ModelAnswer) -> tuple[NewMessage, ...]:
        return ()


@pytest.mark.parametrize("model", ["empty", "refused"])
async def test_what_the_provider_counted_is_kept_when_there_is_no_answer(server: str, model: str) -> None:
    call = ModelCall("answer", "answer", ({"role": "user", "content": "Hi"},))
    target = Target("openai", f"openai/{model}", KEY, f"{server}/v1", {}, Decimal("0.01"), Decimal("0.1"))
    journal = MemoryJournal()
    caller = ModelCaller(journal, SETTINGS.model_copy(update={"retries": 1}), jitter=lambda: 0.0)
    with pytest.raises(ModelBadResponse):
        await caller.answer(call, [target], View)
    used = [record.usage for record in journal.recorded if record.usage is not None]
    assert [(row.input_tokens, row.output_tokens, row.cost, row.estimated) for row in used] == [
        (11, 7, Decimal("0.81"), False)
    ] * 2


async def test_libraries_send_one_request_per_try(server: str) -> None:
    before = await _count(server, "500")
    with pytest.raises(ModelUnavailable):
        await ask(server, "500")
    assert await _count(server, "500") == before + 1


async def _count(server: str, model: str) -> int:
    def read() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{server}/log") as response:
            return orjson.loads(response.read())

    return sum(entry["model"] == model for entry in await asyncio.to_thread(read))


@pytest.mark.parametrize("kind", ["openai", "deepseek", "openrouter"])
@pytest.mark.parametrize("model", ["ok", "tools", "reasoning", "nul"])
async def test_the_short_way_and_litellms_own_say_the_same(
    server: str, model: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, fast_screen = request(server, model, kind=kind)
    fast_answer = await fast.run()
    _take("litellm", monkeypatch)
    slow, slow_screen = request(server, model, kind=kind)
    slow_answer = await slow.run()
    assert (fast_answer.text, fast_answer.reasoning, fast_answer.finish) == (
        slow_answer.text,
        slow_answer.reasoning,
        slow_answer.finish,
    )
    assert [(c.name, c.arguments, c.wire_id) for c in fast_answer.tool_calls] == [
        (c.name, c.arguments, c.wire_id) for c in slow_answer.tool_calls
    ]
    assert fast.builder.usage == slow.builder.usage
    assert _joined(fast_screen) == _joined(slow_screen)


@pytest.mark.parametrize("model", ["ok", "tools", "reasoning", "nul"])
async def test_streams_that_are_read_together_say_the_same(server: str, model: str) -> None:
    by_itself, shown = request(server, model)
    expected = await by_itself.run()
    windows: list[float] = []
    read_together(lambda: windows.append(0.02) or windows[-1])
    together, shown_together = request(server, f"paced-{model}")
    answer = await together.run()
    assert windows  # LiteLLM's response still tells its end: else every token would be read as it comes
    assert (answer.text, answer.reasoning, answer.finish) == (expected.text, expected.reasoning, expected.finish)
    assert together.builder.usage == by_itself.builder.usage
    assert _joined(shown_together) == _joined(shown)


async def test_the_end_of_a_stream_is_not_waited_for(server: str) -> None:
    read_together(lambda: 3600.0)
    made, _ = request(server, "paced-ok")
    async with asyncio.timeout(60):
        assert (await made.run()).text == "Hello wörld"


async def test_what_came_before_an_error_of_the_stream_is_kept(server: str) -> None:
    made, screen = request(server, "late-error")
    with pytest.raises(openai.APIError):
        await made.run()
    assert _joined(screen) == {"text": "Hello wörld"}


def _joined(screen: Screen) -> dict[str, str]:
    kinds = {kind for kind, _ in screen.shown}
    return {kind: "".join(piece for other, piece in screen.shown if other == kind) for kind in kinds}


@pytest.mark.parametrize(("kind", "short"), [("openai", True), ("deepseek", True), ("anthropic", False)])
async def test_the_short_way_is_taken_where_it_may(
    server: str, kind: str, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[bool] = []
    real = provider_module.is_openai_shaped
    monkeypatch.setattr(
        provider_module, "is_openai_shaped", lambda raw, name: decided.append(real(raw, name)) or decided[-1]
    )
    await ask(server, "ok", kind=kind)
    assert decided == [short]


async def test_a_provider_of_another_shape_is_metered_the_same_way(server: str) -> None:
    made, screen = request(server, "ok", kind="anthropic")
    answer = await made.run()
    assert (answer.text, answer.finish) == ("Hello wörld", "stop")
    assert [piece for kind, piece in screen.shown if kind == "text"] == ["Hel", "lo ", "wör", "ld"]
    assert made.builder.usage is not None
    assert (made.builder.usage.input_tokens, made.builder.usage.output_tokens) == (11, 7)
    assert not made.usage().estimated


async def test_a_provider_of_another_shape_that_breaks_off_is_unavailable(server: str) -> None:
    with pytest.raises(ModelUnavailable):
        await ask(server, "broken", kind="anthropic")


@pytest.mark.parametrize("kind", ["openai", "deepseek", "openrouter", "hosted_vllm"])
async def test_any_provider_can_be_pointed_at_a_server(server: str, kind: str) -> None:
    answer = await ask(server, "ok", kind=kind)
    assert answer.text == "Hello wörld"


async def test_the_limit_on_requests_at_once_holds(server: str) -> None:
    narrow = LlmSettings(timeout=20, first_token_timeout=20, concurrency=1)
    first = asyncio.create_task(request(server, "hang", narrow, "hosted_vllm")[0].run())
    await until(lambda: _count(server, "hang"))
    second = asyncio.create_task(request(server, "ok", narrow, "hosted_vllm")[0].run())
    done, _ = await asyncio.wait({second}, timeout=0.2)
    assert not done
    first.cancel()
    assert (await second).text == "Hello wörld"


async def test_a_cancelled_request_closes_its_connection(server: str) -> None:
    made, screen = request(server, "stall")
    task = asyncio.create_task(made.run())
    await until(lambda: screen.shown)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.builder.partial().text == "first"
