"""Gets the services that the tests need onto a Debian machine. Standard library only, as `make test` runs it."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Debian starts a service when its package is installed, unless this script refuses; the tests start their own.
_POLICY = Path("/usr/sbin/policy-rc.d")
_REFUSE = "#!/bin/sh\nexit 101\n"

# Where progress is told; pytest sets it to the terminal, because it captures sys.stderr.
progress: TextIO = sys.stderr


def packages(*names: str) -> bool:
    """Install distribution packages without starting their services; False when we may not or it failed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    say(f"installing {' '.join(names)} with apt-get (once, about half a minute)")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *names]
    with _services_stay_off():
        return _quiet(install) or (_quiet(["apt-get", "update", "-q"]) and _quiet(install, loud=True))


def say(text: str) -> None:
    progress.write(f"services: {text}\n")
    progress.flush()


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


def _quiet(argv: list[str], *, loud: bool = False) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and loud:
        say(f"{' '.join(argv[:2])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.returncode == 0
