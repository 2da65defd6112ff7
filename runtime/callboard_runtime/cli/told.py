"""How the command line tells times, money and statuses in tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def ago(at: datetime | None) -> str:
    """How long ago, in one unit; empty for never."""
    if at is None:
        return ""
    seconds = (datetime.now(UTC) - at).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def took(start: datetime | None, end: datetime | None) -> str:
    """How long it took, or has taken so far."""
    if start is None:
        return ""
    return span(max(0.0, ((end or datetime.now(UTC)) - start).total_seconds()))


def span(seconds: float) -> str:
    """A length of time, in one unit."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def money(cost: Decimal | None, unpriced: int = 0) -> str:
    """US dollars; an unknown price is not zero."""
    if cost is None:
        return "unknown"
    known = f"${cost.normalize():f}" if cost else "$0"
    return f"{known} + {unpriced} unpriced" if unpriced else known


def plain(value: object) -> str:
    """Its text; None is empty."""
    return "" if value is None else str(value)


def heading(title: str) -> None:
    print(f"\n{title}")


def section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A titled table; nothing for no rows."""
    from callboard_runtime.cli.output import print_table

    found = list(rows)
    if found:
        heading(title)
        print_table(columns, found)
