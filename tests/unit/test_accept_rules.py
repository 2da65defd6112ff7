"""What the actor looks at before it accepts a run: the names of the client's tools, and the shared state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from callboard_actors.decide import decide
from callboard_runtime.domain import events as e
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import InvalidInput, TooLarge

from .session_model import SessionModel

CONFIG = {"process": "sequential", "tools": {"lookup_order": {}, "pay.out": {}}}


def accept(session: SessionModel, run: str = "r1", config: dict[str, Any] = CONFIG, **given: Any) -> list[e.Event]:
    message = NewMessage(message_id=f"m-{run}", role="user", content="hello")
    command = session.accept(run, input=RunInput(messages=(message,), **given))
    return decide(session.snapshot, command, replace(session.facts(command), config=config))


@pytest.mark.parametrize(
    ("names", "field"),
    [
        (["lookup_order"], r"tools\.0\.name: 'lookup_order' is taken by the backend's tool 'lookup_order'"),
        (["ui.go", "pay_out"], r"tools\.1\.name: 'pay_out' is taken by the backend's tool 'pay\.out'"),
        (["pick", "ui.go", "ui_go"], r"tools\.2\.name: 'ui_go' is taken by tools\.1\.name"),
    ],
)
def test_a_tools_name_belongs_to_one_tool(names: list[str], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        accept(SessionModel(), tools=tuple({"name": name} for name in names))


def test_the_names_of_delegation_are_taken_where_a_manager_delegates() -> None:
    tools = ({"name": "delegate_work_to_coworker"},)
    assert accept(SessionModel(), tools=tools)
    with pytest.raises(InvalidInput, match=r"tools\.0\.name"):
        accept(SessionModel(), config=CONFIG | {"process": "hierarchical"}, tools=tools)


def test_a_state_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(TooLarge, match=r"state: has 65540 bytes; at most 65536"):
        accept(SessionModel(), state={"a": "x" * (65540 - 8)})
    assert accept(SessionModel(), state={"a": "x" * (65536 - 8)})


@pytest.mark.parametrize(("sent", "kept"), [({"b": 2}, {"b": 2}), ({}, {"a": 1}), (None, {"a": 1})])
def test_a_run_begins_with_the_clients_state_or_with_the_sessions(sent: Any, kept: Any) -> None:
    session = SessionModel()
    session.snapshot = session.snapshot.but(shared_state={"a": 1})
    [activated] = [event for event in accept(session, state=sent) if isinstance(event, e.RunActivated)]
    assert activated.state == kept


def test_a_queued_run_brings_its_state_when_its_turn_comes() -> None:
    session = SessionModel()
    for run, state in (("r1", {"of": 1}), ("r2", {"of": 2})):
        message = NewMessage(message_id=f"m-{run}", role="user", content="hello")
        session.apply(session.accept(run, input=RunInput(messages=(message,), state=state)))
    assert session.snapshot.shared_state == {"of": 1}
    session.apply(session.cancel("r1"))
    assert session.snapshot.active is not None
    assert (session.snapshot.active.client_run_id, session.snapshot.shared_state) == ("r2", {"of": 2})
    assert session.snapshot.active.status is RunStatus.QUEUED
