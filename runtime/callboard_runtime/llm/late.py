"""Puts off what importing CrewAI and LiteLLM does for features that a run may never use; it happens at their first use.

Two things, both without a change of what the libraries do. A package whose `__init__` only imports names from its own
modules imports each when it is asked for: OpenAI's SDK has 900 modules of request and answer types that no chat needs.
And pydantic builds the validators of classes at their first use, its own setting `defer_build`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType

from pydantic import BaseModel

PACKAGES = (  # those whose names are imported on demand, with all packages below them
    "crewai.rag.embeddings.providers",
    "litellm.repositories",
    "litellm.router_strategy",
    "openai",
)
BUILT_LATE = ("crewai.events.", "litellm.")
BUILT = (  # of those, what every run uses, perhaps in several threads at once
    "crewai.events.base_events",
    *(f"crewai.events.types.{of}_events" for of in ("agent", "crew", "env", "llm", "task", "tool_usage")),
    "litellm.types.utils",
)
OTHERS = ("crewai.",)  # what is imported by modules of BUILT_LATE, and not to be put off with them

Names = Mapping[str, tuple[str, str]]


def import_names_on_demand() -> None:
    """From now on, for what is not imported yet of PACKAGES; several times are as good as once."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


@contextmanager
def built_at_first_use() -> Generator[None]:
    """Let pydantic put off the classes of BUILT_LATE that are imported meanwhile; those of BUILT are built at the end.

    What is derived from them later is built at once, as ever. Call it once, where no other thread imports anything.
    """
    import_names_on_demand()
    _finder.putting_off = True
    try:
        yield
    finally:
        _finder.putting_off = False
    for model in _models():
        if model.__module__.startswith(BUILT_LATE):
            model.model_config.pop("defer_build", None)
            if not is_put_off(model.__module__):
                model.model_rebuild(raise_errors=False, _parent_namespace_depth=0)


def is_put_off(module: str) -> bool:
    """Whether the classes of this module are built at their first use."""
    return module.startswith(BUILT_LATE) and not module.startswith(BUILT)


def reexports(source: str, package: str) -> Names | None:
    """What an `__init__` imports from its own modules, by name; None when it does anything else."""
    found: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(source).body:
        if _is_silent(statement):
            continue
        module = _own_module(statement, package)
        if module is None or not isinstance(statement, ast.ImportFrom):
            return None
        found |= {name.asname or name.name: (module, name.name) for name in statement.names}
    # A name that is a module's, too, would be that module as soon as anything imports it.
    modules = {module.split(".")[1] for module, _ in found.values()}
    return found if found and not modules & found.keys() and "*" not in found else None


def _is_silent(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.ImportFrom(module="__future__"):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=named)):
            return all(isinstance(each, ast.Constant) for each in named)
        case _:
            return False


def _own_module(statement: ast.stmt, package: str) -> str | None:
    """`.module` for `from .module import …` and `from package.module import …`."""
    if not isinstance(statement, ast.ImportFrom) or not statement.module:
        return None
    if statement.level == 1:
        return f".{statement.module}"
    own = statement.level == 0 and statement.module.startswith(f"{package}.")
    return statement.module.removeprefix(package) if own else None


def _models() -> Iterator[type[BaseModel]]:
    waiting = [BaseModel]
    while waiting:
        found = waiting.pop().__subclasses__()
        waiting += found
        yield from found


class _Finder(MetaPathFinder):
    putting_off = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        on_demand = f"{fullname}.".startswith(_PREFIXES)
        if path is None or not (on_demand or (self.putting_off and fullname.startswith((*BUILT_LATE, *OTHERS)))):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and type(spec.loader) is SourceFileLoader:
            loader = _OnDemand if on_demand and spec.submodule_search_locations else _PuttingOff
            spec.loader = loader(fullname, spec.loader.path)
        return spec


class _PuttingOff(SourceFileLoader):
    """Defines a module's classes with pydantic's setting as BUILT_LATE has it."""

    def exec_module(self, module: ModuleType) -> None:
        if not _finder.putting_off:
            return super().exec_module(module)
        before = BaseModel.model_config.pop("defer_build", None)  # that of the module that imports this one
        if module.__name__.startswith(BUILT_LATE):
            BaseModel.model_config["defer_build"] = True
        try:
            return super().exec_module(module)
        finally:
            BaseModel.model_config.pop("defer_build", None)
            if before is not None:
                BaseModel.model_config["defer_build"] = before


class _OnDemand(_PuttingOff):
    """Loads a package's `__init__` as a list of what can be asked for, if it is nothing else."""

    def exec_module(self, module: ModuleType) -> None:
        names = reexports(self.get_source(module.__name__) or "", module.__name__)
        if names is None:
            super().exec_module(module)
        else:
            module.__dict__.update(__getattr__=partial(_get, module, names), __all__=list(names))


def _get(module: ModuleType, names: Names, name: str) -> object:
    if name in names:
        source, own_name = names[name]
        found = getattr(import_module(source, module.__name__), own_name)
    elif not name.startswith("_") and find_spec(f"{module.__name__}.{name}"):
        found = import_module(f"{module.__name__}.{name}")  # what it imports has imported it, too
    else:
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
    setattr(module, name, found)
    return found


_PREFIXES = tuple(f"{package}." for package in PACKAGES)
_finder = _Finder()
