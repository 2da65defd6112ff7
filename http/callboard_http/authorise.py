"""Who may do what to whose data: decided here and nowhere else."""

from __future__ import annotations

import logging
from typing import Literal
from uuid import UUID

from callboard_http.auth import Principal
from callboard_http.records import Records
from callboard_runtime.errors import NotFound
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

Action = Literal["read", "write", "approve", "inspect"]
NOBODY = ""  # owns what belongs to no user: lists without content, processes, queues


async def authorise(
    principal: Principal,
    action: Action,
    owner: str,
    what: str,
    *,
    records: Records,
    settings: Settings,
    session_id: UUID | None = None,
    run_id: UUID | None = None,
) -> None:
    """Return if `principal` may do `action` to `what` of `owner`.

    The owner may do everything; an operator may read, which is noted, and inspect what is nobody's content; an approver
    may decide on pending calls, which the actor checks again and notes. Raises NotFound for everybody else, as if it
    did not exist, and notes the attempt.
    """
    if principal.user_id == owner:
        return
    if action == "approve" and principal.roles & set(settings.runs.approver_roles):
        return
    operator = settings.auth.operator_role in principal.roles
    if action == "inspect" and operator:
        return
    allowed = action == "read" and operator
    noted = "operator_read" if allowed else "access_refused"
    await records.audit(principal.user_id, noted, f"{owner}: {what}"[:500], session_id, run_id)
    if not allowed:
        logger.warning("access refused to %s", what, extra={"action": "access_refused"})
        raise NotFound(f"there is no {what}")
