"""The systemd units are ones that systemd takes, and what they name of Callboard exists."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from callboard_runtime.cli import build_app
from callboard_runtime.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
PROCESSES = ("http", "actors", "worker")
PROGRAM = "/opt/callboard/bin/callboard"

Unit = dict[str, dict[str, list[str]]]


def read(path: Path) -> Unit:
    """A unit's values by section and name, in order."""
    unit: Unit = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = unit.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return unit


def process(name: str) -> Unit:
    return read(FOLDER / f"callboard-{name}@.service")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = tmp_path / "callboard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    names: list[str] = []
    for path in (*SERVICES, FOLDER / "callboard.target"):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, str(program)))
        names.append(path.name.replace("@.", "@8000."))
    done = _verify(tmp_path, names)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "callboard" in line]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
def test_systemd_would_find_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "callboard-worker.service").write_text(
        "[Service]\nExecStart=/nowhere/callboard worker\nRestrat=always\n"
    )
    done = _verify(tmp_path, ["callboard-worker.service"])
    assert "Restrat" in done.stderr
    assert done.returncode != 0


def _verify(folder: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in names)]
    environment = {"SYSTEMD_UNIT_PATH": f"{folder}:", "PATH": "/usr/bin:/bin"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_every_kind_of_process_has_a_unit() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        "callboard.target",
        "callboard-migrate.service",
        *(f"callboard-{name}@.service" for name in PROCESSES),
    }


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_runs_a_real_command_confined(path: Path) -> None:
    service = read(path)["Service"]
    [words] = [line.split() for line in service["ExecStart"]]
    assert words[0] == PROGRAM
    assert words[1] in typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    assert words[2:] == []
    assert service["User"] == ["callboard"]
    confined = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": ""}
    assert {name: service[name] for name in confined} == {name: [value] for name, value in confined.items()}
    assert service["RestartPreventExitStatus"] == ["2"], "a wrong setting is not mended by starting again"


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_comes_back_and_gets_the_time_to_drain(name: str) -> None:
    unit = process(name)
    drain = {"http": Settings.model_validate({}).http.drain, "worker": Settings.model_validate({}).worker.drain}
    assert unit["Service"]["Restart"] == ["always"]
    assert int(unit["Service"]["TimeoutStopSec"][0]) > drain.get(name, 20)
    assert unit["Unit"]["PartOf"] == unit["Install"]["WantedBy"] == ["callboard.target"]
    assert "callboard-migrate.service" in unit["Unit"]["After"][0].split()
    assert "Requires" not in unit["Unit"], "the migration of an upgrade must not stop what runs"


@pytest.mark.parametrize("name", PROCESSES)
def test_the_environment_is_made_of_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [line.replace("%i", "8001") for line in process(name)["Service"]["Environment"]]
    for line in given:
        monkeypatch.setenv(*line.split("=", 1))
    settings = Settings()
    assert (settings.http.port == 8001) == (name == "http")
    assert (settings.metrics.port == 9400) == (name != "http")
    files = process(name)["Service"]["EnvironmentFile"]
    assert files == ["/etc/callboard/callboard.env", f"-/etc/callboard/{name}.env"]
