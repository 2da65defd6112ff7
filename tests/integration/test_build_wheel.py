"""The wheel holds everything the commands need: installed alone, it migrates a database."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from callboard_runtime.persistence import migrate
from services.postgres import Databases
from services.session import Services

ROOT = Path(__file__).parents[2]
PACKAGED = ("*.yaml", "*.html", "*.js", "*.css", "*.mako", "*.lua", "py.typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sources as they are."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel itself, and the dependencies of this one; not the sources."""
    environment = tmp_path_factory.mktemp("installed")
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    argv = [str(uv), "pip", "install", "-q", "--no-deps", "--offline", "--python", str(python), str(wheel)]
    subprocess.run(argv, check=True, capture_output=True)
    site = next(environment.glob("lib/python*/site-packages"))
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    # A folder named in a .pth file is searched, but .pth files inside it are not read: our own sources stay out.
    (site / "dependencies.pth").write_text(f"{ours}\n")
    return environment


def _run(installed: Path, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "CALLBOARD_ENV_FILE": "", "CALLBOARD_DATABASE_URL": url}
    argv = [str(installed / "bin" / "callboard"), *arguments]
    return subprocess.run(argv, cwd=installed, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_data_files_of_every_package(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(file.relative_to(ROOT / root))
        for root in ("runtime", "actors", "http")
        for pattern in PACKAGED
        for file in (ROOT / root).rglob(pattern)
    }
    assert any(name.endswith(".yaml") for name in expected)
    assert expected - inside == set()


def test_the_wheel_holds_the_migrations_and_nothing_foreign(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    versions = {file.name for file in (ROOT / "migrations" / "versions").glob("*.py")}
    prefix = "callboard_runtime/persistence/migrations/versions/"
    assert {name.removeprefix(prefix) for name in inside if name.startswith(prefix)} == versions
    assert {name.split("/")[0].split("-")[0] for name in inside} == {
        "callboard",
        "callboard_actors",
        "callboard_http",
        "callboard_runtime",
    }


def test_the_installed_command_tells_its_version(installed: Path) -> None:
    done = _run(installed, "--version")
    assert done.returncode == 0, done.stderr
    assert "0.1.0" in done.stdout


async def test_the_installed_command_migrates_an_empty_database(installed: Path, empty_database: str) -> None:
    done = _run(installed, "migrate", url=empty_database)
    assert done.returncode == 0, done.stderr
    assert await migrate.current_revision(empty_database) == migrate.head()


@pytest.fixture
def empty_database(services: Services):
    databases: Databases = services.template().databases
    url = databases.create()
    yield url
    databases.drop(url)
