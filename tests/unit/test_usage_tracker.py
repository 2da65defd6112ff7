"""Usage records of any shape add up; money is exact."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import InvalidInput
from callboard_runtime.llm.usage_tracker import UsageTracker

COUNTS = st.integers(0, 10**6)
COSTS = st.none() | st.decimals(0, 1000, places=8)


def test_ten_in_and_five_out_for_ten_cents() -> None:
    tracker = UsageTracker()
    tracker.add({"input_tokens": 10, "output_tokens": 5, "cost": "0.1"})
    totals = tracker.snapshot()
    assert (totals.total_tokens, totals.cost, totals.calls, totals.unpriced) == (15, Decimal("0.1"), 1, 0)
    assert totals["total_tokens"] == 15
    assert isinstance(totals["cost"], Decimal)


def test_openais_names_count_the_same() -> None:
    tracker = UsageTracker()
    tracker.add({"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.1, "provider": "openai", "model": "m"})
    assert (tracker.snapshot().input_tokens, tracker.snapshot().output_tokens) == (3, 4)
    assert tracker.snapshot().cost == Decimal("0.1")


@given(st.lists(st.tuples(COUNTS, COUNTS, COSTS), max_size=30))
def test_sums_are_exact_and_unknown_prices_are_counted(calls: list[tuple[int, int, Decimal | None]]) -> None:
    tracker = UsageTracker()
    for given_in, given_out, cost in calls:
        tracker.add({"input_tokens": given_in, "output_tokens": given_out, "cost": cost})
    totals = tracker.snapshot()
    assert totals.total_tokens == sum(one + other for one, other, _ in calls)
    assert totals.cost == sum((cost for _, _, cost in calls if cost is not None), Decimal(0))
    assert totals.unpriced == sum(cost is None for _, _, cost in calls)


def test_a_metered_call_is_taken_as_it_is() -> None:
    tracker = UsageTracker()
    tracker.add(CallUsage(provider="p", model="m", input_tokens=2, output_tokens=1, cost=Decimal("0.5")))
    assert tracker.snapshot().cost == Decimal("0.5")


@pytest.mark.parametrize(
    ("record", "field"),
    [({"input_tokens": "many"}, "input_tokens"), ({"output_tokens": -1}, "output_tokens"), ({"cost": "dear"}, "cost")],
)
def test_what_is_no_number_is_refused_by_name(record: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        UsageTracker().add(record)


def test_an_unknown_member_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        UsageTracker().snapshot()["tokens"]
