"""Finds the functions that tools.yaml names as `module:function`: in the user's directory, or installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from callboard_runtime.config.parts import ToolConfig
from callboard_runtime.domain.tool_schema import schema_problem
from callboard_runtime.errors import ConfigError
from callboard_runtime.tools.spec import Tool


def backend_tool(config: ToolConfig, directory: Path | None = None) -> Tool:
    """The tool that `config` describes; raises ConfigError naming tools.yaml, the key and the fix."""
    if (problem := schema_problem(config.parameters)) is not None:
        raise ConfigError(f"tools.yaml: {config.name}.parameters: {problem}")
    return Tool(
        name=config.name,
        description=config.description,
        parameters=config.parameters,
        function=load_function(config.name, config.function, directory),
        timeout=config.timeout,
        idempotent=config.idempotent,
        requires_approval=config.requires_approval,
    )


@lru_cache(maxsize=512)
def load_function(tool: str, reference: str, directory: Path | None = None) -> Callable[..., Any]:
    """Import `module:function`; a module file in `directory` comes before an installed module of the same name."""
    module_name, _, function_name = reference.partition(":")
    where = f"tools.yaml: {tool}.function"
    try:
        module = load_module(module_name, directory)
    except ConfigError:
        raise
    except Exception as error:  # importing a user's module can raise anything
        raise ConfigError(f"{where}: cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"{where}: module {module_name!r} has no function {function_name!r}")
    return function


def load_module(name: str, directory: Path | None) -> ModuleType:
    """Import a module; a file in `directory` comes before an installed module of the same name."""
    return _own_module(name, directory) or importlib.import_module(name)


def _own_module(name: str, directory: Path | None) -> ModuleType | None:
    if directory is None:
        return None
    base = directory.joinpath(*name.split("."))
    path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    if path is None:
        return None
    registered = f"callboard_user_tools.{name}"
    if registered in sys.modules:
        return sys.modules[registered]
    spec = importlib.util.spec_from_file_location(registered, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[registered] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[registered]
        raise
    return module
