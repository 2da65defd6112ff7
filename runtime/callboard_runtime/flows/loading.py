"""Finds the Flow that workflow.yaml names as `module:Class`: in the user's directory, or installed."""

from __future__ import annotations

import inspect
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from crewai.flow.flow import Flow

from callboard_runtime.errors import ConfigError
from callboard_runtime.flows import patches
from callboard_runtime.tools.registry import load_module

AnyFlow = Flow[Any]

SDK = "ag_ui_crewai"


@lru_cache(maxsize=128)
def load_flow(agent_id: str, reference: str, directory: Path | None = None) -> type[AnyFlow]:
    """The class of the flow; raises ConfigError naming workflow.yaml, the key and the fix."""
    where = f"workflow.yaml: {agent_id}.flow"
    module_name, _, class_name = reference.partition(":")
    patches.patch_litellm()
    if find_spec(SDK) is not None:
        patches.patch_sdk()
    module = _imported(module_name, directory, where)
    found: Any = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Flow)):
        raise ConfigError(
            f"{where}: {class_name!r} in module {module_name!r} is not a class derived from crewai's Flow"
        )
    flow = cast(type[AnyFlow], found)
    _refuse_feedback(flow, where)
    for part in flow.__mro__:
        if part.__module__.partition(".")[0] != "crewai":
            patches.rebind(vars(sys.modules[part.__module__]))
    return flow


def _imported(name: str, directory: Path | None, where: str) -> Any:
    try:
        return load_module(name, directory)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == SDK:
            raise ConfigError(
                f"{where}: {name} needs ag-ui-crewai; install `callboard[flows]` for the worker"
            ) from None
        raise ConfigError(f"{where}: cannot import {name!r}: {error}") from error
    except ConfigError:
        raise
    except Exception as error:  # importing a user's module can raise anything
        raise ConfigError(f"{where}: cannot import {name!r}: {type(error).__name__}: {error}") from error


def _refuse_feedback(flow: type[AnyFlow], where: str) -> None:
    for name in dir(flow):
        if getattr(inspect.getattr_static(flow, name), "__human_feedback_config__", None) is not None:
            fix = "let the frontend's own tool ask, or a tool of tools.yaml with `requires_approval`"
            raise ConfigError(f"{where}: method {name!r} uses @human_feedback, which is not supported; {fix}")
