"""Finds the services of a `callboard up` that runs on this machine, for commands in another terminal."""

from __future__ import annotations

import os
import sys

COMMANDS = frozenset({"agents", "approvals", "dlq", "runs", "sessions", "status", "webhooks"})
_URLS = ("database_url", "amqp_url", "redis_url")


def use_running_services() -> None:
    """Where no service is configured, take those of `callboard up`, if it runs; says so on stderr."""
    from callboard_runtime.embedded.running import running_services
    from callboard_runtime.settings import PREFIX, Settings

    settings = Settings()
    if any(getattr(settings, name) is not None for name in _URLS):
        return
    found = running_services(settings.embedded.data_dir)
    if found is None:
        return
    os.environ.update({f"{PREFIX}{name.upper()}": found.urls[name] for name in _URLS})
    print(f"(services of `callboard up`, process {found.pid})", file=sys.stderr)
