"""The folders are source roots, not packages: `http/` must never hide the standard library's module of that name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("runtime", "actors", "http")


@pytest.mark.parametrize("name", SOURCE_ROOTS)
def test_a_source_root_is_no_package_and_holds_exactly_one(name: str) -> None:
    assert not list((ROOT / name).glob("*.py"))
    packages = [folder.name for folder in (ROOT / name).iterdir() if (folder / "__init__.py").exists()]
    assert packages == [f"callboard_{name}"]


@pytest.mark.parametrize("package", [f"{name}/callboard_{name}" for name in SOURCE_ROOTS])
def test_packages_tell_type_checkers_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


def test_no_test_folder_hides_a_module_of_the_standard_library() -> None:
    folders = {
        folder.name for folder in (ROOT / "tests").rglob("*") if folder.is_dir() and "node_modules" not in str(folder)
    }
    files = {file.stem for file in (ROOT / "tests").glob("*.py")}
    assert not (folders | files) & sys.stdlib_module_names


@pytest.mark.parametrize("folder", [".", "tests"])
def test_http_is_the_standard_library_for_python_dash_m(folder: str) -> None:
    code = "import http.client, http; print(http.__file__)"
    argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, ''); {code}"]
    done = subprocess.run(argv, cwd=ROOT / folder, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).is_relative_to(ROOT / "http")


def test_the_migrations_exist_once() -> None:
    assert (ROOT / "migrations" / "env.py").exists()
    assert not (ROOT / "runtime" / "callboard_runtime" / "persistence" / "migrations").exists()


def test_all_layers_are_held_apart_by_contracts() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    forbidden = {
        (source, target)
        for c in contracts
        for source in c.get("source_modules", [])
        for target in c.get("forbidden_modules", [])
    }
    assert {("callboard_runtime", "callboard_actors"), ("callboard_runtime", "callboard_http")} <= forbidden
    assert {("callboard_http", name) for name in ("crewai", "litellm", "celery")} <= forbidden


def test_nothing_compiled_is_kept() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert [name for name in tracked if name.endswith(".pyc") or "node_modules/" in name] == []
