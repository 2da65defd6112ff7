"""requirements.lock pins and hashes all that pyproject.toml asks for, on every Python, and names no host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
FLOWS_LOCK = (ROOT / "requirements.flows.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
APART = ("flows",)  # extras with a lock of their own
PYTHONS = ("3.11.9", "3.12.9", "3.13.9")


def _locked(lock: str = LOCK) -> list[Requirement]:
    lines = lock.replace("\\\n", " ").splitlines()
    return [Requirement(line.split("--hash")[0].strip()) for line in lines if line.strip()]


def _wanted() -> list[Requirement]:
    project = PROJECT["project"]
    apart = ("all", *APART)
    extras = [text for name, texts in project["optional-dependencies"].items() if name not in apart for text in texts]
    return [Requirement(text) for text in (*project["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"])]


def _applies(marker: Marker | None, python: str) -> bool:
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return marker is None or marker.evaluate({**environment, "extra": ""})


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("wanted", _wanted(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_locked_within_its_bounds(wanted: Requirement, python: str) -> None:
    names = [lock for lock in _locked() if canonicalize_name(lock.name) == canonicalize_name(wanted.name)]
    locked = [lock for lock in names if _applies(lock.marker, python)]
    assert len(locked) == 1, f"{wanted.name} is locked {len(locked)} times for Python {python}; run `make lock`"
    version = next(iter(locked[0].specifier)).version
    assert Version(version) in wanted.specifier


def test_the_lock_for_flows_fits_the_extra() -> None:
    wanted = [Requirement(text) for name in APART for text in PROJECT["project"]["optional-dependencies"][name]]
    locked = {canonicalize_name(lock.name): lock for lock in _locked(FLOWS_LOCK)}
    worker = {canonicalize_name(lock.name): lock for lock in _locked() if lock.marker is None}
    for requirement in wanted:
        version = next(iter(locked[canonicalize_name(requirement.name)].specifier)).version
        assert Version(version) in requirement.specifier
    for name in ("crewai", "litellm"):  # what flows are tested with is what workers have
        assert str(locked[name].specifier) == str(worker[name].specifier)


@pytest.mark.parametrize("lock", [LOCK, FLOWS_LOCK], ids=["all", "flows"])
def test_every_locked_package_has_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) > 100
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", [LOCK, FLOWS_LOCK], ids=["all", "flows"])
def test_the_lock_names_no_address_and_no_path(lock: str) -> None:
    assert not re.search(r"://|@ |^-|\bfile:", lock, re.MULTILINE)


@pytest.mark.parametrize("wanted", _wanted(), ids=lambda requirement: requirement.name)
def test_every_dependency_has_an_upper_bound(wanted: Requirement) -> None:
    assert any(specifier.operator in {"<", "==", "~="} for specifier in wanted.specifier)
