"""Log lines of every process: text for people, or one JSON object a line with everything that was passed as `extra`."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

import orjson

from callboard_runtime.observe.logs import Redactor, RunIds
from callboard_runtime.settings import Settings

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY = ("aio_pika", "aiormq", "aiohttp.access", "alembic", "httpx", "LiteLLM", "faststream")


def start_logging(level: str, form: Literal["text", "json"], settings: Settings | None = None) -> None:
    """Log to stderr from `level` on; libraries that report every step only from WARNING on, unless it is DEBUG.

    Records made inside a run carry its ids; no line holds a secret of the `settings`.
    """
    handler, redactor = logging.StreamHandler(), Redactor(settings)
    handler.addFilter(RunIds())
    handler.setFormatter(JsonFormatter(redactor) if form == "json" else TextFormatter(redactor))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel("DEBUG" if level == "DEBUG" else "WARNING")
    # When the broker goes, every channel's callback says so here as an error; the connection's own line is enough.
    logging.getLogger("aio_pika.tools").setLevel("DEBUG" if level == "DEBUG" else "CRITICAL")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN and not key.startswith("_")}


class TextFormatter(logging.Formatter):
    """`12:30:01.123 INFO callboard_actors.relay: sent 3 (action=relayed)`, in UTC; of added ids only the run's."""

    converter = time.gmtime

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
        self._redacted = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        return self._redacted(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        added: frozenset[str] = getattr(record, "_added_ids", frozenset())
        shown = {key: value for key, value in _extra(record).items() if key == "run_id" or key not in added}
        extra = ", ".join(f"{key}={value}" for key, value in shown.items())
        return super().formatMessage(record) + (f" ({extra})" if extra else "")


class JsonFormatter(logging.Formatter):
    """One JSON object with `time`, `level`, `logger`, `message`, the extras, and `exception` if there is one."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        super().__init__()
        self._redacted = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._redacted(orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode())
