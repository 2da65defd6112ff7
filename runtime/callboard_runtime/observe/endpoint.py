"""`/metrics`, `/healthz` and `/readyz` of a process that serves nothing else; answered by a thread of its own.

In:  GET requests
Out: Prometheus' text, or JSON; 503 while the process is not ready
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import ThreadingWSGIServer

from callboard_runtime.errors import SettingsError
from callboard_runtime.observe import metrics
from callboard_runtime.observe.health import Health
from callboard_runtime.settings import MetricsSettings

logger = logging.getLogger(__name__)

MORE_PORTS = 31  # tried after the first one: several processes share a machine and its settings
JSON = "application/json"

Answer = tuple[HTTPStatus, str, bytes]


@contextmanager
def serving(settings: MetricsSettings) -> Generator[Health]:
    """Serve while the block runs, if a port is set; what is yielded is to be told what to watch."""
    health = Health()
    if settings.port is None:
        yield health
        return
    server = _listen(settings, settings.port, _application(health))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    url = f"http://{settings.host}:{server.server_port}/metrics"
    logger.info("metrics are at %s", url, extra={"action": "metrics_listening", "port": server.server_port})
    try:
        yield health
    finally:
        server.shutdown()
        server.server_close()


def _listen(settings: MetricsSettings, first: int, application: Callable[..., Iterable[bytes]]) -> WSGIServer:
    for port in range(first, first + MORE_PORTS + 1):
        try:
            return make_server(settings.host, port, application, ThreadingWSGIServer, _QuietHandler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(
                    f"CALLBOARD_METRICS__HOST {settings.host!r} cannot be listened on: {error}"
                ) from None
    raise SettingsError(f"CALLBOARD_METRICS__PORT: {first} and the {MORE_PORTS} ports after it are all taken")


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A line per scrape tells nobody anything."""


def _application(health: Health) -> Callable[..., Iterable[bytes]]:
    pages: dict[str, Callable[[Health], Answer]] = {"/metrics": _metrics, "/healthz": _healthz, "/readyz": _readyz}

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        status, kind, body = pages.get(environ.get("PATH_INFO", ""), _missing)(health)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return application


def _metrics(health: Health) -> Answer:
    health.probe()
    metrics.READY.set(health.report().ready)
    return HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics.render()


def _healthz(health: Health) -> Answer:
    if health.alive():
        return HTTPStatus.OK, JSON, orjson.dumps({"status": "ok"})
    return HTTPStatus.SERVICE_UNAVAILABLE, JSON, orjson.dumps({"status": "stuck"})


def _readyz(health: Health) -> Answer:
    report = health.report()
    status = HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE
    said = {"status": "ready" if report.ready else "unready", "checks": dict(report.checks)}
    return status, JSON, orjson.dumps(said)


def _missing(_: Health) -> Answer:
    return HTTPStatus.NOT_FOUND, JSON, orjson.dumps({"pages": ["/metrics", "/healthz", "/readyz"]})
