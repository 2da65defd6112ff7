"""What goes wrong on the wire, as AMQP reply codes; a ChannelFault ends a channel, a ConnectionFault a connection."""

_MAX_TEXT = 255  # bytes of a short string

REPLY_NAMES = {
    320: "CONNECTION_FORCED",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    501: "FRAME_ERROR",
    502: "SYNTAX_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    506: "RESOURCE_ERROR",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}


class AmqpFault(Exception):
    """The peer asked for something that the protocol or the state forbids."""

    def __init__(self, code: int, detail: str) -> None:
        text = f"{REPLY_NAMES[code]} - {detail}".encode()[:_MAX_TEXT].decode(errors="ignore")
        super().__init__(text)
        self.code = code
        self.text = text


class ChannelFault(AmqpFault):
    """Closes the channel it happened on."""


class ConnectionFault(AmqpFault):
    """Closes the connection it happened on."""


def not_found(kind: str, name: str, vhost: str) -> ChannelFault:
    return ChannelFault(404, f"no {kind} '{name}' in vhost '{vhost}'")
