"""The runtime's route says what the code does: fields, statuses, commands, examples, and every wrong tool result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import BaseModel

from callboard_actors import announcements
from callboard_actors.decide import HANDLERS, decide
from callboard_actors.replies import _ANSWERS
from callboard_actors.settle import Fate, Unreadable, fate_of
from callboard_runtime.broker import topology
from callboard_runtime.config.specs import AgentRow, AgentSpec, ModelSpec, PromptsSpec, TaskSpec, ToolSpec, WorkflowSpec
from callboard_runtime.config.static import FILES, load_static
from callboard_runtime.config.templates import VARIABLES
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain import tool_correlation
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.domain.state_snapshot import (
    OPEN_CALLS,
    SCHEMA_VERSION,
    ActiveRun,
    PendingToolCall,
    RunStatus,
    StateSnapshot,
    ToolCallStatus,
)
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import (
    CallboardError,
    ConfigError,
    FencedOut,
    Refused,
    Unavailable,
    from_code,
)
from unit import docs_pages as docs

from .session_model import POLICY, SessionModel

# -- fields and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [StateSnapshot, ActiveRun, PendingToolCall])
def test_every_field_is_described_and_no_other(model: type[BaseModel]) -> None:
    table = docs.table(docs.ROUTE, f"`{model.__name__}`")
    described = [name for row in table.rows for name in docs.spans(row[0])]
    assert sorted(described) == sorted(model.model_fields)


def test_the_version_of_the_snapshot_is_the_present_one() -> None:
    assert f"`schema_version` {SCHEMA_VERSION}," in docs.ROUTE.read_text()


def test_the_statuses_of_calls_are_all_there() -> None:
    table = docs.table(docs.ROUTE, "status of a call")
    told = {docs.spans(row[0])[0]: row[1] for row in table.rows}
    assert told == {status.value: "yes" if status in OPEN_CALLS else "no" for status in ToolCallStatus}


def test_the_statuses_of_runs_are_all_there() -> None:
    told = [docs.spans(cell)[0] for cell in docs.table(docs.ROUTE, "status").column("status")]
    assert told == [status.value for status in RunStatus]
    [diagram] = [block for block in docs.blocks(docs.ROUTE, "mermaid") if block.startswith("stateDiagram")]
    drawn = {
        word for line in diagram.splitlines()[1:] for word in line.partition(":")[0].split() if word.isidentifier()
    }
    assert drawn == set(told)


def test_the_answers_and_what_they_make_of_a_call_are_those_of_the_code() -> None:
    table = docs.table(docs.ROUTE, "call was")
    told = {(docs.spans(was)[0], docs.spans(answer)[0]): docs.spans(becomes)[0] for was, answer, becomes in table.rows}
    assert told == {(was.value, answer): becomes.value for (was, answer), becomes in tool_correlation._MEANS.items()}


def test_the_strategies_are_all_there() -> None:
    told = [docs.spans(cell)[0] for cell in docs.table(docs.ROUTE, "strategy").column("strategy")]
    assert told == [strategy.value for strategy in MultitaskStrategy]


# -- commands ---------------------------------------------------------------------------------------------------------

COMMANDS = docs.table(docs.ROUTE, "command")


def test_every_command_is_described() -> None:
    assert {docs.spans(cell)[0] for cell in COMMANDS.column("command")} == {kind.__name__ for kind in HANDLERS}


@pytest.mark.parametrize("row", COMMANDS.rows, ids=lambda row: row[0])
def test_a_commands_answer_and_errors_exist(row: tuple[str, ...]) -> None:
    kind = getattr(c, docs.spans(row[0])[0])
    answered_by = _ANSWERS.get(kind)
    expected = {None: "done", "_run": "run", "_resume": "run", "_start": "start", "_step": "step"}
    assert docs.spans(row[3]) == [expected[answered_by.__name__ if answered_by else None]]
    for code in docs.spans(row[4]):
        error = from_code(code, "")
        assert isinstance(error, Refused)
        assert error.code == code


def test_what_becomes_of_a_message_is_decided_as_told() -> None:
    told = {row[0]: row[1] for row in docs.table(docs.ROUTE, "came of it").rows}
    fates = {
        "an answer": c.Reply(),
        "a refusal": Refused(),
        "it cannot be read": Unreadable(CallboardError()),
        "a service is away": Unavailable(),
        "another process owns the partition": FencedOut(),
        "a bug": KeyError(),
    }
    words = {
        Fate.ACKNOWLEDGE: "acknowledged",
        Fate.DEAD_LETTER: "dead letter",
        Fate.HOLD: "held and tried again",
        Fate.LEAVE: "left to the broker",
    }
    assert set(told) == set(fates)
    for case, outcome in fates.items():
        assert told[case].startswith(words[fate_of(outcome)]), case


def test_integrations_are_told_what_the_page_says() -> None:
    told = {docs.spans(cell)[0] for cell in docs.table(docs.ROUTE, "name").column("name")}
    assert told == {"started", "interrupted", *announcements._ENDS.values()}
    assert topology.run_event_key("t-1", "a.b", "started") == "session.t-1.run.a%2Eb.started"


def test_the_requests_of_integrations_are_those_of_the_page() -> None:
    told = [docs.spans(cell)[0] for cell in docs.table(docs.ROUTE, "routing key").column("routing key")]
    assert tuple(told) == topology.INGRESS_KEYS


# -- tool results that do not match -----------------------------------------------------------------------------------

MISMATCHES = docs.table(docs.ROUTE, "case")
EDITS = {"type": "object", "properties": {"to": {"type": "string"}}}
APPROVAL = PendingToolCall(
    tool_call_id="pay",
    tool_name="pay",
    interrupt_id="i-pay",
    response_schema={"type": "object", "properties": {"editedArgs": EDITS}},
)
RESULT = PendingToolCall(
    tool_call_id="nav", tool_name="ui.go", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT
)
YES = c.ToolAnswer(tool_call_id="pay", status="approved")
DONE = c.ToolAnswer(tool_call_id="nav", status="result", payload="there")
STRAY = c.ToolAnswer(tool_call_id="nobody", status="result", payload="?")


@dataclass
class Case:
    """A session, and the answer that comes to it."""

    model: SessionModel
    command: c.AcceptResume

    def policy(self, **changes: object) -> Case:
        facts = self.model.facts
        self.model.facts = lambda command: replace(facts(command), policy=replace(POLICY, **changes))  # type: ignore[method-assign, arg-type]
        return self


def running() -> SessionModel:
    model = SessionModel()
    model.apply(model.accept("r1"))
    model.apply(model.start(uuid4()))
    return model


def paused() -> SessionModel:
    model = running()
    frame = {"session_id": model.start(uuid4()).session_id, "run_id": model.active_id, "epoch": 1, "ordinal": 1}
    model.apply(c.RequestTools.model_validate(frame | {"calls": (APPROVAL, RESULT)}))
    return model


def asked(model: SessionModel, *given: c.ToolAnswer, run_id: str | None = "r1") -> Case:
    return Case(model, model.resume("r1", *given, run_id=run_id))


def settled() -> SessionModel:
    model = paused()
    model.apply(asked(model, YES).command)
    return model


def expired() -> Case:
    model = paused()
    model.now += POLICY.tool_call_ttl + timedelta(seconds=1)
    return asked(model, YES)


def too_late() -> Case:
    case = asked(paused(), YES)
    case.model.now += timedelta(seconds=6)
    return case


CASES: dict[str, Callable[[], Case]] = {
    "the id is unknown while a run waits": lambda: asked(paused(), STRAY),
    "nothing waits in the session": lambda: asked(ended(), STRAY),
    "the run is still running: not pending yet": lambda: asked(running(), YES),
    "the same answer again": lambda: asked(settled(), YES),
    "another answer to a settled call": lambda: asked(settled(), YES.but(status="rejected")),
    "the answer names another run": lambda: asked(paused(), YES, run_id="r2"),
    "a result for a call that needs approval": lambda: asked(paused(), YES.but(status="result")),
    "an approval for a call that needs a result": lambda: asked(paused(), DONE.but(status="approved")),
    "the call has expired": expired,
    "the approver lacks the role": lambda: asked(paused(), YES).policy(approver_roles=frozenset({"boss"})),
    "the requester approves, and may not": lambda: asked(paused(), YES).policy(approver_not_requester=True),
    "edited arguments that the tool's schema does not allow": lambda: asked(paused(), YES.but(edited_args={"to": 5})),
    "one right and one wrong answer together": lambda: asked(paused(), DONE, STRAY),
    "right, and other calls are still open": lambda: asked(paused(), YES),
    "right, but it arrived too late to be taken": too_late,
}


def ended() -> SessionModel:
    model = running()
    model.apply(
        c.FinishRun(
            session_id=model.start(uuid4()).session_id,
            run_id=model.active_id,
            epoch=1,
            ordinal=1,
            status=RunStatus.SUCCEEDED,
        )
    )
    return model


def test_every_case_of_the_page_is_played() -> None:
    assert MISMATCHES.column("case") == list(CASES)


@pytest.mark.parametrize("row", MISMATCHES.rows, ids=lambda row: row[0])
def test_a_tool_result_has_the_effect_that_the_page_tells(row: tuple[str, ...]) -> None:
    case, (_, answered, agui, audit, _) = CASES[row[0]](), row
    before = case.model.snapshot
    outcome, audited = _play(case)
    if isinstance(outcome, Refused):
        told = f"{outcome.status} `{outcome.code}`"
        assert answered == told + (f", Retry-After {outcome.retry_after}" if outcome.retry_after else "")
        assert case.model.snapshot == before
        assert (agui == "stream") is (outcome.code == "TOOL_RESULT_MISMATCH")
    else:
        assert answered in ("202, `awaiting_input`", "the first answer again")
        assert outcome.status is RunStatus.AWAITING_INPUT
    assert audited == ([] if audit == "none" or not isinstance(outcome, Refused) else docs.spans(audit))


def _play(case: Case) -> tuple[c.RunAnswer | Refused, list[str]]:
    """What the caller is told, and the actions of the audit rows."""
    facts = case.model.facts(case.command)
    try:
        events = decide(case.model.snapshot, case.command, facts)
        case.model.facts = lambda _: facts  # type: ignore[method-assign]
        reply = case.model.apply(case.command)
    except Refused as error:
        return error, []
    audited = [event.action for event in events if isinstance(event, e.Audited)]
    try:
        answer = reply.unwrap()
    except Refused as error:
        return error, audited
    assert isinstance(answer, c.RunAnswer)
    return answer, [] if not events else [action for action in audited if action == "tool_result.refused"]


def test_the_same_answer_again_gets_the_same_reply() -> None:
    model = paused()
    command = asked(model, YES).command
    assert model.apply(command) == model.apply(command)


# -- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", docs.blocks(docs.ROUTE, "python"))
def test_python_examples_run(program: str) -> None:
    assert "assert" in program
    exec(compile(program, "example", "exec"), {})


def _example_directory(folder: Path) -> Path:
    for block in docs.blocks(docs.ROUTE, "yaml"):
        name, _, body = block.partition("\n")
        (folder / name.removeprefix("# ")).write_text(body)
    return folder


def test_the_example_of_a_directory_is_a_workflow(tmp_path: Path) -> None:
    workflow = load_static(_example_directory(tmp_path)).workflows["reviewed"]
    assert [(stage.name, stage.agent) for stage in workflow.stages] == [("answer", "answer"), ("edit", "editor")]
    assert workflow.visible_stages() == ("edit",)


def test_a_mistake_is_named_as_the_page_says(tmp_path: Path) -> None:
    agents = _example_directory(tmp_path) / "agents.yaml"
    agents.write_text("\n".join(line for line in agents.read_text().splitlines() if "goal" not in line))
    with pytest.raises(ConfigError) as caught:
        load_static(tmp_path)
    assert f"`{caught.value.message}`" in docs.ROUTE.read_text()


def test_the_files_and_their_fields_are_all_there() -> None:
    specs = {
        "agents.yaml": AgentSpec,
        "tasks.yaml": TaskSpec,
        "workflow.yaml": WorkflowSpec,
        "tools.yaml": ToolSpec,
        "models.yaml": ModelSpec,
    }
    table = docs.table(docs.ROUTE, "file")
    told = {docs.spans(name)[0]: set(docs.spans(fields)) for name, _, fields in table.rows}
    assert told == {name: set(spec.model_fields) for name, spec in specs.items()}
    assert set(told) == set(FILES)


def test_what_a_row_may_say_is_told() -> None:
    [sources] = [table for table in docs.tables(docs.ROUTE) if table.heading == "Configuration"]
    told = {"agent_type", *docs.spans(sources.rows[-1][2])}
    assert told == set(AgentRow.model_fields)
    text = docs.prose(docs.ROUTE)
    assert all(f"`{name}`" in text for name in PromptsSpec.model_fields)
    assert all(f"`{{{name}}}`" in text for name in VARIABLES)
