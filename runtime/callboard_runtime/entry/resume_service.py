"""Resumes paused runs: any later leg, in any process, from the database alone.

In:  answers to pending calls, or the ids of the leg that they opened
Out: an AcceptResume, or the executed leg
"""

from __future__ import annotations

from callboard_runtime.entry.client import enqueue_resume
from callboard_runtime.entry.run_command import ResumeCommand
from callboard_runtime.entry.run_service import execute_run as execute_resume

__all__ = ["ResumeCommand", "enqueue_resume", "execute_resume"]
