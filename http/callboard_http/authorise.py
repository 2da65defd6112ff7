"""Who may do what to whose data: decided here and nowhere else."""

from __future__ import annotations

import logging
from typing import Literal

from callboard_http.auth import Principal
from callboard_http.records import Records
from callboard_runtime.errors import NotFound

logger = logging.getLogger(__name__)

Action = Literal["read", "write"]


async def authorise(
    principal: Principal, action: Action, owner: str, what: str, records: Records, operator: str
) -> None:
    """Return if `principal` may do `action` to `what` of `owner`: the owner everything, an operator read, audited.

    Raises NotFound for everybody else, as if it did not exist, and notes the attempt.
    """
    if principal.user_id == owner:
        return
    allowed = action == "read" and operator in principal.roles
    await records.audit(principal.user_id, "operator_read" if allowed else "access_refused", f"{owner}: {what}"[:500])
    if not allowed:
        logger.warning("access refused to %s", what, extra={"action": "access_refused"})
        raise NotFound(f"there is no {what}")
