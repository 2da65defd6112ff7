"""Where the embedded services keep their files, which account they run under, and which ports they may take."""

import contextlib
import fcntl
import os
import pwd
import random
import socket
from collections.abc import Generator
from pathlib import Path

from callboard_runtime.embedded.errors import EmbeddedError

DATA_DIR_VARIABLE = "CALLBOARD_EMBEDDED__DATA_DIR"
# Below the range that the kernel hands out to outgoing connections, so that a restarted service finds its port free.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on at the moment."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - no secret
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def unprivileged_account() -> tuple[int, int] | None:
    """The uid and gid for PostgreSQL, which refuses to run as root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def closed_folder(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that other accounts may not enter, or None."""
    return next((folder for folder in reversed(path.resolve().parents) if not folder.stat().st_mode & 0o001), None)


def data_dir(chosen: Path | None) -> Path:
    """The folder of the embedded services, made if it is missing.

    `chosen`, else `callboard` in XDG_DATA_HOME or ~/.local/share (for root /var/lib), else in /tmp per user.
    Raises EmbeddedError when it cannot be made or belongs to somebody else.
    """
    if chosen is not None:
        return _owned(chosen.expanduser().resolve())
    try:
        return _owned(_home_folder())
    except EmbeddedError:
        return _owned(_temporary_folder())


def data_dir_candidates(chosen: Path | None) -> list[Path]:
    """The folders that `data_dir` would take, in its order; none of them is made."""
    if chosen is not None:
        return [chosen.expanduser().resolve()]
    return [_home_folder(), _temporary_folder()]


@contextlib.contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the folder for this process. Raises EmbeddedError naming the process that has it."""
    with (folder / "lock").open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise EmbeddedError(
                f"process {file.read().strip() or '?'} already runs the embedded services in {folder}; "
                f"stop it, or set {DATA_DIR_VARIABLE} to another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def private_file(path: Path, content: str, account: tuple[int, int] | None = None) -> None:
    """Write a file that only its owner (ours, or `account`) can read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    if account is not None:
        os.chown(path, *account)


def new_log(path: Path) -> Path:
    """Put the log of the last run aside as `.1` and return the path for a new one."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))
    return path


def _temporary_folder() -> Path:
    return Path(f"/tmp/callboard-{os.geteuid()}")  # noqa: S108 - made 0700, and the owner is checked


def _home_folder() -> Path:
    if chosen := os.environ.get("XDG_DATA_HOME"):
        return Path(chosen) / "callboard"
    if os.geteuid() == 0:
        # PostgreSQL runs under another account, which may not enter root's home.
        return Path("/var/lib/callboard")
    return Path.home() / ".local" / "share" / "callboard"


def _owned(folder: Path) -> Path:
    # Root's helpers run under another account and have to pass through.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EmbeddedError(
            f"cannot keep the embedded services' data in {folder}: {error.strerror}; "
            f"set {DATA_DIR_VARIABLE} to a folder of yours"
        ) from error
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise EmbeddedError(f"{folder} belongs to another user; set {DATA_DIR_VARIABLE} to a folder of yours")
    return folder
