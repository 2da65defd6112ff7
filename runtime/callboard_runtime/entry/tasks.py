"""The Celery tasks. A wake-up carries ids only; what to do is in the database.

In:  ids of a leg, from the actors' outbox; or, called directly, a RunCommand that is accepted first
Out: the executed leg
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from celery import Task
from celery.signals import worker_shutting_down

from callboard_runtime.entry.celery_app import app, bind
from callboard_runtime.entry.client import enqueue_resume, enqueue_run
from callboard_runtime.entry.run_command import ResumeCommand, RunCommand
from callboard_runtime.entry.run_service import execute_run
from callboard_runtime.entry.wakeup import RESUME_TASK, RUN_TASK
from callboard_runtime.entry.worker_loop import current_worker, running_worker
from callboard_runtime.observe import tracing
from callboard_runtime.settings import Settings

__all__ = [
    "RESUME_TASK",
    "RUN_TASK",
    "ResumeCommand",
    "RunCommand",
    "app",
    "enqueue_resume",
    "enqueue_run",
    "execute_run",
    "resume_agent_task",
    "run_agent_task",
]

REDACTED = "(redacted)"
IDS = 3  # session id, run id, leg


class ContentTask(Task):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
    """A task whose arguments may be a user's content: they are not shown in headers, events or logs."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        if not app.conf.broker_url:
            bind(app, Settings())
        if kwargs or len(args or ()) != IDS:
            options |= {"argsrepr": REDACTED, "kwargsrepr": REDACTED}
            args = [_plain(argument) for argument in args or ()]
        return super().apply_async(args, kwargs, *more, **options)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


@app.task(name=RUN_TASK, base=ContentTask, bind=True, shared=False)
def run_agent_task(self: Any, *args: Any, **content: Any) -> str | None:
    """Run the first leg of a run, given as session id, run id and leg.

    Given a RunCommand instead (or its members), accepts that run and returns the id of the task that executes it.
    """
    if _is_wakeup(args, content):
        _execute(*args)
        return None
    return enqueue_run(RunCommand.of(_with_task_id(_content(args, content), self.request.id)))


@app.task(name=RESUME_TASK, base=ContentTask, shared=False)
def resume_agent_task(*args: Any, **content: Any) -> str | None:
    """Run a later leg of a run, given as session id, run id and leg.

    Given a ResumeCommand instead (or its members), accepts its answers and returns the id of the task that goes on.
    """
    if _is_wakeup(args, content):
        _execute(*args)
        return None
    return enqueue_resume(_content(args, content))


def _is_wakeup(args: tuple[Any, ...], content: Mapping[str, Any]) -> bool:
    return len(args) == IDS and not content


def _execute(session_id: str, run_id: str, leg: str | int) -> None:
    with tracing.continued(_trace()):
        current_worker().execute(UUID(session_id), UUID(run_id), int(leg))


def _trace() -> str | None:
    """The trace that the wake-up belongs to."""
    if tracing.current is None:
        return None
    request: Any = app.current_worker_task.request  # a header becomes an attribute of it
    return tracing.header_of({tracing.HEADER: getattr(request, tracing.HEADER, None)})


def _content(args: tuple[Any, ...], content: Mapping[str, Any]) -> dict[str, Any]:
    given: Mapping[str, Any] = _plain(args[0]) if args else {}
    return {**given, **content}


def _with_task_id(content: dict[str, Any], task_id: str | None) -> dict[str, Any]:
    """A message that is delivered twice must not become two runs."""
    named = content.get("run_id") or content.get("runId")
    return content if named or task_id is None else content | {"run_id": task_id}


def _plain(argument: Any) -> Any:
    return argument.model_dump(mode="json") if isinstance(argument, RunCommand | ResumeCommand) else argument


@worker_shutting_down.connect  # pyright: ignore[reportUnknownMemberType]
def _release_runs(**_: Any) -> None:
    worker = running_worker()
    if worker is not None:
        worker.shut_down()
