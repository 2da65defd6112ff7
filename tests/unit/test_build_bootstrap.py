"""The bootstrap installs what is locked, tells uv what pip knows, and does nothing when nothing changed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, working on a folder of its own."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "requirements.lock").write_text((ROOT / "requirements.lock").read_text())
    places = {"ROOT": tmp_path, "VENV": tmp_path / ".venv", "TOOLS": tmp_path, "LOCK": tmp_path / "requirements.lock"}
    places |= {"PYTHON": tmp_path / ".venv" / "bin" / "python", "STAMP": tmp_path / ".venv" / "stamp"}
    for name, place in places.items():
        monkeypatch.setattr(module, name, place)
    return module


def test_it_needs_the_standard_library_alone() -> None:
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_uv_is_installed_with_the_hashes_of_the_lock(bootstrap: ModuleType) -> None:
    lines = bootstrap.locked("uv").strip().splitlines()
    assert lines[0].startswith("uv==")
    assert lines[1:]
    assert all(line.strip().startswith("--hash=sha256:") for line in lines[1:])


def test_a_lock_without_uv_says_how_to_make_it_again(bootstrap: ModuleType) -> None:
    bootstrap.LOCK.write_text("uvloop==1.0 \\\n    --hash=sha256:00\n")
    with pytest.raises(bootstrap.BootstrapError, match="does not name uv; make it again with `make lock`"):
        bootstrap.locked("uv")


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_file_makes_the_environment_stale(bootstrap: ModuleType, tmp_path: Path, changed: str) -> None:
    bootstrap.PYTHON.parent.mkdir(parents=True)
    bootstrap.PYTHON.touch()
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    assert bootstrap.up_to_date()
    with (tmp_path / changed).open("a") as file:
        file.write("# changed\n")
    assert not bootstrap.up_to_date()


def test_pips_indexes_are_told_to_uv(bootstrap: ModuleType, tmp_path: Path) -> None:
    listing = "global.extra-index-url='file:///a file:///b'\nglobal.timeout='9'\n:env:.find-links='/wheels'\n"
    fake = tmp_path / "pip"
    fake.write_text(f"import sys; assert sys.argv[1:] == ['config', 'list']; print({listing!r}, end='')")
    assert bootstrap.index_options([sys.executable, str(fake)]) == [
        *("--extra-index-url", "file:///a", "--extra-index-url", "file:///b"),
        *("--find-links", "/wheels", "--index-strategy", "unsafe-best-match"),
    ]


def test_without_indexes_of_its_own_uv_keeps_its_defaults(bootstrap: ModuleType, tmp_path: Path) -> None:
    fake = tmp_path / "pip"
    fake.write_text("")
    assert bootstrap.index_options([sys.executable, str(fake)]) == []


def test_a_failed_installer_hands_over_to_the_next(bootstrap: ModuleType, tmp_path: Path) -> None:
    done = tmp_path / "done"
    second = bootstrap.Installer([sys.executable, "-c", f"open({str(done)!r}, 'w').write('by pip')"])
    bootstrap.Installer([sys.executable, "-c", "raise SystemExit(1)"], fallback=second)("package")
    assert done.read_text() == "by pip"
    with pytest.raises(bootstrap.BootstrapError, match="ended with 1"):
        bootstrap.Installer([sys.executable, "-c", "raise SystemExit(1)"])("package")
