"""The opening of a connection: start, PLAIN authentication, tune, virtual host."""

import hmac
from dataclasses import dataclass
from typing import TypeVar, cast

from pamqp import base, commands

from callboard_runtime.embedded.amqp.errors import ConnectionFault

MethodT = TypeVar("MethodT", bound=base.Frame)

PRODUCT = "Callboard embedded broker"
_MIN_FRAME_MAX = 4096  # bytes, from the specification


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    max_message_bytes: int = 16 * 1024 * 1024
    memory_high_water: int = 256 * 1024 * 1024
    write_high_water: int = 1024 * 1024
    write_hard_limit: int = 8 * 1024 * 1024
    frame_max: int = 128 * 1024
    channel_max: int = 2047
    heartbeat: int = 60
    handshake_timeout: float = 10.0


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    user: str
    password: str

    def accept(self, user: str, password: str) -> bool:
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        return hmac.compare_digest(password.encode(), self.password.encode()) and same_user


@dataclass(frozen=True, slots=True)
class Tuned:
    """What both sides agreed on; `heartbeat` 0 means none."""

    frame_max: int
    channel_max: int
    heartbeat: int


def start() -> commands.Connection.Start:
    capabilities: dict[str, bool] = dict.fromkeys(
        (
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ),
        True,
    )
    return commands.Connection.Start(
        server_properties={"product": PRODUCT, "capabilities": {**capabilities}}, mechanisms="PLAIN", locales="en_US"
    )


def check_login(method: commands.Connection.StartOk, credentials: Credentials) -> None:
    """Raises ConnectionFault 403 for wrong credentials, 503 for another mechanism than PLAIN."""
    if method.mechanism != "PLAIN":
        raise ConnectionFault(503, f"authentication mechanism '{method.mechanism}' is not offered; use PLAIN")
    response = cast("str | bytes | None", method.response)  # bytes when it is not UTF-8
    parts = response.split("\x00") if isinstance(response, str) else []
    if len(parts) != 3 or not credentials.accept(parts[1], parts[2]):
        raise ConnectionFault(403, "Login was refused using authentication mechanism PLAIN")


def capability(method: commands.Connection.StartOk, name: str) -> bool:
    capabilities = (method.client_properties or {}).get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get(name) is True


def tune(limits: Limits) -> commands.Connection.Tune:
    return commands.Connection.Tune(limits.channel_max, limits.frame_max, limits.heartbeat)


def tuned(method: commands.Connection.TuneOk, limits: Limits) -> Tuned:
    """The client's answer within our limits, 0 meaning ours. Raises ConnectionFault 530 when it asks for more."""
    frame_max = method.frame_max or limits.frame_max
    channel_max = method.channel_max or limits.channel_max
    if not _MIN_FRAME_MAX <= frame_max <= limits.frame_max:
        raise ConnectionFault(530, f"frame_max {frame_max} is outside {_MIN_FRAME_MAX}..{limits.frame_max}")
    if channel_max > limits.channel_max:
        raise ConnectionFault(530, f"channel_max {channel_max} is above {limits.channel_max}")
    return Tuned(frame_max, channel_max, method.heartbeat)


def expect(method: base.Frame, kind: type[MethodT]) -> MethodT:
    if not isinstance(method, kind):
        raise ConnectionFault(503, f"expected {kind.name}, got {method.name}")
    return method
