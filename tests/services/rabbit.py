"""A private RabbitMQ node and virtual hosts in it."""

import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from callboard_runtime.embedded.paths import free_port
from services import install
from services.process import ServiceProcess, ServiceUnavailable

_QUERY = "heartbeat=10"
# A node that spins while it waits takes the processor from the tests.
_ERLANG = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


def programs(version: str | None = None) -> install.RabbitPrograms:
    """The programs of RabbitMQ and Erlang themselves: Debian's wrappers on PATH switch account and folder."""
    found = install.rabbitmq(version)
    if found is None:
        raise ServiceUnavailable(
            "RabbitMQ is missing: apt-get install rabbitmq-server, or start Docker, or set CALLBOARD_TEST_AMQP_URL"
        )
    return found


def _cluster(*nodes: str) -> Mapping[str, str]:
    named = {f"cluster_formation.classic_config.nodes.{number}": node for number, node in enumerate(nodes, 1)}
    return {"cluster_formation.peer_discovery_backend": "classic_config", **named}


class _PortMapper(ServiceProcess):
    """The node's own epmd: the usual one would be shared with, and outlive, everything on the machine."""

    name = "epmd"
    start_timeout = 20.0

    def __init__(self, folder: Path, programs: install.RabbitPrograms) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._epmd = [*programs.within, str(programs.erlang / "epmd")]

    def command(self) -> Sequence[str]:
        return [*self._epmd, "-address", "127.0.0.1", "-port", str(self.port)]

    def ready(self) -> bool:
        probe = [*self._epmd, "-port", str(self.port), "-names"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class RabbitServer(ServiceProcess):
    """RabbitMQ on a free port of 127.0.0.1, with user, cookie, data and port mapper of its own.

    `config` adds lines to rabbitmq.conf, e.g. `{"consumer_timeout": "2000"}`; `version` "4" asks for that release.
    `seed` is a running node whose cluster this one joins when it first starts.
    """

    name = "rabbitmq"

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, str] | None = None,
        version: str | None = None,
        seed: "RabbitServer | None" = None,
    ) -> None:
        super().__init__(folder)
        self._programs = programs(version)
        # The nodes of a cluster find each other through one port mapper, and trust each other by one cookie.
        self._mapper = seed._mapper if seed else _PortMapper(folder / "epmd", self._programs)
        self._password, self._cookie = (
            (seed._password, seed._cookie) if seed else (secrets.token_hex(8), secrets.token_hex(16))
        )
        self.port, self._dist_port = free_port(), free_port()
        self._node, self._user, self._seed = f"cb{secrets.token_hex(4)}@localhost", "callboard", seed
        self._write_files(dict(config or {}) | (_cluster(seed._node, self._node) if seed else {}))

    @property
    def url(self) -> str:
        return self.vhost_url("callboard")

    def vhost_url(self, vhost: str) -> str:
        return f"amqp://{self._user}:{self._password}@127.0.0.1:{self.port}/{vhost}?{_QUERY}"

    def create_vhost(self) -> str:
        """Make a virtual host and return its URL."""
        name = f"cb{uuid.uuid4().hex[:12]}"
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>),'
            f' rabbit_auth_backend_internal:set_permissions(<<"{self._user}">>, <<"{name}">>,'
            f' <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return self.vhost_url(name)

    def delete_vhost(self, url: str) -> None:
        name = url.split("?")[0].rsplit("/", 1)[1]
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>).')

    def evaluate(self, expression: str) -> str:
        """Evaluate Erlang in the node and return the printed value. Raises RuntimeError with the node's answer."""
        fast = ["erl_call", "-c", self._cookie, "-sname", self._node, "-e"] if self._has_erl_call() else None
        argv = [*self._programs.within, *(fast or self._control("eval", expression))]
        done = subprocess.run(
            argv, input=f"{expression}\n", env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode or "{error" in done.stdout:
            raise RuntimeError(f"RabbitMQ did not take {expression!r}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        self._mapper.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._seed is None:
            self._mapper.stop()

    def kill(self) -> None:
        """SIGKILL the node, a moment after its tables reached the disk.

        RabbitMQ 3.10 writes its table of quorum queues every half second: a queue declared just before a crash comes
        back as a follower that never elects a leader, and its confirmed messages with it. That is not what tests of
        Callboard are about.
        """
        if self.running and not self._paused:
            self.evaluate("[dets:sync(Table) || Table <- dets:all()].")
        super().kill()

    def command(self) -> Sequence[str]:
        return [*self._programs.within, str(self._programs.server / "rabbitmq-server"), "-noinput"]

    def ready(self) -> bool:
        try:
            return "Server startup complete" in self._server_log.read_text(errors="replace")[self._log_start :]
        except FileNotFoundError:
            return False

    def environment(self) -> Mapping[str, str]:
        base = dict(super().environment())
        return base | {
            "PATH": f"{self._programs.erlang}:{base['PATH']}",
            "HOME": str(self.folder),
            # Makes the script replace itself by the node, so that our process id is the node's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": str(self._server_log),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper.port),
        }

    @property
    def _server_log(self) -> Path:
        return self.folder / "server.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._log_start = len(self._server_log.read_text(errors="replace")) if self._server_log.exists() else 0
        process = super()._spawn()
        # As a batch process it finishes what others are at before it looks at what they have just sent: on cores that
        # all share, that is a quarter less work for it. Not every sandbox allows it, nor has every system such a thing.
        with suppress(OSError, AttributeError):
            os.sched_setscheduler(process.pid, os.SCHED_BATCH, os.sched_param(0))
        return process

    def log_tail(self, lines: int = 30) -> str:
        own = self._server_log.read_text(errors="replace").splitlines()[-lines:] if self._server_log.exists() else []
        return "\n".join([super().log_tail(lines), *own])

    def _control(self, *arguments: str) -> list[str]:
        return [str(self._programs.server / "rabbitmqctl"), "-n", self._node, *arguments]

    def _has_erl_call(self) -> bool:
        # Another root has all of Debian's Erlang, out of reach for a look from here.
        return bool(self._programs.within or shutil.which("erl_call", path=self.environment()["PATH"]))

    def _write_files(self, config: Mapping[str, str]) -> None:
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "default_vhost": "callboard",
            "default_user": self._user,
            "default_pass": self._password,
            "disk_free_limit.absolute": "50MB",
            **config,
        }
        (self.folder / "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        (self.folder / "advanced.config").write_text("[].\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
