"""The runbook's limits are the settings', and every command in the documentation is one that exists."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from callboard_http.run_request import parse_run_request
from callboard_runtime.broker import topology
from callboard_runtime.cli import build_app
from callboard_runtime.cli.processes import DOCUMENTS, LOAD, PROCESSES, _load
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.settings import PREFIX, Settings
from unit import docs_pages as docs

# -- limits -----------------------------------------------------------------------------------------------------------

VERSION = tomllib.loads((docs.ROOT / "pyproject.toml").read_text())["project"]["version"]
_SETTING, _CONSTANT = "setting", "constant"


def _numbers(model: type[BaseModel] = Settings, prefix: str = PREFIX) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _numbers(kind, f"{prefix}{name.upper()}__")
        elif kind in (int, float):
            yield prefix + name.upper(), str(field.default)


def test_every_setting_that_is_a_number_is_explained_with_its_default() -> None:
    table = docs.table(docs.RUNBOOK, _SETTING)
    told = {docs.spans(name)[0]: docs.spans(default)[0] for name, default, _ in table.rows}
    assert told == dict(_numbers())
    assert all(effect for _, _, effect in table.rows)


@pytest.mark.parametrize("row", docs.table(docs.RUNBOOK, _CONSTANT).rows, ids=lambda row: row[0])
def test_a_constant_has_the_value_that_the_page_tells(row: tuple[str, ...]) -> None:
    module, _, name = docs.spans(row[0])[0].partition(":")
    assert float(row[1]) == float(getattr(import_module(module), name))


def test_the_deadline_suits_the_default_consumer_timeout() -> None:
    rabbitmqs_default = 1800  # seconds
    assert Settings.model_validate({}).runs.deadline <= rabbitmqs_default / 2
    [block] = docs.blocks(docs.RUNBOOK, "ini")
    milliseconds = int(block.rpartition("=")[2])
    [deadline] = re.findall(r"^CALLBOARD_RUNS__DEADLINE=(\d+)$", docs.RUNBOOK.read_text(), re.MULTILINE)
    assert int(deadline) <= milliseconds / 1000 / 2


def test_queues_and_exchanges_are_those_of_the_topology() -> None:
    told = {docs.spans(cell)[0] for cell in docs.table(docs.RUNBOOK, "queue or exchange").column("queue or exchange")}
    assert told == {
        topology.partition_queue(0).replace(".0.", ".<partition>."),
        topology.WORKER_QUEUE,
        topology.DEAD_QUEUE,
        topology.LANE_EXCHANGE,
        topology.CONTROL_EXCHANGE,
        topology.INGRESS_QUEUE,
        topology.EVENTS_EXCHANGE,
    }
    assert f"{PARTITIONS} partition queues" in docs.RUNBOOK.read_text()


# -- commands ---------------------------------------------------------------------------------------------------------


def _shell_lines() -> Iterator[tuple[str, str]]:
    for page in docs.pages():
        for block in docs.blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                yield page.name, line
        for span in docs.spans(docs.prose(page)):
            if span.split()[0] in ("callboard", "make", ".venv/bin/callboard") and " " in span:
                yield page.name, span


LINES = sorted(set(_shell_lines()))
COMMANDS = [line for _, line in LINES if re.match(r"[a-z.]", line)]


@pytest.mark.parametrize("block", [block for page in docs.pages() for block in docs.blocks(page, "sh")])
def test_shell_blocks_are_shell(block: str) -> None:
    assert subprocess.run(["sh", "-n"], input=block, text=True, check=False, capture_output=True).stderr == ""


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_exists_with_these_options(line: str) -> None:
    if line.startswith("curl "):
        return  # the next test
    words = shlex.split(line.partition(" > ")[0], comments=True)
    _CHECKS[words[0].removeprefix(".venv/bin/").removeprefix("/opt/callboard/bin/")](words[1:])


def test_there_are_commands_to_check() -> None:
    programs = {shlex.split(line.split("'")[0])[0] for line in COMMANDS}
    assert {"callboard", "make", "docker", "rabbitmqctl", "curl"} <= programs


def _callboard(words: list[str]) -> None:
    """The command exists and takes these arguments; a text may name one without any."""
    command: Any = typer.main.get_command(build_app())
    process = next((process for process in (*PROCESSES, *DOCUMENTS, LOAD) if process.name == words[0]), None)
    if process is not None:
        targets = {
            "http": "callboard_http.cli:http",
            "actors": "callboard_actors.cli:actors",
            "load": "callboard_runtime.cli.load:load",
            "openapi": "callboard_http.reference_cli:openapi",
            "asyncapi": "callboard_http.reference_cli:asyncapi",
        }
        command, words = _load(process, process.target or targets[process.name]), words[1:]
    while hasattr(command, "commands") and words:
        command, words = command.commands[words[0]], words[1:]
    if words:
        command.make_context("callboard", list(words))


def _make(words: list[str]) -> None:
    [targets] = re.findall(r"^\.PHONY: (.+)$", (docs.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[0] in targets.split()
    assert all(re.match(r"(ARGS|ROUNDS)=", word) for word in words[1:])


def _docker(words: list[str]) -> None:
    if words[0] == "build":
        assert words[1:] == ["-t", f"callboard:{VERSION}", "."]
        return
    services = yaml.safe_load((docs.ROOT / "compose.yaml").read_text())["services"]
    assert words[:2] == ["compose", "up"]
    scaled = [words[i + 1] for i, word in enumerate(words) if word == "--scale"]
    assert all(name.partition("=")[0] in services for name in scaled)


def _rabbitmqctl(words: list[str]) -> None:
    match words:
        case ["list_queues", "--vhost", "callboard", *columns]:
            assert columns == ["name", "messages", "consumers"]
        case ["purge_queue", "--vhost", "callboard", queue]:
            assert queue == topology.DEAD_QUEUE
        case _:
            pytest.fail(f"rabbitmqctl {words}: not checked")


def _kubectl(words: list[str]) -> None:
    """The files are there, and so is what they are said to make."""
    folder = docs.ROOT / "deploy" / "kubernetes"
    given = [word for option, word in pairwise(words) if option in ("-f", "-k")]
    assert all(name == "secrets.yaml" or (docs.ROOT / name).exists() for name in given)
    made = {
        f"{item['kind'].lower()}/{item['metadata']['name']}": item
        for path in folder.glob("*.yaml")
        for item in yaml.safe_load_all(path.read_text())
        if "metadata" in item
    }
    assert {word for word in words if re.match(r"(job|deployment)/", word)} <= made.keys()
    if words[:2] == ["set", "image"]:
        target, image = words[-2:]
        [container] = made[target]["spec"]["template"]["spec"]["containers"]
        assert image == f"{container['name']}=callboard:{VERSION}"


def _systemctl(words: list[str]) -> None:
    units = {path.name for path in (docs.ROOT / "deploy" / "systemd").iterdir()}
    assert words[0] in {"daemon-reload", "enable", "restart", "status"}
    for name in (word for word in words[1:] if not word.startswith("--")):
        unit = re.sub(r"@\w+$", "@", name) + ("" if name.endswith(".target") else ".service")
        assert unit in units, name


def _install(words: list[str]) -> None:
    named = [word for word in words if not word.startswith(("-", "/", "0"))]
    assert all((docs.ROOT / name).is_file() for name in named)


def _pip(words: list[str]) -> None:
    assert words[0] == "install"
    assert all((docs.ROOT / word).is_file() for option, word in pairwise(words) if option == "-r")


def _machine(words: list[str]) -> None:
    """A command of the machine alone, which names nothing of ours that is in the repository."""
    assert not [word for word in words if (docs.ROOT / word).is_file()]


def _python(words: list[str]) -> None:
    assert (docs.ROOT / words[0]).is_file()


_CHECKS = {
    "callboard": _callboard,
    "make": _make,
    "docker": _docker,
    "rabbitmqctl": _rabbitmqctl,
    "python": _python,
    "kubectl": _kubectl,
    "systemctl": _systemctl,
    "install": _install,
    "pip": _pip,
    "python3.11": _machine,
    "useradd": _machine,
}


def test_assignments_in_shell_blocks_are_settings() -> None:
    given = [line for _, line in LINES if re.match(r"[A-Z]", line)]
    assert given
    for line in given:
        name, _, value = line.partition("=")
        section, _, field = name.removeprefix(PREFIX).lower().partition("__")
        assert Settings.model_validate({section: {field: value}})


def test_the_readmes_curl_line_is_a_run() -> None:
    [curl] = [block for block in docs.blocks(docs.README, "sh") if block.startswith("curl ")]
    words = shlex.split(curl.replace("'$(date +%s)'", "1"))
    assert words[:2] == ["curl", "-N"]
    assert words[2].endswith("/api/v1/agent/agui/default")
    assert f":{Settings.model_fields['http'].annotation.model_fields['port'].default}/" in words[2]  # type: ignore[union-attr]
    asked = parse_run_request(words[words.index("-d") + 1].encode(), max_messages=1)
    assert asked.user_messages[0].content


def test_callboard_up_prints_the_same_curl_line() -> None:
    from callboard_runtime.cli.up import _TRY

    [curl] = [block for block in docs.blocks(docs.README, "sh") if block.startswith("curl ")]
    printed = _TRY.format(url="http://127.0.0.1:8000")
    assert shlex.split(curl)[:4] == shlex.split(printed)[:4]
