"""How much work a JSON schema makes, counted before anything is done with it.

With references a few lines can stand for more subschemas than anybody could look at, and clients send schemas. What is
counted is an upper bound of what a validator does; one that stays under it ends soon, on a stack of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

STANDARD = ("http://json-schema.org/", "https://json-schema.org/")
MOST_PARTS = 2_000  # subschemas of one schema; validators follow references by recursion
MOST_FOR_SCHEMAS = 100_000  # looks, for all schemas of one request
MOST_FOR_ARGUMENTS = 50_000  # looks, for the arguments of one call

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ALL_HERE = ("allOf",)
_ANY_HERE = ("anyOf", "oneOf")
_ONE_HERE = ("not", "if", "then", "else")
_NAMED_HERE = ("dependentSchemas", "dependencies")
_EACH_BELOW = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_NAMED_BELOW = ("patternProperties",)
_LISTED_BELOW = ("items", "prefixItems")
_KEPT = ("$defs", "definitions", "properties")

Schema = Mapping[str, Any]


class SchemaRefused(ValueError):
    """The schema cannot be used; the text says why, and what to do."""


class TooMuchWork(ValueError):
    """It would take too long; the text says what to do."""


class Effort:
    """So many looks may be taken; raises TooMuchWork, with the advice, when they are used up."""

    def __init__(self, most: int, advice: str) -> None:
        self._left, self._advice = most, advice

    def take(self, looks: int) -> None:
        self._left -= looks
        if self._left < 0:
            raise TooMuchWork(self._advice)


def for_schemas() -> Effort:
    """What all schemas of one request together may take."""
    return Effort(
        MOST_FOR_SCHEMAS, "its references stand for too many subschemas: use fewer inside allOf, anyOf, oneOf"
    )


def for_arguments() -> Effort:
    """What the arguments of one call may take."""
    return Effort(MOST_FOR_ARGUMENTS, "they are too many, or nested too deep, to be checked: send less")


def weigh_schema(root: Schema, effort: Effort) -> None:
    """Raises SchemaRefused for one that is too large or refers elsewhere, TooMuchWork for work at one place."""
    weigher = _Weigher(root, effort)
    for part in list(_parts(root)):
        weigher.weigh(part, None)


def weigh_arguments(root: Schema, arguments: Mapping[str, Any], effort: Effort) -> None:
    """Raises TooMuchWork when checking these arguments could take more than `effort`, SchemaRefused as above."""
    _Weigher(root, effort).weigh(root, arguments)


@dataclass(frozen=True, slots=True)
class _Leads:
    """Where a subschema leads: to others at the same value, and to others at the values below it."""

    here: tuple[tuple[Schema, int], ...]  # with the looks that each costs beyond those of this one
    targets: tuple[Schema, ...]
    each: tuple[Schema, ...]
    members: Mapping[Any, Schema]
    items: Mapping[Any, Schema]


class _Weigher:
    """Walks the ways that a validator could take. A failed choice is looked at again, to say why: that adds up."""

    def __init__(self, root: Schema, effort: Effort) -> None:
        self._root, self._effort = root, effort
        self._leads: dict[int, _Leads] = {}

    def weigh(self, part: Schema, value: Any) -> None:
        self._effort.take(1)
        stack: list[tuple[Schema, Any, int, tuple[int, ...]]] = [(part, value, 1, (id(part),))]
        while stack:
            part, value, looks, path = stack.pop()
            leads = self._leads.get(id(part)) or self._leads.setdefault(id(part), _leads(self._root, part))
            for sub, more in leads.here:
                self._effort.take(looks + more)
                stack.append((sub, value, looks + more, path))
            for sub in leads.targets:
                if id(sub) not in path:  # a validator ends such a circle, too
                    self._effort.take(looks + len(path))
                    stack.append((sub, value, looks, (*path, id(sub))))
            for sub, child in _below(leads, value):
                self._effort.take(looks)
                stack.append((sub, child, looks, ()))


def _leads(root: Schema, part: Schema) -> _Leads:
    items = part.get("items")
    first = cast(list[Any], items if isinstance(items, list) else part.get("prefixItems"))
    return _Leads(
        here=(*((sub, 0) for sub in _here(part)), *((sub, 1) for sub in _listed(part, _ANY_HERE))),
        targets=tuple(_targets(root, part)),
        each=(*_dicts(part.get(key) for key in _EACH_BELOW), *_named(part, _NAMED_BELOW)),
        members=_schemas(part.get("properties")),
        items=_schemas(dict(enumerate(first)) if isinstance(first, list) else None),  # pyright: ignore[reportUnnecessaryIsInstance]
    )


def _below(leads: _Leads, value: Any) -> Iterator[tuple[Schema, Any]]:
    if isinstance(value, dict):
        own, children = leads.members, cast(dict[Any, Any], value).items()
    elif isinstance(value, list):
        own, children = leads.items, enumerate(cast(list[Any], value))
    else:
        return
    for key, child in children:
        if key in own:
            yield own[key], child
        for sub in leads.each:
            yield sub, child


def _here(part: Schema) -> Iterator[Schema]:
    yield from _listed(part, _ALL_HERE)
    yield from _dicts(part.get(key) for key in _ONE_HERE)
    yield from _named(part, _NAMED_HERE)


def _parts(root: Schema) -> Iterator[Schema]:
    """Every subschema once, those that are only referred to included."""
    seen, waiting = {id(root)}, [root]
    referred = named = False
    while waiting:
        part = waiting.pop()
        yield part
        targets = list(_targets(root, part))
        referred, named = referred or bool(targets), named or (part is not root and _names_itself(root, part))
        if referred and named:
            raise SchemaRefused("a subschema has an $id of its own: leave it out, and refer to it by its place")
        fresh = {id(sub): sub for sub in (*_positions(part), *targets) if id(sub) not in seen}
        seen |= fresh.keys()
        if len(seen) > MOST_PARTS:
            raise SchemaRefused(f"it has more than {MOST_PARTS} subschemas")
        waiting += fresh.values()


def _positions(part: Schema) -> Iterator[Schema]:
    yield from _here(part)
    yield from _listed(part, (*_ANY_HERE, *_LISTED_BELOW))
    yield from _dicts(part.get(key) for key in _EACH_BELOW)
    yield from _named(part, (*_NAMED_BELOW, *_KEPT))


def _targets(root: Schema, part: Schema) -> Iterator[Schema]:
    for key in _REFERENCES:
        reference = part.get(key)
        if isinstance(reference, str) and not reference.startswith(STANDARD):
            target = _resolved(root, reference)
            if isinstance(target, dict):
                yield cast(Schema, target)


def _resolved(root: Schema, reference: str) -> Any:
    """What a reference names; None for nothing, which is for the validator to say."""
    head, _, pointer = reference.partition("#")
    if head or (pointer and not pointer.startswith("/")):
        raise SchemaRefused(f"reference {reference[:200]!r} leads out of the schema: use a place, such as #/$defs/name")
    found: Any = root
    for step in pointer.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        try:
            found = cast(Any, found[int(key)] if isinstance(found, list) else found[key])
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return found


def _names_itself(root: Schema, part: Schema) -> bool:
    key = "id" if "draft-04" in str(root.get("$schema")) else "$id"
    return isinstance(part.get(key), str)


def _listed(part: Schema, keys: Iterable[str]) -> Iterator[Schema]:
    for key in keys:
        listed = part.get(key)
        yield from _dicts(cast(list[Any], listed) if isinstance(listed, list) else ())


def _named(part: Schema, keys: Iterable[str]) -> Iterator[Schema]:
    for key in keys:
        named = part.get(key)
        yield from _dicts(cast(dict[str, Any], named).values() if isinstance(named, dict) else ())


def _dicts(values: Iterable[Any]) -> Iterator[Schema]:
    return (cast(Schema, value) for value in values if isinstance(value, dict))


def _schemas(named: Any) -> Mapping[Any, Schema]:
    given = cast(dict[Any, Any], named) if isinstance(named, dict) else {}
    return {key: cast(Schema, sub) for key, sub in given.items() if isinstance(sub, dict)}
