"""The load tester's judgements and figures, without a server."""

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.client import Event, EventId
from callboard_runtime.errors import InvalidInput
from callboard_runtime.load import svg
from callboard_runtime.load.ledger import Received, compare, logged
from callboard_runtime.load.plan import Kind, Plan
from callboard_runtime.load.report import render
from callboard_runtime.load.samples import Marks, Sample
from callboard_runtime.load.stats import percentile, spread, summarise
from callboard_runtime.load.tester import Outcome
from callboard_runtime.load.users import Tokens


def event(epoch: int, seq: int, text: str = "") -> Event:
    return Event(EventId(epoch, seq), {"type": "CUSTOM", "text": text or f"{epoch}-{seq}"})


def received(*events: Event) -> Received:
    made = Received()
    for item in events:
        made.note(item)
    return made


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"duration": None}, "--duration"),
        ({"concurrency": 0}, "--concurrency"),
        ({"users": 0}, "--users"),
        ({"runs_per_session": 0}, "--runs-per-session"),
        ({"rate": 0.0}, "--rate"),
        ({"duration": -1.0}, "--duration"),
        ({"reconnect_share": 1.5}, "--reconnect"),
        ({"think": -1.0}, "--think"),
        ({"frontend_tool_share": 0.7, "approval_share": 0.4}, "--approval"),
        ({"approval_share": 0.1}, "--approval-message"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{named}"):
        replace(Plan(), **changes).checked()


def test_the_mix_is_as_planned() -> None:
    plan = Plan(frontend_tool_share=0.25, approval_share=0.25, approval_message="please", reconnect_share=0.5).checked()
    chance = random.Random(1)
    kinds = [plan.kind(chance) for _ in range(4000)]
    for kind, share in ((Kind.FRONTEND_TOOL, 0.25), (Kind.APPROVAL, 0.25), (Kind.PLAIN, 0.5)):
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.05)
    assert plan.text(Kind.APPROVAL) == "please"
    cuts = [plan.cut_after(chance) for _ in range(4000)]
    assert sum(cut is None for cut in cuts) / len(cuts) == pytest.approx(0.5, abs=0.05)
    assert Plan().cut_after(chance) is None


def test_tokens_are_for_one_user_and_keep_their_secret() -> None:
    secret = "a secret of more than thirty-two bytes, for this test"
    tokens = Tokens(secret=secret, audience="agents")
    claims = jwt.decode(tokens.of("load-user-3"), secret, algorithms=["HS256"], audience="agents")
    assert claims["sub"] == "load-user-3"
    assert "iss" not in claims
    assert secret not in repr(tokens)
    assert Tokens("given").of("anybody") == "given"
    assert Tokens().of("anybody") == ""


# -- the ledger -------------------------------------------------------------------------------------------------------

LOG = [event(1, 1), event(1, 2), event(1, 3), event(2, 1), event(2, 2)]


def test_what_came_as_it_is_in_the_log_has_no_fault() -> None:
    made = received(*LOG)
    assert (made.faults, compare(made.ranges, logged(LOG))) == ([], [])


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([LOG[0], LOG[1], LOG[1]], "after"),
        ([LOG[0], LOG[2]], "after"),
        ([LOG[0], LOG[2], LOG[1]], "after"),
        ([LOG[3], LOG[0]], "after"),
    ],
)
def test_order_is_judged_as_events_come(events: list[Event], word: str) -> None:
    assert word in received(*events).faults[0]


@pytest.mark.parametrize(
    ("came", "word"),
    [
        (LOG[:4], "lost: events 2-2"),
        (LOG[:3], "lost: events 2-1"),
        ([*LOG, event(2, 3)], "not in the log: events 2-3"),
        ([*LOG, event(3, 1)], "not in the log: epoch 3"),
        ([*LOG[:4], event(2, 2, "something else")], "altered"),
    ],
)
def test_the_log_tells_what_is_missing_invented_or_altered(came: list[Event], word: str) -> None:
    [fault] = compare(received(*came).ranges, logged(LOG))
    assert word in fault


