"""Sums the usage of model calls as they come, from loosely shaped records."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, ConfigDict

from callboard_runtime.domain.usage import CallUsage, UsageTotals
from callboard_runtime.errors import InvalidInput

_NAMES = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cached_tokens": ("cached_tokens", "cached_input_tokens"),
    "reasoning_tokens": ("reasoning_tokens",),
}


class UsageSnapshot(BaseModel):
    """The sums at one moment; readable as attributes and by key."""

    model_config = ConfigDict(frozen=True)

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal = Decimal(0)  # US dollars, the sum of the known prices
    unpriced: int = 0  # calls whose price is not known and that `cost` therefore lacks

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)


class UsageTracker:
    """Adds up calls; a call without a cost counts as unpriced, never as free."""

    def __init__(self) -> None:
        self._totals = UsageTotals()

    def add(self, call: CallUsage | Mapping[str, Any]) -> None:
        """Count one call; raises InvalidInput naming the field that is not a number."""
        self._totals = self._totals.plus(call if isinstance(call, CallUsage) else _read(call))

    def snapshot(self) -> UsageSnapshot:
        totals = self._totals
        return UsageSnapshot(
            calls=totals.calls,
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            total_tokens=totals.total_tokens,
            cached_tokens=totals.cached_tokens,
            reasoning_tokens=totals.reasoning_tokens,
            cost=totals.cost,
            unpriced=totals.unpriced_calls,
        )


def _read(call: Mapping[str, Any]) -> CallUsage:
    tokens = {name: _tokens(call, name, aliases) for name, aliases in _NAMES.items()}
    named = {name: str(call.get(name) or "") for name in ("provider", "model")}
    return CallUsage.model_validate({**named, **tokens, "cost": _cost(call)})


def _tokens(call: Mapping[str, Any], name: str, aliases: tuple[str, ...]) -> int:
    value = next((call[alias] for alias in aliases if call.get(alias) is not None), 0)
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise InvalidInput(f"{name}: {value!r} is not a count of tokens")
    return count


def _cost(call: Mapping[str, Any]) -> Decimal | None:
    value = call.get("cost")
    try:
        return None if value is None else Decimal(str(value))
    except InvalidOperation:
        raise InvalidInput(f"cost: {value!r} is not an amount in US dollars") from None
