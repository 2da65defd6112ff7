"""RabbitMQ in a container, for machines that have a Docker engine but no RabbitMQ."""

import secrets
import shutil
import subprocess
import uuid
from pathlib import Path

import yaml

from callboard_runtime.embedded.paths import free_port
from waiting import wait_until

_COMPOSE = Path(__file__).parents[2] / "compose.yaml"


def engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20).returncode == 0


class DockerRabbit:
    """The image of compose.yaml on a free port of 127.0.0.1, with the same operations as `RabbitServer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._name = f"callboard-test-{uuid.uuid4().hex[:8]}"
        self._password = secrets.token_hex(8)
        self._image = yaml.safe_load(_COMPOSE.read_text())["services"]["rabbitmq"]["image"]

    @property
    def url(self) -> str:
        return self.vhost_url("callboard")

    @property
    def pid(self) -> int:
        return int(_docker("inspect", "--format", "{{.State.Pid}}", self._name))

    @property
    def running(self) -> bool:
        return _docker("ps", "--quiet", "--filter", f"name={self._name}") != ""

    def vhost_url(self, vhost: str) -> str:
        return f"amqp://callboard:{self._password}@127.0.0.1:{self.port}/{vhost}?heartbeat=10"

    def create_vhost(self) -> str:
        name = f"cb{uuid.uuid4().hex[:12]}"
        self._control("add_vhost", name)
        self._control("set_permissions", "-p", name, "callboard", ".*", ".*", ".*")
        return self.vhost_url(name)

    def delete_vhost(self, url: str) -> None:
        self._control("delete_vhost", url.split("?")[0].rsplit("/", 1)[1])

    def start(self) -> None:
        """Create or start the container and wait until the node answers."""
        if _docker("ps", "--all", "--quiet", "--filter", f"name={self._name}"):
            _docker("start", self._name)
        else:
            self._create()
        wait_until(self._ready, "start of RabbitMQ in Docker", timeout=180)

    def stop(self) -> None:
        _docker("stop", self._name)

    def kill(self) -> None:
        _docker("kill", self._name)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        _docker("pause", self._name)

    def resume(self) -> None:
        subprocess.run(["docker", "unpause", self._name], capture_output=True, check=False)

    def ensure_running(self) -> None:
        self.resume()
        self.start()

    def _create(self) -> None:
        variables = {"USER": "callboard", "PASS": self._password, "VHOST": "callboard"}
        environment = [f"--env=RABBITMQ_DEFAULT_{key}={value}" for key, value in variables.items()]
        publish = f"--publish=127.0.0.1:{self.port}:5672"
        _docker("run", "--detach", f"--name={self._name}", "--label=callboard-test", publish, *environment, self._image)

    def _ready(self) -> bool:
        probe = ["docker", "exec", self._name, "rabbitmq-diagnostics", "-q", "check_port_connectivity"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    def _control(self, *arguments: str) -> None:
        _docker("exec", self._name, "rabbitmqctl", "-q", *arguments)


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
