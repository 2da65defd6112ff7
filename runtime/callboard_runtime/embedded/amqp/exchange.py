"""Exchanges and their binding tables: which destinations a routing key and headers lead to. No I/O."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pamqp import common

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.queue import Queue

ReadHeaders = Callable[[], common.FieldTable]

_CACHE_SIZE = 1024  # routing keys


@dataclass(frozen=True, slots=True)
class Binding:
    """`arguments_key` makes bindings with equal arguments equal, as tables cannot be hashed."""

    destination: "Queue | Exchange"
    routing_key: str
    arguments_key: str = ""
    arguments: common.FieldTable = field(default_factory=dict[str, common.FieldValue], compare=False)

    @classmethod
    def create(
        cls, destination: "Queue | Exchange", routing_key: str, arguments: common.FieldTable | None
    ) -> "Binding":
        arguments = arguments or {}
        return cls(destination, routing_key, repr(sorted(arguments.items())), arguments)


class BindingTable(Protocol):
    def add(self, binding: Binding) -> None: ...

    def remove(self, binding: Binding) -> None: ...

    def match(self, routing_key: str, headers: ReadHeaders) -> Iterable[Binding]: ...


class DirectTable:
    def __init__(self) -> None:
        self._by_key: dict[str, dict[Binding, None]] = {}

    def add(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.routing_key, {})[binding] = None

    def remove(self, binding: Binding) -> None:
        bindings = self._by_key[binding.routing_key]
        del bindings[binding]
        if not bindings:
            del self._by_key[binding.routing_key]

    def match(self, routing_key: str, headers: ReadHeaders) -> Iterable[Binding]:
        return self._by_key.get(routing_key, ())


class FanoutTable:
    def __init__(self) -> None:
        self._bindings: dict[Binding, None] = {}

    def add(self, binding: Binding) -> None:
        self._bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding]

    def match(self, routing_key: str, headers: ReadHeaders) -> Iterable[Binding]:
        return self._bindings


class HeadersTable(FanoutTable):
    def match(self, routing_key: str, headers: ReadHeaders) -> Iterator[Binding]:
        values = headers()
        return (binding for binding in self._bindings if headers_match(binding.arguments, values))


class TopicTable(FanoutTable):
    """Remembers the answers of recent routing keys; any change of the bindings forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[str, list[Binding]] = {}

    def add(self, binding: Binding) -> None:
        super().add(binding)
        self._cache.clear()

    def remove(self, binding: Binding) -> None:
        super().remove(binding)
        self._cache.clear()

    def match(self, routing_key: str, headers: ReadHeaders) -> list[Binding]:
        found = self._cache.get(routing_key)
        if found is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            found = [binding for binding in self._bindings if topic_matches(binding.routing_key, routing_key)]
            self._cache[routing_key] = found
        return found


TABLES: dict[str, Callable[[], BindingTable]] = {
    "direct": DirectTable,
    "fanout": FanoutTable,
    "topic": TopicTable,
    "headers": HeadersTable,
}


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    kind: str
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    alternate: str | None = None


class Exchange:
    def __init__(self, name: str, options: ExchangeOptions) -> None:
        self.name = name
        self.options = options
        self._table = TABLES[options.kind]()
        self._bindings: dict[Binding, None] = {}

    @property
    def is_bound(self) -> bool:
        return bool(self._bindings)

    def bind(self, binding: Binding) -> None:
        if binding not in self._bindings:
            self._bindings[binding] = None
            self._table.add(binding)

    def unbind(self, binding: Binding) -> bool:
        """Whether there was such a binding."""
        if binding not in self._bindings:
            return False
        del self._bindings[binding]
        self._table.remove(binding)
        return True

    def forget(self, destination: "Queue | Exchange") -> bool:
        """Remove every binding to `destination`; whether there was one."""
        gone = [binding for binding in self._bindings if binding.destination is destination]
        for binding in gone:
            self.unbind(binding)
        return bool(gone)

    def match(self, routing_key: str, headers: ReadHeaders) -> Iterable[Binding]:
        return self._table.match(routing_key, headers)


def topic_matches(pattern: str, routing_key: str) -> bool:
    """`*` stands for one word, `#` for any number; linear in the product of both lengths at worst."""
    words, keys = _words(pattern), _words(routing_key)
    at = key_at = 0
    hash_at, hash_key = -1, 0
    while key_at < len(keys):
        if at < len(words) and words[at] == "#":
            hash_at, hash_key = at, key_at
            at += 1
        elif at < len(words) and words[at] in ("*", keys[key_at]):
            at, key_at = at + 1, key_at + 1
        elif hash_at >= 0:
            hash_key += 1
            at, key_at = hash_at + 1, hash_key
        else:
            return False
    return all(word == "#" for word in words[at:])


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def headers_match(arguments: common.FieldTable, headers: common.FieldTable) -> bool:
    mode = arguments.get("x-match", "all")
    wanted = [
        (key, value)
        for key, value in arguments.items()
        if key != "x-match" and (str(mode).endswith("-with-x") or not key.startswith("x-"))
    ]
    hits = (key in headers and (value is None or headers[key] == value) for key, value in wanted)
    return any(hits) if str(mode).startswith("any") else all(hits)
