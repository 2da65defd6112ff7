"""Ages as people write them: `30s`, `10m`, `2h`, `7d`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import InvalidInput

_AGE = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)


def moment(name: str, age: str | None) -> datetime | None:
    """The moment that long ago; raises InvalidInput naming `name`."""
    if age is None:
        return None
    found = _AGE.fullmatch(age)
    if not found:
        raise InvalidInput(f"{name}: must be an age such as 30s, 10m, 2h or 7d")
    return utcnow() - min(timedelta(**{_UNITS[found[2]]: int(found[1])}), _LONGEST)
