"""What a process does first so that it can be watched: log lines with ids, and traces if a collector is named."""

from __future__ import annotations

import os

from callboard_runtime.errors import SettingsError
from callboard_runtime.observe import tracing
from callboard_runtime.settings import Settings


def start_tracing(settings: Settings, kind: str) -> None:
    """Trace to `CALLBOARD_OTEL__ENDPOINT`, if set; raises SettingsError when the packages for it are missing."""
    if settings.otel.endpoint is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from callboard_runtime.observe.otel import make_tracer  # late: a process that does not trace needs none of it
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"CALLBOARD_OTEL__ENDPOINT needs {error.name}, which is not installed: pip install 'callboard[otel]'"
        ) from error
    tracing.use(make_tracer(settings.otel, kind))
