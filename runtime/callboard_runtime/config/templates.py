"""Prompt templates: `{message}` is a variable, `{{message}}` the text `{message}`, any other brace itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

VARIABLES = frozenset({"message", "state", "context", "thread_id", "run_id", "user_id", "agent_id"})
"""What a template may use: the user's message, the shared state and the client's context as JSON, and the run's ids."""

_PLACE = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


def variables_of(template: str) -> frozenset[str]:
    """The names that a template uses."""
    return frozenset(match[2] for match in _PLACE.finditer(template) if match[2])


def unknown_variables(template: str) -> list[str]:
    """The names that a template uses and no run provides, sorted."""
    return sorted(variables_of(template) - VARIABLES)


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill in the variables, once: braces inside a value stay as they are. Raises KeyError for a missing one."""
    return _PLACE.sub(lambda match: "{" + match[1] + "}" if match[1] else values[match[2]], template)
