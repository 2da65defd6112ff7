"""Gets the services that the tests need onto a Debian machine; `make test` runs it first.

`CALLBOARD_TEST_RABBITMQ=4` asks for RabbitMQ 4 instead of the distribution's own version.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from services import private_root

_DEBIAN = Path("/")
# What an ordinary user unpacks, as nobody but root can install it.
_OWN = Path(__file__).resolve().parents[2] / ".tools" / "rabbitmq"
_OWN_4 = _OWN.with_name("rabbitmq4")
_RABBITMQ = Path("usr/lib/rabbitmq/bin")
_ERLANG = Path("usr/lib/erlang")

# Debian starts a service when its package is installed, unless this script refuses; the tests start their own.
_POLICY = Path("/usr/sbin/policy-rc.d")
_REFUSE = "#!/bin/sh\nexit 101\n"

VERSION = "CALLBOARD_TEST_RABBITMQ"

# Where progress is told; pytest sets it to the terminal, because it captures sys.stderr.
progress: TextIO = sys.stderr


def main() -> int:
    """Get RabbitMQ and Redis; the tests report what is still missing."""
    if not os.environ.get("CALLBOARD_TEST_AMQP_URL"):
        rabbitmq()
    if not os.environ.get("CALLBOARD_TEST_REDIS_URL"):
        redis()
    return 0


@dataclass(frozen=True)
class RabbitPrograms:
    """The folders of RabbitMQ's and Erlang's programs, and what must stand before a command to run one of them."""

    server: Path
    erlang: Path
    within: tuple[str, ...] = ()

    @classmethod
    def below(cls, root: Path, within: tuple[str, ...] = ()) -> "RabbitPrograms":
        return cls(root / _RABBITMQ, root / _ERLANG / "bin", within)


def rabbitmq(version: str | None = None) -> RabbitPrograms | None:
    """RabbitMQ's programs, got if need be; None when they cannot be had here. The version is "4" or the machine's."""
    if (version or os.environ.get(VERSION)) == "4":
        return _rabbitmq_4()
    for root in (_DEBIAN, _OWN):
        if (root / _RABBITMQ / "rabbitmq-server").exists():
            return RabbitPrograms.below(root)
    if packages("rabbitmq-server"):
        return RabbitPrograms.below(_DEBIAN)
    return RabbitPrograms.below(_OWN) if unpack_rabbitmq() else None


def _rabbitmq_4() -> RabbitPrograms | None:
    if not _OWN_4.exists():
        say("fetching RabbitMQ 4 from the distribution's next release into .tools (once, 70 MB)")
    if not private_root.unpack(_OWN_4, _quiet):
        return None
    # Inside its own root: the paths are those that it sees.
    return RabbitPrograms.below(_DEBIAN, private_root.entering(_OWN_4))


def redis() -> str | None:
    """The path of a Redis or Valkey server of this machine, installed if we may; None leaves the wheel's."""
    return _redis_on_path() or (_redis_on_path() if packages("redis-server") else None)


def _redis_on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def packages(*names: str) -> bool:
    """Install distribution packages without starting their services; False when we may not or it failed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"installing {' '.join(names)} with apt-get (once, about half a minute)")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *names]
    with _services_stay_off():
        return _quiet(install) or (_quiet(["apt-get", "update", "-q"]) and _quiet(install, loud=True))


def unpack_rabbitmq() -> bool:
    """Fetch Debian's packages of RabbitMQ and Erlang and unpack them under .tools; False when that is not possible."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return False
    say("fetching RabbitMQ from the distribution into .tools (once, 35 MB)")
    _OWN.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_OWN.parent) as folder:
        draft = Path(folder) / "root"
        if not _download(Path(folder)):
            say("the distribution's packages cannot be fetched; is this Debian or Ubuntu, with a network?")
            return False
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, draft.name], cwd=folder, check=True)
        _relocate_erlang(draft)
        draft.chmod(0o755)
        draft.rename(_OWN)
    return True


def say(text: str) -> None:
    progress.write(f"services: {text}\n")
    progress.flush()


def _download(folder: Path) -> bool:
    lists: list[str] = []
    names = _rabbitmq_packages(lists)
    if not names:
        # No package lists on this machine, and only root may fetch them: keep some of our own.
        lists = [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}"]
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        if not _quiet(["apt-get", *lists, "update", "-q"], loud=True):
            return False
        names = _rabbitmq_packages(lists)
    return bool(names) and _quiet(["apt-get", *lists, "download", "-q", *names], cwd=folder, loud=True)


def _rabbitmq_packages(options: list[str]) -> list[str]:
    skip = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    argv = ["apt-cache", *options, "depends", "--recurse", *skip, "rabbitmq-server"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    names = {line.strip() for line in done.stdout.splitlines() if line.startswith("erlang-")}
    return ["rabbitmq-server", *sorted(names)] if names else []


def _relocate_erlang(root: Path) -> None:
    # Debian's start script names its folder outright.
    script = root / _ERLANG / "bin" / "erl"
    script.write_text(script.read_text().replace("ROOTDIR=/usr/lib/erlang", f'ROOTDIR="{_OWN / _ERLANG}"'))


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(_REFUSE)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _quiet(argv: list[str], *, loud: bool = False, cwd: Path | None = None) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode and loud:
        say(f"{' '.join(argv[:2])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.returncode == 0
