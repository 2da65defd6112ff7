"""The small parts of a model call: safe text, answers from deltas, prices, stable errors."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.memory_journal import MemorySink
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.crew.view import StageView
from callboard_runtime.domain.commands import MAX_COMMAND_BYTES, RecordStep, StepRecord, encode_command
from callboard_runtime.entry.attempt import MOST_EVENTS
from callboard_runtime.entry.held import MAX_HELD_BYTES
from callboard_runtime.llm.answer import MAX_ANSWER_BYTES, MAX_TOOL_CALLS, AnswerBuilder
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
    reason,
)
from callboard_runtime.llm.messages import (
    CallDelta,
    Cleaner,
    Delta,
    ModelAnswer,
    ModelCall,
    ToolCall,
    Usage,
    clean,
    wire_messages,
)
from callboard_runtime.llm.prices import cost
from callboard_runtime.llm.provider import Target

ANY_TEXT = st.text(st.characters(exclude_categories=()))


class Screen:
    message_id = "m"

    def __init__(self) -> None:
        self.shown = ""

    def text(self, delta: str) -> None:
        self.shown += delta

    def reasoning(self, delta: str) -> None: ...
    def calls(self, valid: Sequence[ToolCall]) -> None: ...
    def ended(self) -> None: ...
    def withdrawn(self) -> None: ...


def builder(**names: str) -> tuple[AnswerBuilder, Screen]:
    screen = Screen()
    return AnswerBuilder(screen, names), screen


@given(ANY_TEXT)
def test_clean_text_can_be_kept_by_anyone(text: str) -> None:
    safe = clean(text)
    assert "\0" not in safe
    assert safe.encode().decode() == safe
    assert clean(safe) == safe


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=4), max_size=8))
def test_cleaning_piece_by_piece_is_cleaning_the_whole(pieces: list[str]) -> None:
    cleaner = Cleaner()
    shown = "".join(cleaner.feed(piece) for piece in pieces) + cleaner.flush()
    assert shown == clean("".join(pieces))


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=4), max_size=8))
def test_what_was_shown_is_what_is_recorded(pieces: list[str]) -> None:
    made, screen = builder()
    for piece in pieces:
        made.feed(Delta(text=piece))
    made.feed(Delta(text="."))
    assert made.answer().text == screen.shown


def test_calls_are_gathered_by_index_under_ids_of_our_own() -> None:
    made, _ = builder(ui_open="ui.open")
    made.feed(Delta(calls=(CallDelta(0, "call_0", "ui_open", '{"a"'), CallDelta(1, "call_1", "no/such", ""))))
    made.feed(Delta(calls=(CallDelta(0, None, None, ":1}"), CallDelta(1, None, None, "{}")), finish="tool_calls"))
    first, second = made.answer().tool_calls
    assert (first.name, first.wire_name, first.wire_id, first.arguments) == ("ui.open", "ui_open", "call_0", '{"a":1}')
    assert second.name == "no_such"
    assert second.arguments == "{}"
    assert first.id not in ("call_0", second.id)


def whole(deltas: list[Delta]) -> None:
    made, _ = builder()
    for delta in deltas:
        made.feed(delta)
    made.answer()


@pytest.mark.parametrize(
    "deltas",
    [
        [Delta(finish="stop")],
        [Delta(calls=(CallDelta(0, "x", None, "{}"),))],
        [Delta(text="x" * (MAX_ANSWER_BYTES + 1))],
        [Delta(reasoning="\u4e2d" * (MAX_ANSWER_BYTES // 3 + 1))],
        [Delta(calls=(CallDelta(0, "x" * MAX_ANSWER_BYTES, "t"),))],
        [Delta(calls=tuple(CallDelta(n, None, "t") for n in range(MAX_TOOL_CALLS + 1)))],
    ],
)
def test_an_answer_that_makes_no_sense_is_a_bad_response(deltas: list[Delta]) -> None:
    with pytest.raises(ModelBadResponse):
        whole(deltas)


def largest(made: AnswerBuilder, piece: str, where: str) -> ModelAnswer:
    """The last answer before the one that is refused."""
    delta = Delta(text=piece) if where == "text" else Delta(calls=(CallDelta(0, "x", "t", piece),))
    answer = made.partial()
    for _ in range(1024 * 1024 // len(piece)):
        answer = made.partial()
        try:
            made.feed(delta)
        except ModelBadResponse:
            return answer
    return answer


@pytest.mark.parametrize("character", ["x", "\u4e2d", '"', "\n", "\x01", "\U0001f600"])
@pytest.mark.parametrize("where", ["text", "arguments"])
def test_the_largest_answer_fits_into_a_command_beside_events_and_held_work(character: str, where: str) -> None:
    stream = RunStream(MemorySink())
    view = StageView(stream, StageSteps(stream), visible=True)
    answer = largest(AnswerBuilder(view, {}), character * 2048, where)
    view.calls(answer.tool_calls)
    command = RecordStep(
        session_id=uuid.uuid4(),
        run_id=uuid.uuid4(),
        epoch=1,
        ordinal=1,
        records=(StepRecord(key="k" * 400, result=answer.to_result()),),
        messages=view.messages(answer),
    )
    size = len(encode_command(command))
    assert MAX_ANSWER_BYTES < size < MAX_COMMAND_BYTES - MOST_EVENTS // 4 - MAX_HELD_BYTES


def test_crewais_private_keys_do_not_leave() -> None:
    given_messages = [{"role": "system", "content": "a\0", "cache_breakpoint": True, "files": {}}]
    assert wire_messages(given_messages) == ({"role": "system", "content": "a\ufffd"},)


def test_a_digest_sees_everything_that_shapes_the_answer() -> None:
    base = ModelCall("p", "s", ({"role": "user", "content": "x"},), (), "m")
    others = [
        ModelCall("q", "s", base.messages, (), "m"),
        ModelCall("p", "s", ({"role": "user", "content": "y"},), (), "m"),
        ModelCall("p", "s", base.messages, ({"type": "function"},), "m"),
        ModelCall("p", "s", base.messages, (), "n"),
    ]
    assert len({call.digest() for call in (base, *others)}) == 5
    assert ModelCall("p", "other", ({"content": "x", "role": "user"},), (), "m").digest() == base.digest()


# -- prices -----------------------------------------------------------------------------------------------------------


def priced(given_in: str | None, given_out: str | None, cached: str | None = None) -> Target:
    prices = [None if price is None else Decimal(price) for price in (given_in, given_out, cached)]
    return Target("p", "p/m", None, None, {}, *prices)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (priced("0.01", "0.02"), Decimal("0.14")),
        (priced("0.01", "0.02", "0.001"), Decimal("0.104")),
        (priced(None, "0.02"), None),
        (priced("0.01", None), None),
    ],
)
def test_a_call_costs_tokens_times_prices(target: Target, expected: Decimal | None) -> None:
    assert cost(target, Usage(10, 2, 4)) == expected


def test_no_tokens_cost_nothing_at_any_price() -> None:
    assert cost(priced(None, None), Usage()) == 0


# -- errors -----------------------------------------------------------------------------------------------------------


class ProviderError(Exception):
    def __init__(self, text: str = "", status_code: int | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status_code = status_code
        self.response = SimpleNamespace(headers=headers or {})


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ProviderError(status_code=401), ModelAuth),
        (ProviderError(status_code=403), ModelAuth),
        (ProviderError(status_code=429), ModelRateLimited),
        (ProviderError(status_code=408), ModelTimeout),
        (TimeoutError(), ModelTimeout),
        (httpx.ReadTimeout("slow"), ModelTimeout),
        (ProviderError("context_length_exceeded", 400), ModelContextTooLong),
        (ProviderError("bad", 400), ModelRejected),
        (ProviderError(status_code=503), ModelUnavailable),
        (httpx.ConnectError("no"), ModelUnavailable),
        (httpx.RemoteProtocolError("cut"), ModelUnavailable),
        (ValueError("?"), ModelUnavailable),
        (KeyError("choices"), ModelBadResponse),
    ],
)
def test_everything_that_is_raised_has_a_stable_code(raised: Exception, expected: type[ModelError]) -> None:
    assert type(model_error(raised, "openai", "openai/m")) is expected


def test_the_cause_is_found_below_what_a_library_wraps_around_it() -> None:
    outer = ProviderError(status_code=500)
    outer.__cause__ = ProviderError(status_code=429, headers={"retry-after": "7"})
    error = model_error(outer, "openai", "openai/m")
    assert (type(error), error.retry_after) == (ModelRateLimited, 7)


def test_a_refused_key_names_the_setting_and_not_the_key() -> None:
    error = model_error(ProviderError("sk-canary-123456 is wrong", 401), "openai", "m")
    assert "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI" in error.message
    assert "canary" not in f"{error} {error!r}"


@given(st.from_regex(r"sk-[A-Za-z0-9_-]{12,40}", fullmatch=True))
def test_the_log_never_sees_a_key(key: str) -> None:
    said = reason(ProviderError(f"Incorrect API key provided: {key}. Partial: {key[:20]}***"), key)
    assert key not in said
    assert key[:20] not in said
