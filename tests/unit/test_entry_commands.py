"""Runs as Python callers ask for them: forgiving names, one digest, and tasks that show no content."""

from __future__ import annotations

import subprocess
import sys
import traceback
import uuid
from typing import Any

import pytest

from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.entry import client, tasks
from callboard_runtime.entry.celery_app import create_celery, kombu_url, tls_options
from callboard_runtime.entry.run_command import ResumeCommand, RunCommand
from callboard_runtime.entry.tasks import REDACTED, resume_agent_task, run_agent_task
from callboard_runtime.errors import InvalidInput


def test_snake_case_camel_case_and_session_id_name_the_same() -> None:
    one = RunCommand(user_id="u", thread_id="t", run_id="r", agent_id="a", message="hi")
    two = RunCommand(userId="u", threadId="t", runId="r", agentId="a", message="hi", attempt=3, unknown=True)
    three = RunCommand(user_id="u", session_id="t", run_id="r", agent_id="a", message="hi")
    assert one == two == three


def test_the_command_is_the_one_a_front_would_send() -> None:
    command = RunCommand(user_id="u", thread_id="t", run_id="r", message="hi", multitaskStrategy="reject")
    accept = command.accept(5)
    assert accept.session_id == session_uuid("u", "t")
    assert (accept.user_id, accept.thread_id, accept.run_id, accept.agent_id) == ("u", "t", "r", "default")
    assert [(m.message_id, m.role, m.content) for m in accept.input.messages] == [("r:user", "user", "hi")]
    assert accept.strategy is MultitaskStrategy.REJECT
    assert 0 < (accept.not_after - utcnow()).total_seconds() <= 5


def test_equal_runs_have_equal_digests_and_others_do_not() -> None:
    base: dict[str, Any] = {"user_id": "u", "thread_id": "t", "run_id": "r", "message": "hi"}
    digest = RunCommand(**base).accept(5).digest
    assert RunCommand(**base, tools=(), state=None, forwarded_props={}).accept(9).digest == digest
    assert RunCommand(**{**base, "message": "ho"}).accept(5).digest != digest
    assert RunCommand(**{**base, "agent_id": "b"}).accept(5).digest != digest


def test_the_digest_is_that_of_the_same_run_over_http() -> None:
    run_request = pytest.importorskip("callboard_http.run_request")
    body = (
        b'{"threadId":"t","runId":"r","state":{},"tools":[],"context":[],"forwardedProps":{},'
        b'"messages":[{"id":"m1","role":"user","content":"hi"}]}'
    )
    over_http = run_request.parse_run_request(body, max_messages=10)
    message = {"id": "m1", "role": "user", "content": "hi"}
    assert RunCommand(thread_id="t", run_id="r", messages=(message,)).accept(5).digest == over_http.digest


def test_messages_of_other_roles_are_not_the_users() -> None:
    command = RunCommand(
        thread_id="t",
        run_id="r",
        messages=({"id": "a", "role": "assistant", "content": "x"}, {"role": "user", "content": "y"}),
        message="z",
    )
    accepted = command.accept(5).input.messages
    assert [(m.message_id, m.content) for m in accepted] == [("r:user:0", "y"), ("r:user", "z")]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "RunCommand: thread_id"),
        ({"thread_id": "no spaces"}, "RunCommand: thread_id"),
        ({"thread_id": "t", "run_id": "x" * 201}, "RunCommand: run_id"),
        ({"thread_id": "t", "strategy": "perhaps"}, "RunCommand: strategy"),
    ],
)
def test_a_wrong_member_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        RunCommand(**values)


def test_answers_go_to_the_paused_run() -> None:
    command = ResumeCommand(
        user_id="u", thread_id="t", run_id="r", answers=[{"tool_call_id": "c", "status": "approved"}]
    )
    accept = command.accept(5)
    assert (accept.run_id, accept.leg_run_id, accept.answers[0].tool_call_id) == ("r", "r", "c")
    with pytest.raises(InvalidInput, match="ResumeCommand: answers"):
        ResumeCommand(thread_id="t", run_id="r", answers=[])


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"messages": [{"id": "a", "role": "assistant"}, {"id": ["my secret"], "content": "x"}]}, "messages.1.id"),
        ({"messages": [{"message_id": {"my secret": 1}, "content": "x"}]}, "messages.0.message_id"),
        ({"messages": [{"id": "a", "name": ("my secret",), "content": "x"}]}, "messages.0.name"),
        ({"messages": [{"id": "a"}, {"id": "b", "content": ["my secret", object()]}]}, "messages.1"),
        ({"messages": [{"id": "a", "content": {"my secret": 2**70}}]}, "messages.0"),
        ({"messages": [{"id": "a", "content": "my secret \ud800"}]}, "messages.0"),
        ({"tools": [{"name": "my secret", "parameters": {"properties": {"a": object()}}}]}, "tools.0"),
        ({"context": [{"value": "my secret", "more": b"x"}]}, "context.0"),
        ({"state": {"my secret": {1, 2}}}, "state"),
        ({"state": {"my secret": ENDLESS}}, "state"),
        ({"forwarded_props": {"my secret": object()}}, "forwardedProps"),
    ],
)
def test_what_cannot_be_sent_is_named_and_not_shown(values: dict[str, Any], field: str) -> None:
    command = RunCommand(thread_id="t", run_id="r", **values)
    with pytest.raises(InvalidInput, match=f"^{field}: must be ") as raised:
        command.accept(5)
    assert "secret" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("payload", [object(), {"my secret": 2**70}, ["my secret", b"\xff"], ENDLESS])
