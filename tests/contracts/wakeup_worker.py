"""A worker process with the project's own Celery settings, whose tasks write down what they were woken for.

    python -m contracts.wakeup_worker URL NOTES

Each task appends a line to NOTES and ends when the file `NOTES.go` exists.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from callboard_runtime.cli.worker import celery_worker
from callboard_runtime.entry.celery_app import app, bind
from callboard_runtime.entry.wakeup import RESUME_TASK, RUN_TASK
from callboard_runtime.settings import Settings


def main(url: str, notes: Path) -> None:
    warnings.simplefilter("ignore")

    def note(self: Any, *args: str) -> None:
        with notes.open("a") as file:
            file.write(" ".join([self.name, self.request.id, *args]) + "\n")
        while not notes.with_suffix(".go").exists():
            time.sleep(0.02)

    for name in (RUN_TASK, RESUME_TASK):
        app.task(note, name=name, bind=True, shared=False)
    bind(app, Settings(amqp_url=url))
    celery_worker(app, SimpleNamespace(process=f"test-{notes.stem}", slots=2)).start()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
