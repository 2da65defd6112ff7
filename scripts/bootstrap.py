"""Make .venv from requirements.lock: hash-checked, with the project editable. Standard library only.

Runs on a machine that has Python 3.11 to 3.13 and nothing else; does nothing when .venv is up to date.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / ".callboard-stamp"
TOOLS = ROOT / ".tools"
SUPPORTED = ((3, 11), (3, 12), (3, 13))


class BootstrapError(Exception):
    """The environment cannot be made; the text says what to do."""


def main() -> int:
    """Bring .venv up to date; 0 when it is."""
    if sys.version_info[:2] not in SUPPORTED:
        return use_another_python()
    try:
        with one_at_a_time():
            if not up_to_date():
                build()
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    return 0


def use_another_python() -> int:
    """Hand over to a supported interpreter on PATH."""
    for major, minor in SUPPORTED:
        if found := shutil.which(f"python{major}.{minor}"):
            return subprocess.run([found, *sys.argv], check=False).returncode
    have = ".".join(map(str, sys.version_info[:3]))
    print(f"bootstrap: Python 3.11, 3.12 or 3.13 is needed, this is {have}; install one of them", file=sys.stderr)
    return 1


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "bootstrap.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in (LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def up_to_date() -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def build() -> None:
    began = time.monotonic()
    STAMP.unlink(missing_ok=True)
    pip = make_venv()
    say("installing the locked packages (once; a minute or two)")
    install = uv_installer(pip) or pip_installer(pip)
    install("--require-hashes", "-r", str(LOCK))
    say("installing the project, editable")
    install("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    say("compiling bytecode")
    run([str(PYTHON), "-m", "compileall", "-q", "-j", "0", *source_folders()], quiet=True, check=False)
    STAMP.write_text(fingerprint())
    say(f"ready in {time.monotonic() - began:.0f} s")


def source_folders() -> list[str]:
    return [str(ROOT / name) for name in ("runtime", "actors", "http", "migrations", "tests")]


# --- an environment, and a pip that can fill it


def make_venv() -> list[str]:
    """Create .venv if it is missing or broken, and return the argv of a pip that installs into it."""
    if PYTHON.exists() and works([str(PYTHON), "-c", "import sys; sys.exit(sys.version_info[:2] < (3, 11))"]):
        return pip_for_venv()
    say(f"creating {VENV.name} with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    if works([sys.executable, "-m", "venv", str(VENV)]):
        return pip_for_venv()
    if apt("python3-venv") and works([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        return pip_for_venv()
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    return pip_for_venv()


def pip_for_venv() -> list[str]:
    """The first of: the environment's pip, the system's pip, the distribution's pip wheel, the same one downloaded."""
    inside = [str(PYTHON), "-m", "pip"]
    if works([*inside, "--version"]):
        return inside
    outside = [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if works([*outside, "--version"]):
        return outside
    wheel = next(iter(sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))), None) or downloaded_pip()
    if wheel is not None:
        return [str(PYTHON), f"{wheel}/pip"]
    raise BootstrapError(
        "this Python has neither venv nor pip; install them (Debian: apt-get install python3-venv) and try again"
    )


def downloaded_pip() -> Path | None:
    """Debian's own wheel of pip, unpacked under .tools: what python3-venv would have brought, without root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return None
    say("fetching pip from the distribution")
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        if not works(["apt-get", "download", "-q", "python3-pip-whl"], cwd=Path(folder)):
            return None
        for package in Path(folder).glob("*.deb"):
            run(["dpkg", "-x", str(package), str(TOOLS / "pip")])
    return next(iter((TOOLS / "pip").rglob("pip-*.whl")), None)


# --- installers: uv when it can be had, for its speed, else pip


def uv_installer(pip: list[str]) -> Installer | None:
    """uv of the locked version, installed into .venv with its hash checked; None where there is no build of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(locked("uv"))
        file.flush()
        if not works([*pip, "install", "-q", "--require-hashes", "--no-deps", "-r", file.name]):
            return None
    command = [str(VENV / "bin" / "uv"), "pip", "install", "-q", "--python", str(PYTHON), "--compile-bytecode"]
    return Installer([*command, *index_options(pip)], fallback=pip_installer(pip))


def pip_installer(pip: list[str]) -> Installer:
    return Installer([*pip, "install", "-q"])


class Installer:
    """Runs an install command; tries the fallback before it gives up."""

    def __init__(self, command: list[str], fallback: Installer | None = None) -> None:
        self.command = command
        self.fallback = fallback

    def __call__(self, *arguments: str) -> None:
        try:
            run([*self.command, *arguments], environment=uv_environment())
        except BootstrapError:
            if self.fallback is None:
                raise
            say("trying once more with pip")
            self.fallback(*arguments)


def locked(name: str) -> str:
    """The lines of one package in requirements.lock."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise BootstrapError(f"requirements.lock does not name {name}; make it again with `make lock`")
    return found[0]


def index_options(pip: list[str]) -> list[str]:
    """What pip is told about package indexes on this machine, said to uv, which does not read pip's configuration."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    options = re.findall(r"\.(index-url|extra-index-url|find-links)='(.*)'$", done.stdout, re.MULTILINE)
    chosen = dict(options)  # the last mention wins, as in pip
    flags = [part for name, values in chosen.items() for value in values.split() for part in (f"--{name}", value)]
    # Hashes decide what is installed, so looking at all indexes is safe.
    return [*flags, "--index-strategy", "unsafe-best-match"] if flags else []


def uv_environment() -> dict[str, str]:
    environment = {"UV_HTTP_TIMEOUT": os.environ.get("PIP_DEFAULT_TIMEOUT", "60"), **os.environ}
    if certificates := os.environ.get("PIP_CERT"):
        environment.setdefault("SSL_CERT_FILE", certificates)
    return environment


# --- running programs


def apt(*packages: str) -> bool:
    """Install distribution packages when we are root; False when we are not or it failed."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"installing {' '.join(packages)} with apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    return works(install, environment) or (works(["apt-get", "update", "-q"]) and works(install, environment))


def works(argv: Sequence[str], environment: dict[str, str] | None = None, cwd: Path | None = None) -> bool:
    done = subprocess.run(argv, env=environment, cwd=cwd, capture_output=True, check=False)
    return done.returncode == 0


def run(
    argv: Sequence[str], *, environment: dict[str, str] | None = None, quiet: bool = False, check: bool = True
) -> None:
    done = subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL if quiet else None, check=False)
    if check and done.returncode:
        raise BootstrapError(f"{' '.join(argv[:3])} … ended with {done.returncode}; its messages are above")


def say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
