"""Log records: the ids of the run they belong to, and the secrets that they do not show."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import uuid

from pydantic import SecretStr

from callboard_runtime.cli.logs import JsonFormatter, TextFormatter
from callboard_runtime.observe.logs import HIDDEN, Redactor, RunIds, run_named
from callboard_runtime.settings import AuthSettings, LlmSettings, OtelSettings, ProviderKeys, Settings

SESSION, RUN = uuid.UUID(int=1), uuid.UUID(int=2)


def made(message: str = "sent", **extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "x", "levelno": 20, "levelname": "INFO", "msg": message, **extra})
    assert RunIds().filter(record)
    return record


def test_records_inside_a_run_name_it_and_only_those() -> None:
    with run_named(SESSION, RUN):
        line = json.loads(JsonFormatter().format(made(action="a")))
        text = TextFormatter().format(made(action="a"))
    assert (line["run_id"], line["session_id"], line["action"]) == (str(RUN), str(SESSION), "a")
    assert f"run_id={RUN}" in text
    assert "session_id" not in text
    assert "run_id" not in json.loads(JsonFormatter().format(made()))


def test_what_the_caller_gave_stays() -> None:
    with run_named(SESSION, RUN):
        assert made(run_id="mine").__dict__["run_id"] == "mine"


async def test_tasks_and_threads_of_a_run_inherit_its_ids() -> None:
    with run_named(SESSION, RUN):
        inside = [await asyncio.create_task(_later()), await asyncio.to_thread(made)]
        context = contextvars.copy_context()
    assert [record.__dict__["run_id"] for record in inside] == [str(RUN)] * 2
    assert context.run(made).__dict__["run_id"] == str(RUN)
    assert "run_id" not in made().__dict__


async def _later() -> logging.LogRecord:
    return made()


def test_secrets_of_the_settings_are_hidden_wherever_they_turn_up() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://callboard:p%40ss@db:5432/callboard"),
        auth=AuthSettings(jwt_secret=SecretStr('a "quoted" secret of more than 32 bytes')),
        llm=LlmSettings(provider_keys=ProviderKeys.model_validate({"deepseek": "sk-12345", "mine": "sk-67890"})),
        otel=OtelSettings(headers=SecretStr("authorization=Bearer abc")),
    )
    secrets = ("p%40ss", "p@ss", 'a "quoted" secret', "sk-12345", "sk-67890", "Bearer abc")
    told = (
        "postgresql://callboard:p%40ss@db:5432/callboard and callboard:p@ss@db, "
        'a "quoted" secret of more than 32 bytes, sk-12345, sk-67890, authorization=Bearer abc'
    )
    for formatter in (TextFormatter(Redactor(settings)), JsonFormatter(Redactor(settings))):
        line = formatter.format(made(told, action=told))
        assert not [secret for secret in secrets if secret in line or json.dumps(secret)[1:-1] in line]
        assert f"callboard:{HIDDEN}@db:5432/callboard" in line
    json.loads(line)


def test_nothing_is_hidden_without_secrets() -> None:
    assert Redactor(Settings())("callboard") == Redactor()("callboard") == "callboard"
