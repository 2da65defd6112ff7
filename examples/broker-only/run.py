"""Starts Callboard and the consumer, and runs the producer for every line of standard input.

Arguments go to `callboard up`. Where the broker is, other programs are told by CALLBOARD_AMQP_URL; the embedded one's
address is noted in the data folder of `callboard up`, and this program looks there.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jwt

from callboard_runtime.embedded.running import running_services
from callboard_runtime.settings import Settings

HERE = Path(__file__).parent
Process = subprocess.Popen[str]


def main() -> None:
    os.environ.setdefault("CALLBOARD_AUTH__JWT_SECRET", secrets.token_hex(32))
    with running("callboard", [sys.executable, "-m", "callboard_runtime.cli", "up", *sys.argv[1:]]) as callboard:
        wait_for(callboard, "Callboard is up")
        os.environ |= {"CALLBOARD_AMQP_URL": amqp_url(), "TOKEN": token("ada")}
        with running("consumer", [sys.executable, str(HERE / "consumer.py")]) as consumer:
            wait_for(consumer, "listening")
            print("Type what to ask, a line per run.", flush=True)
            for line in filter(str.strip, sys.stdin):
                ask(consumer, line.strip())


def ask(consumer: Process, text: str) -> None:
    """One run, from the request to the announcement of its end."""
    run = str(uuid.uuid4())
    if subprocess.run([sys.executable, HERE / "producer.py", "example", run, text], check=False).returncode == 0:  # noqa: S603
        wait_for(consumer, run, "run.finished", "run.failed", "run.cancelled")


@contextmanager
def running(name: str, command: list[str]) -> Iterator[Process]:
    """A program beside this one, ended as Ctrl-C would."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        print(f"{name} ended", flush=True)


def wait_for(process: Process, text: str, *any_of: str) -> None:
    """Pass on what the program prints, up to a line with this text; ends this program if the other one ended."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if text in line and (not any_of or any(word in line for word in any_of)):
            return
    sys.exit("it ended; its own message is above")


def amqp_url() -> str:
    settings = Settings()
    if settings.amqp_url is not None:
        return settings.amqp_url.get_secret_value()
    folder = next((Path(sys.argv[i + 1]) for i, word in enumerate(sys.argv[:-1]) if word == "--data-dir"), None)
    services = running_services(folder or settings.embedded.data_dir)
    if services is None:
        sys.exit("no embedded services are noted; is another `callboard up` in the way?")
    return services.urls["amqp_url"]


def token(user: str) -> str:
    """What your own login would issue: the user's name, signed with the secret that Callboard checks with."""
    claims = {"sub": user, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, os.environ["CALLBOARD_AUTH__JWT_SECRET"], algorithm="HS256")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