def test_an_answer_that_cannot_be_sent_is_named_and_not_shown(payload: Any) -> None:
    answers = [{"tool_call_id": f"c{n}", "status": "result", "payload": said} for n, said in enumerate(("x", payload))]
    command = ResumeCommand(thread_id="t", run_id="r", answers=answers)
    with pytest.raises(InvalidInput, match=r"^answers\.1: must be ") as raised:
        command.accept(5)
    assert "secret" not in "".join(traceback.format_exception(raised.value))


class Published(Exception):
    def __init__(self, headers: dict[str, Any], body: Any) -> None:
        self.headers, self.body = headers, body
        super().__init__()


def published(monkeypatch: pytest.MonkeyPatch, task: Any, *args: Any, **kwargs: Any) -> Published:
    """What `task.delay` would put on the wire."""
    monkeypatch.setitem(tasks.app.conf, "broker_url", "memory://")

    def send(producer: Any, name: str, message: Any, **_: Any) -> None:
        raise Published(message.headers, message.body)

    monkeypatch.setattr(tasks.app.amqp, "send_task_message", send)
    with pytest.raises(Published) as raised:
        task.delay(*args, **kwargs)
    return raised.value


def test_content_is_not_shown_in_a_tasks_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    command = RunCommand(user_id="u", thread_id="t", run_id="r", message="my secret")
    for sent in (
        published(monkeypatch, run_agent_task, command),
        published(monkeypatch, run_agent_task, **command.model_dump(mode="json")),
        published(monkeypatch, resume_agent_task, {"thread_id": "t", "payload": "my secret"}),
    ):
        assert (sent.headers["argsrepr"], sent.headers["kwargsrepr"]) == (REDACTED, REDACTED)
        assert "secret" not in str(sent.headers)


def test_ids_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    session, run = str(uuid.uuid4()), str(uuid.uuid4())
    assert run in published(monkeypatch, run_agent_task, session, run, "1").headers["argsrepr"]


@pytest.mark.parametrize("how", ["model", "mapping", "keywords"])
def test_a_direct_call_with_content_accepts_first(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    accepted: list[RunCommand] = []

    def enqueue(command: RunCommand) -> str:
        accepted.append(command)
        return "task"

    monkeypatch.setattr(tasks, "enqueue_run", enqueue)
    command = RunCommand(user_id="u", thread_id="t", run_id="r", message="hi")
    plain = command.model_dump(mode="json")
    calls: dict[str, Any] = {
        "model": lambda: run_agent_task(command),
        "mapping": lambda: run_agent_task(plain),
        "keywords": lambda: run_agent_task(**plain),
    }
    assert calls[how]() == "task"
    assert accepted == [command]


def test_a_message_delivered_twice_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[RunCommand] = []
    monkeypatch.setattr(tasks, "enqueue_run", lambda command: accepted.append(command) or "task")
    for _ in range(2):
        run_agent_task.apply(args=[{"thread_id": "t", "message": "hi"}], task_id="the-task")
    assert [command.run_id for command in accepted] == ["the-task", "the-task"]


def test_enqueue_run_returns_the_task_id_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def send(self, command: RunCommand) -> Any:
            return type("Answer", (), {"task_id": f"task of {command.run_id}"})

    monkeypatch.setattr(client, "shared_client", Client)
    assert client.enqueue_run({"thread_id": "t", "run_id": "r", "message": "hi"}) == "task of r"


def test_the_tasks_can_be_imported_without_crewai_litellm_settings_or_broker() -> None:
    program = (
        "import sys, callboard_runtime.entry.tasks, callboard_runtime.entry.resume_service\n"
        "loaded = {'crewai', 'litellm'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_celery_gets_a_url_without_the_other_librarys_parameters() -> None:
    url = "amqps://u:p@host:5671/vhost?heartbeat=10&cafile=/ca.pem&reconnect_interval=1"
    assert kombu_url(url) == "amqps://u:p@host:5671/vhost"
    options = tls_options(url)
    assert options is not None
    assert options["ca_certs"] == "/ca.pem"
    assert tls_options("amqp://host/") is None


def test_the_worker_acknowledges_early_and_stores_nothing() -> None:
    conf = create_celery().conf
    assert (conf.task_acks_late, conf.task_ignore_result, conf.worker_prefetch_multiplier) == (False, True, 1)
    (queue,) = conf.task_queues
    assert queue.queue_arguments["x-queue-type"] == "quorum"
