"""What the playground can be used with: the configured workflows, and messages worth trying."""

from __future__ import annotations

from typing import Any

from callboard_runtime.config.static import load_static
from callboard_runtime.settings import Settings

SCRIPTED = "scripted"
DEMO = "demo"
_FOR_A_MODEL = (
    "What can you do?",
    "What time is it? And look up order 1234.",
    "Refund order 1234, and use the dark theme.",
    "Fill in the contact form: I am Ada, and I want to ask about an invoice.",
)
# The packaged scripts answer these without any model.
_FOR_THE_SCRIPT = (
    "hello",
    "What time is it?",
    "Where is order 1234?",
    "Refund order 1234, and use the dark theme",
    "think about the tides",
    "count to 40 at 120 ms",
    'call ui.fill_form with {"name": "Ada", "topic": "Invoice 17"}',
)


def offer(settings: Settings) -> dict[str, Any]:
    """Agents, the one to begin with first. Raises ConfigError for files that cannot be read."""
    workflows = load_static(settings.config.dir).workflows
    names = sorted(workflows, key=lambda name: (name != DEMO, name != "default", name))
    agents = [{"id": name, "description": workflows[name].description} for name in names]
    examples = _FOR_THE_SCRIPT if settings.llm.default_model == SCRIPTED else _FOR_A_MODEL
    return {"agents": agents, "examples": list(examples)}
