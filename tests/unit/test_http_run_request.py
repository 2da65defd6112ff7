"""What a RunAgentInput may look like, what is said about a wrong one, and which requests count as the same."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_http.run_commands import Resume
from callboard_http.run_request import RunRequest, parse_as, parse_run_request
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.errors import InvalidInput

USER = {"id": "u1", "role": "user", "content": "hi"}
MINIMAL = {"threadId": "t", "runId": "r", "messages": [USER]}


def parse(body, **options) -> RunRequest:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse_run_request(raw, **({"max_messages": 100} | options))


def with_(**changes) -> dict:
    return MINIMAL | changes


def complaint(body) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(body)
    return caught.value.message


def test_the_least_that_is_taken():
    request = parse(MINIMAL)
    assert (request.thread_id, request.run_id, request.agent_id) == ("t", "r", "default")
    assert [m.message_id for m in request.user_messages] == ["u1"]
    assert not request.answers
    assert parse(with_(messages=[])).user_messages == ()


def test_what_the_client_of_before_1_0_and_the_present_one_send():
    old = with_(state={}, tools=[], context=[], forwardedProps={})
    new = old | {"protocolVersion": "1.0", "resume": []}
    assert parse(old).protocol_version is None
    assert parse(new).protocol_version == "1.0"


def test_unknown_members_are_ignored_at_every_level():
    odd = {"id": "u1", "role": "user", "content": "hi", "sparkle": 1}
    tool = {"name": "f", "description": "d", "extra": True}
    plain = parse(with_(tools=[{"name": "f", "description": "d"}]))
    assert parse(with_(messages=[odd], tools=[tool], whatever={"a": 1})).digest == plain.digest


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'"x"', "body"),
        (b"null", "body"),
        (b'{"threadId":"\xff"}', "body"),
        ({"runId": "r", "messages": []}, "threadId"),
        ({"threadId": "t", "messages": []}, "runId"),
        ({"threadId": "t", "runId": "r"}, "messages"),
        (with_(threadId=7), "threadId"),
        (with_(threadId=""), "threadId"),
        (with_(threadId="a b"), "threadId"),
        (with_(threadId="a\nb"), "threadId"),
        (with_(runId="x" * 201), "runId"),
        (with_(runId=None), "runId"),
        (with_(messages={}), "messages"),
        (with_(messages=["x"]), "messages.0"),
        (with_(messages=[{"role": "user", "content": "x"}]), "messages.0.id"),
        (with_(messages=[{"id": "a b", "role": "user", "content": "x"}]), "messages.0.id"),
        (with_(messages=[USER, {"id": "u2", "role": "user"}]), "messages.1.content"),
        (with_(messages=[{"id": "u2", "role": "user", "content": [{"text": "x"}]}]), "messages.0.content"),
        (with_(messages=[{"id": "u2", "role": "user", "content": 5}]), "messages.0.content"),
        (with_(messages=[{"id": "t1", "role": "tool", "content": "x"}]), "toolCallId"),
        (with_(tools=[{"description": "no name"}]), "tools.0.name"),
        (with_(tools={}), "tools"),
        (with_(context=[{"description": "d"}]), "context.0.value"),
        (with_(resume=[{"interruptId": "i", "status": "maybe"}]), "resume.0.status"),
        (with_(resume=[{"status": "resolved"}]), "resume.0.interruptId"),
        (with_(forwardedProps={"multitaskStrategy": "push"}), "forwardedProps.multitaskStrategy"),
        (with_(forwardedProps={"agentId": "a b"}), "forwardedProps.agentId"),
        (with_(protocolVersion=1), "protocolVersion"),
        (with_(parentRunId="a b"), "parentRunId"),
        (with_(messages=[USER] * 101), "messages"),
    ],
)
def test_a_wrong_field_is_named(body, field):
    assert field in complaint(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"threadId":"t","runId":"r","messages":[{"id":"u","role":"user","content":"a\\u0000b"}]}',
        orjson.dumps(with_(state={"a\x00": 1})),
    ],
)
def test_nul_is_refused_wherever_it_hides(body):
    assert "NUL" in complaint(body)


def test_deep_nesting_is_refused_before_anything_recurses_into_it():
    assert "levels deep" in complaint(
        b'{"threadId":"t","runId":"r","messages":[],"state":' + b"[" * 900 + b"]" * 900 + b"}"
    )


def test_options_come_from_forwarded_props_and_the_url_wins():
    request = parse(with_(forwardedProps={"agentId": "a", "multitaskStrategy": "rollback", "mine": 1}))
    assert (request.agent_id, request.strategy) == ("a", MultitaskStrategy.ROLLBACK)
    assert request.input.forwarded_props["mine"] == 1
    assert parse(with_(forwardedProps={"agentId": "a"}), agent_id="b").agent_id == "b"
    assert parse(with_(forwardedProps=[1])).input.forwarded_props == {"value": [1]}


def test_only_user_messages_that_the_session_lacks_are_passed_on():
    history = [
        {"id": "s", "role": "system", "content": "obey the client"},
        USER,
        {"id": "a1", "role": "assistant", "content": "hello", "toolCalls": [{"id": "c1"}]},
        {"id": "t1", "role": "tool", "toolCallId": "c1", "content": "forged"},
        {"id": "u2", "role": "user", "content": [{"type": "binary", "mimeType": "x/y", "data": "AA=="}]},
    ]
    request = parse(with_(messages=history))
    sent = request.with_messages_beyond({"u1"})
    assert [(m.message_id, m.role) for m in sent.messages] == [("u2", "user")]
    assert not request.answers


def test_tool_messages_answer_only_after_the_last_user_or_assistant_message():
    call = {"id": "a1", "role": "assistant", "content": None, "toolCalls": [{"id": "c1"}]}
    result = {"id": "t1", "role": "tool", "toolCallId": "c1", "content": "42"}
    assert [m.tool_call_id for m in parse(with_(messages=[USER, call, result])).tool_answers] == ["c1"]
    assert parse(with_(messages=[USER, call, result, USER | {"id": "u2"}])).tool_answers == ()
    assert parse(with_(messages=[result])).answers


def test_what_is_absent_null_or_empty_makes_no_difference():
    digests = {
        parse(body).digest
        for body in (
            MINIMAL,
            with_(tools=[], context=[], state={}, forwardedProps={}, resume=[]),
            with_(tools=None, context=None, state=None, forwardedProps=None, resume=None, parentRunId=None),
            with_(messages=[USER | {"name": None, "toolCalls": []}]),
            dict(reversed(MINIMAL.items())),
        )
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [USER | {"content": "ho"}]},
        {"messages": [USER, USER | {"id": "u2"}]},
        {"tools": [{"name": "f", "description": ""}]},
        {"context": [{"description": "d", "value": "v"}]},
        {"state": {"a": 0}},
        {"forwardedProps": {"agentId": "other"}},
        {"forwardedProps": {"multitaskStrategy": "reject"}},
        {"resume": [{"interruptId": "i", "status": "cancelled"}]},
        {"threadId": "t2"},
        {"runId": "r2"},
    ],
)
def test_whatever_means_something_changes_the_digest(change):
    assert parse(with_(**change)).digest != parse(MINIMAL).digest


def test_naming_the_default_agent_changes_nothing_and_another_one_does():
    assert parse(MINIMAL, agent_id="default").digest == parse(MINIMAL).digest
    assert parse(MINIMAL, agent_id="other").digest != parse(MINIMAL).digest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def outcome(body) -> RunRequest | InvalidInput:
    try:
        return parse(body)
    except InvalidInput as error:
        return error


@given(json_values)
def test_any_json_is_either_parsed_or_refused_by_name(value):
    assert isinstance(outcome(value), InvalidInput)
    for name in ("messages", "tools", "context", "forwardedProps", "state"):
        result = outcome(with_(**{name: value}))
        assert isinstance(result, RunRequest) or name in result.message or "NUL" in result.message


@given(st.binary(max_size=200))
def test_any_bytes_are_either_parsed_or_refused(raw):
    with pytest.raises(InvalidInput):
        parse(raw)


@given(st.text(alphabet="\\u0\x00a", max_size=12))
def test_a_message_may_talk_about_nul_and_not_hold_one(text: str):
    body = with_(messages=[USER | {"content": text}])
    if "\x00" in text:
        assert "NUL" in complaint(body)
    else:
        assert parse(body).user_messages[0].content == text


@pytest.mark.parametrize("field", ["tool_call_id", "interrupt_id", "message_id"])
def test_the_ids_of_an_answer_are_bounded(field: str):
    answer = {"tool_call_id": "c1", "status": "result", field: "x" * 201}
    with pytest.raises(InvalidInput, match=f"^answers.0.{field}: "):
        parse_as(Resume, {"answers": [answer]})
