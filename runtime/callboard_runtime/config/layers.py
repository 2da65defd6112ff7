"""Entries of several sources laid over each other field by field, remembering which source each field came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from callboard_runtime.config.parts import LlmParams
from callboard_runtime.config.specs import PROMPTS, Part, complain, first_problem
from callboard_runtime.errors import ConfigError

Fields = dict[str, Any]
Entries = dict[str, Fields]
SpecT = TypeVar("SpecT", bound=Part)

SECTIONS = ("agents", "tasks", "workflow", "tools", "models")
_PARAMS = frozenset(LlmParams.model_fields)


@dataclass(frozen=True, slots=True)
class Source:
    """Where entries come from: one file, one argument, or one table."""

    label: str
    section: str
    entries: Entries


@dataclass(slots=True)
class Layers:
    """Entries by section and name; a later source wins over an earlier one, field by field."""

    entries: dict[str, Entries] = field(default_factory=lambda: {section: {} for section in SECTIONS})
    origins: dict[tuple[str, ...], str] = field(default_factory=dict[tuple[str, ...], str])

    def add(self, source: Source) -> None:
        for name, fields in source.entries.items():
            target = self.entries[source.section].setdefault(name, {})
            self.origins[source.section, name] = source.label
            for key, value in fields.items():
                self._put(target, (source.section, name, key), value, source.label)

    def _put(self, target: Fields, path: tuple[str, ...], value: Any, label: str) -> None:
        key = path[-1]
        if key == "llm_params" and isinstance(value, Mapping):
            inner = target.setdefault(key, {})
            for name, item in cast("Mapping[str, Any]", value).items():
                inner[name] = item
                self.origins[*path, name] = label
        else:
            target[key] = value
            self.origins[path] = label

    def origin(self, *path: str) -> str:
        """The label of the source that decided the key at `path`, or the nearest key above it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, "configuration")

    def parse(self, section: str, spec: type[SpecT]) -> dict[str, SpecT]:
        """Every entry of a section as `spec`; raises ConfigError naming the source and the key."""
        return {name: self._parse_one(section, name, spec) for name in self.entries[section]}

    def _parse_one(self, section: str, name: str, spec: type[SpecT]) -> SpecT:
        try:
            return spec.model_validate(self.entries[section][name])
        except ValidationError as error:
            path, text = first_problem(error)
            raise complain(self.origin(section, name, *path), ".".join((name, *path)), text) from None


def agent_fields(value: Mapping[str, Any]) -> Fields:
    """An agent's fields with prompts and model parameters in their places, however deeply they were written.

    `llm: {model_code: …, temperature: …}` and `prompts: {role: …}` mean the same as the keys by themselves.
    """
    flat: Fields = {}
    params: Fields = {}
    for key, item in value.items():
        if key == "llm_params" and isinstance(item, Mapping):
            params |= cast("Fields", item)
        elif key in _PARAMS:
            params[key] = item
        elif key == "llm" and isinstance(item, Mapping):
            inner = agent_fields(cast("Fields", item))
            params |= inner.pop("llm_params", {})
            flat |= inner
        elif key == "prompts" and isinstance(item, Mapping):
            flat |= {name: text for name, text in cast("Fields", item).items() if text is not None}
        elif item is not None:
            flat[key] = item
    return flat | ({"llm_params": params} if params else {})


def split_prompts(fields: Fields) -> tuple[Fields, Fields]:
    """An agent's fields, and those among them that are its task's."""
    task = {key: fields[key] for key in PROMPTS[3:] if key in fields}
    return {key: item for key, item in fields.items() if key not in task}, task


def workflow_entries(value: Any, label: str) -> Entries:
    """Workflows by name; a list of stages, or a mapping with `stages`, is the one named `default`."""
    if isinstance(value, list | tuple):
        value = {"stages": list(cast("list[Any]", value))}
    given = mapping(value, label, "")
    if "stages" in given and isinstance(given["stages"], list | tuple | Mapping):
        given = {"default": given}
    return {name: _workflow(mapping(item, label, name), label, name) for name, item in given.items()}


def _workflow(fields: Fields, label: str, name: str) -> Fields:
    if not isinstance(fields.get("stages"), Mapping):
        return fields
    path = f"{name}.stages"
    named = mapping(fields["stages"], label, path)
    return fields | {"stages": [{"name": key} | mapping(item, label, f"{path}.{key}") for key, item in named.items()]}


def named_entries(value: Any, label: str, shape: Callable[[Mapping[str, Any]], Fields] = dict) -> Entries:
    """Entries by name, each put in shape; raises ConfigError for anything that is not a mapping of mappings."""
    return {name: shape(mapping(item, label, name)) for name, item in mapping(value, label, "").items()}


def mapping(value: Any, label: str, path: str) -> Fields:
    """`value` as a mapping with text keys; raises ConfigError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise complain(label, path, f"must be a mapping of names to values, not {type(value).__name__}")
    found = cast("Mapping[object, Any]", value)
    if odd := [key for key in found if not isinstance(key, str)]:
        raise complain(label, path, f"key {odd[0]!r} must be text; put it in quotes")
    return cast("Fields", dict(found))


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader for which a repeated key is an error, not a silent replacement."""


def _construct_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
        if key in keys:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is there twice", problem_mark=key_node.start_mark)
        keys.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(path: Path, label: str) -> Any:
    """The content of a YAML file; raises ConfigError naming the line. The text itself never shows in the error."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise complain(label, line, f"is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{label}: is not valid YAML; it must be UTF-8 text without control characters") from None
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read ({error.strerror})") from None
