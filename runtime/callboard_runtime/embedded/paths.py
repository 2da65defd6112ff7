"""Where the embedded services keep their files, which account they run under, and which ports they may take."""

import os
import pwd
import random
import socket
from pathlib import Path

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
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def reachable_by_others(path: Path) -> bool:
    """Whether another account may enter every folder on the way to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
