"""Queue arguments, checked once at declaration and frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast

from pamqp import common

from callboard_runtime.embedded.amqp.errors import ChannelFault
from callboard_runtime.embedded.amqp.message import MAX_TTL_MS

Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
QueueKind = Literal["classic", "quorum"]

_UNSUPPORTED = ("x-max-priority",)
_ARGUMENTS = {
    "kind": "x-queue-type",
    "single_active": "x-single-active-consumer",
    "delivery_limit": "x-delivery-limit",
    "dead_letter_exchange": "x-dead-letter-exchange",
    "dead_letter_routing_key": "x-dead-letter-routing-key",
    "max_length": "x-max-length",
    "max_bytes": "x-max-length-bytes",
    "overflow": "x-overflow",
    "message_ttl_ms": "x-message-ttl",
    "expires_ms": "x-expires",
}


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Two declarations are the same queue exactly when their options are equal."""

    durable: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    kind: QueueKind = "classic"
    single_active: bool = False
    delivery_limit: int | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: Overflow = "drop-head"
    message_ttl_ms: int | None = None
    expires_ms: int | None = None

    def difference(self, other: "QueueOptions") -> str | None:
        """The first property or argument in which the two differ, as its wire name."""
        for field in fields(self):
            if getattr(self, field.name) != getattr(other, field.name):
                return _ARGUMENTS.get(field.name, field.name)
        return None


def parse_options(
    arguments: Mapping[str, common.FieldValue], *, durable: bool, exclusive: bool, auto_delete: bool
) -> QueueOptions:
    """Raises ChannelFault 406 naming the argument that is malformed, unsupported or not allowed for the queue type."""
    for name in _UNSUPPORTED:
        if name in arguments:
            raise ChannelFault(406, f"argument '{name}' is not supported by the embedded broker; remove it")
    options = QueueOptions(
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        kind=cast("QueueKind", _choice(arguments, "x-queue-type", ("classic", "quorum"))),
        single_active=_flag(arguments, "x-single-active-consumer"),
        delivery_limit=_number(arguments, "x-delivery-limit"),
        dead_letter_exchange=_text(arguments, "x-dead-letter-exchange"),
        dead_letter_routing_key=_text(arguments, "x-dead-letter-routing-key"),
        max_length=_number(arguments, "x-max-length"),
        max_bytes=_number(arguments, "x-max-length-bytes"),
        overflow=cast(
            "Overflow", _choice(arguments, "x-overflow", ("drop-head", "reject-publish", "reject-publish-dlx"))
        ),
        message_ttl_ms=_number(arguments, "x-message-ttl", most=MAX_TTL_MS),
        expires_ms=_number(arguments, "x-expires", least=1, most=MAX_TTL_MS),
    )
    _check_kind(options)
    return options


def _check_kind(options: QueueOptions) -> None:
    if options.dead_letter_routing_key is not None and options.dead_letter_exchange is None:
        raise ChannelFault(406, "'x-dead-letter-routing-key' needs 'x-dead-letter-exchange'")
    if options.kind == "classic" and options.delivery_limit is not None:
        raise ChannelFault(406, "'x-delivery-limit' needs 'x-queue-type' quorum")
    if options.kind == "quorum" and not options.durable:
        raise ChannelFault(406, "a quorum queue must be durable")
    if options.kind == "quorum" and (options.exclusive or options.auto_delete):
        raise ChannelFault(406, "a quorum queue can be neither exclusive nor auto-delete")


def _number(arguments: Mapping[str, common.FieldValue], name: str, least: int = 0, most: int = 2**63 - 1) -> int | None:
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ChannelFault(406, f"invalid arg '{name}': expected an integer from {least} to {most}, got {value!r}")
    return value


def _text(arguments: Mapping[str, common.FieldValue], name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise ChannelFault(406, f"invalid arg '{name}': expected a string, got {value!r}")
    return value


def _flag(arguments: Mapping[str, common.FieldValue], name: str) -> bool:
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise ChannelFault(406, f"invalid arg '{name}': expected a boolean, got {value!r}")
    return value


def _choice(arguments: Mapping[str, common.FieldValue], name: str, choices: tuple[str, ...]) -> str:
    value = arguments.get(name, choices[0])
    if value not in choices:
        raise ChannelFault(406, f"invalid arg '{name}': expected one of {', '.join(choices)}, got {value!r}")
    return str(value)
