"""What is written down for integrations: the AsyncAPI document, the bodies' models, the sample program."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from callboard_http.asyncapi import document
from callboard_http.problems import document as problem
from callboard_http.run_commands import accepted
from callboard_runtime.broker.messages import Accepted, Problem, RunEvent
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.settings import Settings
from contracts.ingress_client import token
from contracts.test_ingress import actors, front, settings  # noqa: F401 - fixtures
from integration.http_harness import Front
from unit import docs_pages as docs

ASYNCAPI = docs.ROOT / "docs" / "asyncapi.yaml"
PAGE = docs.ROOT / "docs" / "integrations" / "amqp.md"


def test_the_document_is_what_the_code_says() -> None:
    assert ASYNCAPI.read_text() == document(), "run `python -m callboard_http.asyncapi > docs/asyncapi.yaml`"


def test_the_document_describes_every_message() -> None:
    described: dict[str, Any] = yaml.safe_load(document())
    assert described["asyncapi"] == "3.0.0"
    assert set(described["channels"]) == {"Run", "Resume", "Cancel", "Accepted", "Refused", "RunEvents"}
    schemas = described["components"]["schemas"]
    assert {"threadId", "runId", "messages"} <= set(schemas["RunAgentInput"]["properties"])
    assert {"threadId", "runId", "messages"} == set(schemas["RunAgentInput"]["required"])
    assert {"run_id", "answers", "resume", "next_run_id"} <= set(schemas["ResumeMessage"]["properties"])
    assert "run.cancelled" in schemas["RunEvent"]["properties"]["type"]["enum"]


def test_replies_are_as_described() -> None:
    answer = RunAnswer(run_id="r1", thread_id="t1", task_id="x", status=RunStatus.QUEUED)
    assert Accepted.model_validate(accepted(answer)).events_url == "/api/v1/agent/runs/r1/events"
    described = Problem.model_validate(
        problem(429, "LIMIT_EXCEEDED", "too many", "callboard.ingress/run", retry_after=3)
    )
    assert (described.code, described.retry_after) == ("LIMIT_EXCEEDED", 3)


async def test_the_sample_of_the_page_runs(actors: None, front: Front, settings: Settings, tmp_path: Path) -> None:  # noqa: F811
    [program] = docs.blocks(PAGE, "python")
    (tmp_path / "sample.py").write_text(program)
    secret = {"CALLBOARD_AMQP_URL": settings.required_amqp_url(), "TOKEN": token().removeprefix("Bearer ")}
    sample = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "sample.py"), "sample-run", "sample.thread",
        env=os.environ | secret, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert sample.stdout is not None
    try:
        reply = (await asyncio.wait_for(sample.stdout.readline(), 60)).decode()
        assert reply.startswith("202 {")
        assert '"session_id":"sample.thread"' in reply
        assert (await front.call("POST", "/api/v1/agent/runs/sample-run/cancel")).status == 202
        assert await asyncio.wait_for(sample.stdout.readline(), 60) == b"run.cancelled\n"
        assert await asyncio.wait_for(sample.wait(), 60) == 0
    finally:
        if sample.returncode is None:
            sample.kill()
            await sample.wait()


def test_announcements_of_the_actor_are_as_described() -> None:
    body = {
        "id": "5c3f7dd6-8cc9-5b84-a6a5-1f2b0b9d7f11", "type": "run.interrupted", "at": "2026-01-02T03:04:05+00:00",
        "session_id": "t1", "run_id": "r1", "user_id": "ada", "agent_id": "default", "leg": 1,
        "pending": [{"toolCallId": "c1", "toolName": "refund"}],
    }  # fmt: skip
    assert RunEvent.model_validate(body).pending is not None
    with pytest.raises(ValueError, match="surprise"):
        RunEvent.model_validate(body | {"surprise": 1})