def test_what_a_dead_attempt_showed_is_no_fault() -> None:
    """Epoch 1 was seen further than it was committed, and epoch 2 began with the reader's own closings."""
    came = received(*LOG[:3], event(1, 4, "withdrawn"), Event(None, {"type": "TEXT_MESSAGE_END"}), event(2, 2))
    assert (came.faults, compare(came.ranges, logged(LOG))) == ([], [])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.data())
def test_any_single_loss_is_found(sizes: list[int], data: st.DataObject) -> None:
    log = [event(epoch, seq) for epoch, size in enumerate(sizes, 1) for seq in range(1, size + 1)]
    gone = data.draw(st.integers(0, len(log) - 1))
    came = received(*log[:gone], *log[gone + 1 :])
    at_the_start = log[gone].id is not None and log[gone].id.seq == 1 and sizes[log[gone].id.epoch - 1] > 1
    if not at_the_start:  # the first events of an epoch may be a reader's own closings; the client judges those
        assert came.faults or compare(came.ranges, logged(log))


# -- figures ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1


def test_percentiles_of_known_values() -> None:
    found = spread(float(n) for n in range(1, 101))
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.most, found.count) == (50, 95, 99, 100, 100)
    assert spread([]) is None


def sample(number: int, error: str | None = None, *faults: str) -> Sample:
    marks = Marks(accepted=0.01, started=0.02, step=0.03, token=0.05, ended=1.0) if error is None else Marks(0.01)
    return Sample(
        f"r{number}", Kind.PLAIN, number / 2, marks, events=10, legs=1, connections=2, error=error, faults=faults
    )


def test_a_summary_counts_successes_alone_and_names_every_fault() -> None:
    samples = (sample(0), sample(1), sample(2, "LIMIT_EXCEEDED"), sample(3, None, "doubled: 1 events came again"))
    summary = summarise(Outcome(samples, 4.0, 7, 3, ("session t: lost",)))
    assert (summary.runs, summary.succeeded, summary.runs_per_second) == (4, 3, 0.75)
    assert summary.errors == {"LIMIT_EXCEEDED": 1}
    assert summary.spreads["accepted"].count == 3
    assert (summary.reconnects, summary.events, summary.missed) == (4, 40, 7)
    assert summary.faults == ("run r3: doubled: 1 events came again", "session t: lost")


def test_a_test_without_runs_has_a_summary() -> None:
    summary = summarise(Outcome((), 0.0, 0, 0, ()))
    assert (summary.runs_per_second, summary.spreads, summary.faults) == (0, {}, ())


# -- plots and report -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=30),
    st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
)
def test_a_plot_is_well_formed_and_stays_inside(points: list[svg.Point], logarithmic: bool, title: str) -> None:
    for draw in (svg.lines, svg.dots):
        root = ET.fromstring(draw(title, "x", "y", [svg.Series("a & b", points)], log_y=logarithmic))
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert svg.LEFT - 1 <= float(circle.attrib["cx"]) <= svg.WIDTH - svg.RIGHT + 1
            assert svg.TOP - 1 <= float(circle.attrib["cy"]) <= svg.HEIGHT - svg.BOTTOM + 1


def test_bars_are_as_long_as_their_values() -> None:
    root = ET.fromstring(svg.bars("costs", "ms", [("ours", 50), ("<theirs>", 100)]))
    widths = [float(r.attrib["width"]) for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)


def test_the_report_loads_nothing_and_escapes_what_it_shows() -> None:
    outcome = Outcome(tuple(sample(n) for n in range(50)), 25.0, 0, 1, ("<script>alert(1)</script>",))
    page = render("https://x.test/?a=<b>", Plan(), outcome, summarise(outcome), datetime(2026, 1, 2, tzinfo=UTC))
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "<b>" not in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", page)
    assert "TTFT" in page
