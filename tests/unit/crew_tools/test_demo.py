"""The demonstration's own tools, as far as they are decided without a database."""

from __future__ import annotations

import uuid

import pytest

from callboard_runtime.tools.demo import issue_refund
from callboard_runtime.tools.spec import ToolContext


@pytest.mark.parametrize("amount", ["", "ten", "0", "-1", "10000", "NaN", "sNaN", "Infinity", "1e9"])
async def test_an_amount_that_is_no_sum_of_money_is_named_to_the_model(amount: str) -> None:
    context = ToolContext("call_1", "issue_refund", "ada", "t1", uuid.uuid4())
    with pytest.raises(ValueError, match="is not a sum of money between 0 and 10000"):
        await issue_refund(context, "42", amount)
