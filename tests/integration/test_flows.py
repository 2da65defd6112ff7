"""Flows as written for ag-ui-crewai, unchanged, with real CrewAI and LiteLLM against a model server."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from callboard_runtime.agui.run_events import run_finished, run_started
from callboard_runtime.agui.stream import RunStream
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.crew.memory_journal import MemoryJournal, MemorySink
from callboard_runtime.crew.runtime import CrewOutcome
from callboard_runtime.domain.commands import StepRecord
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import ToolCallStatus
from callboard_runtime.entry.brief import HistoryMessage, JournalRow, RunBrief
from callboard_runtime.errors import ConfigError, InvalidInput
from callboard_runtime.settings import Settings
from flow_packages import CONFIG, SET_PLAN, flow_packages
from front_client import fresh
from model_server import ANSWER, INPUT_TOKENS, ModelServer, served_model
from unit.agui_verifier import verify
from unit.docs_pages import ROOT, blocks
from waiting import until

FLOWS_PAGE = ROOT / "docs" / "flows.md"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    """ag-ui-crewai, behind everything that is installed."""
    folder = str(flow_packages())
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with served_model() as server:
        yield server


@pytest.fixture
def settings(model: ModelServer) -> Settings:
    model.served.clear()
    llm = {"provider_keys": {"openai": "sk-not-a-real-one"}, "api_base": {"openai": model.url}}
    return Settings(llm=llm, config={"dir": CONFIG})  # type: ignore[arg-type]


def resolved(agent_id: str, flow: str | None = None) -> RuntimeConfig:
    config = RuntimeConfig.from_sources(by_type={}, static_cfg=CONFIG, agent_id=agent_id)
    return config.model_copy(update={"flow": config.flow.model_copy(update={"flow": flow})}) if flow else config


def brief(text: str, agent_id: str = "travel", *, flow: str | None = None, **more: Any) -> RunBrief:
    fields: dict[str, Any] = {
        "session_id": uuid4(), "run_id": uuid4(), "user_id": "ada", "thread_id": "thread", "leg_run_id": "run",
        "agent_id": agent_id, "leg": 1, "config": resolved(agent_id, flow),
        "input": RunInput(tools=(SET_PLAN,)), "history": (HistoryMessage("user", text),),
    }  # fmt: skip
    return RunBrief(**(fields | more))


class Ran:
    """One attempt and all that can be seen of it."""

    def __init__(self, given: RunBrief) -> None:
        self.brief, self.journal, self.sink = given, MemoryJournal(given.journal), MemorySink()
        self.outcome: CrewOutcome | None = None
        self.runtime: Any = None

    async def run(self, settings: Settings) -> "Ran":
        from callboard_runtime.flows.runtime import FlowRuntime

        try:
            self.runtime = FlowRuntime(self.brief, self.journal, RunStream(self.sink), settings)
            self.outcome = await self.runtime.run()
        finally:
            end = run_finished("t", "r", {"type": "success"}, {})
            assert not verify([run_started("t", "r"), *self.sink.events, end]).open_parts
        return self

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.sink.events if event["type"] == kind]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.sink.events]


async def test_a_streamed_answer_is_shown_recorded_and_metered(settings: Settings, model: ModelServer) -> None:
    ran = await Ran(brief("where to?")).run(settings)
    assert ran.outcome == CrewOutcome("finished", ANSWER)
    assert [event["stepName"] for event in ran.of("STEP_STARTED")] == ["draft", "chat"]
    assert "".join(event["delta"] for event in ran.of("TEXT_MESSAGE_CONTENT")) == ANSWER
    assert [event["snapshot"] for event in ran.of("STATE_SNAPSHOT")] == [
        {"progress": "drafting"},
        {"plan": [], "drafts": 1},
    ]
    assert [event["name"] for event in ran.of("CUSTOM")] == ["PredictState"]
    assert [(m.role, m.content) for m in ran.journal.messages] == [("assistant", ANSWER)]
    assert ran.journal.messages[0].message_id == ran.of("TEXT_MESSAGE_START")[0]["messageId"]
    usages = [record.usage for record in ran.journal.recorded if record.usage]
    assert [(usage.input_tokens, usage.estimated) for usage in usages] == [(INPUT_TOKENS, False)] * 2
    assert all(usage.cost for usage in usages)
    assert [request.body["messages"][0]["content"][:9] for request in model.served] == ["key:draft", "You plan "]
    assert ran.journal.state == {"plan": [], "drafts": 1}


async def test_a_backend_tool_of_the_flow(settings: Settings, model: ModelServer) -> None:
    ran = await Ran(brief("call:weather:Oslo")).run(settings)
    [start], [result] = ran.of("TOOL_CALL_START"), ran.of("TOOL_CALL_RESULT")
    assert (result["toolCallId"], result["content"]) == (start["toolCallId"], "sunny at Oslo")
    rows = [(m.role, m.content, m.tool_call_id) for m in ran.journal.messages]
    assert rows == [
        ("assistant", None, None),
        ("tool", "sunny at Oslo", start["toolCallId"]),
        ("assistant", ANSWER, None),
    ]
    assert ran.journal.messages[1].message_id == result["messageId"]
    assert model.served[-1].body["messages"][-1]["tool_call_id"] == start["toolCallId"]
    assert ran.journal.state == {"plan": ["concluded"], "drafts": 1}


@pytest.mark.parametrize("kept", range(1, 7))
async def test_a_new_attempt_repeats_no_recorded_call(settings: Settings, model: ModelServer, kept: int) -> None:
    """The journal is cut after each of its rows, as if the process had been killed there."""
    first = await Ran(brief("call:weather:Oslo")).run(settings)
    rows = first.journal.rows()
    assert len(rows) == 6
    asked = len(model.served)
    second = await Ran(brief("call:weather:Oslo", run_id=first.brief.run_id, journal=rows[:kept])).run(settings)
    recorded = sum(row.kind == "model" for row in rows[:kept])
    assert len(model.served) - asked == asked - recorded
    assert second.outcome == first.outcome
    shown = [m.content for m in (*first.journal.messages, *second.journal.messages)]
    assert shown.count(ANSWER) == (1 if kept >= 5 else 2)
    ids = {row.result["tool_calls"][0]["id"] for row in second.journal.rows() if _calls(row)}
    assert len(ids) == 1


def _calls(row: JournalRow) -> bool:
    return row.kind == "model" and bool(row.result["tool_calls"])


async def test_a_frontend_tool_pauses_and_its_answer_is_a_fresh_kickoff(settings: Settings, model: ModelServer) -> None:
    paused = await Ran(brief("call:set_plan:Oslo")).run(settings)
    assert paused.outcome is not None
    [call] = paused.outcome.calls
    assert (call.requested_at, call.expires_at) == (None, None), "the actor's clock says when"
    assert (call.tool_name, call.args, call.status) == ("set_plan", {"label": "Oslo"}, ToolCallStatus.PENDING_RESULT)
    assert paused.of("TOOL_CALL_START")[0]["toolCallId"] == call.tool_call_id
    answered = call.model_copy(update={"status": ToolCallStatus.EXECUTED, "answer": {"payload": "shown"}})
    row = JournalRow(f"answer:{call.tool_call_id}", "answer", "set_plan", "", "recorded", answered.model_dump(), 2)
    again = brief("call:set_plan:Oslo", leg=2, journal=(*paused.journal.rows(), row), run_id=paused.brief.run_id)
    resumed = await Ran(again).run(settings)
    assert resumed.outcome == CrewOutcome("finished", ANSWER)
    last = model.served[-1].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "tool"]
    assert (last[-1]["content"], last[-1]["tool_call_id"]) == ("shown", call.tool_call_id)
    # The second leg's journal is replayed as well, without the first one's.
    asked = len(model.served)
    once_more = brief("call:set_plan:Oslo", leg=2, journal=resumed.journal.rows(), run_id=paused.brief.run_id)
    assert (await Ran(once_more).run(settings)).outcome == resumed.outcome
    assert len(model.served) == asked


async def test_what_a_flow_says_in_its_own_words_is_a_message(settings: Settings) -> None:
    ran = await Ran(brief("hello", "plain")).run(settings)
    text = f"{ANSWER} | {ANSWER}"
    assert [m.content for m in ran.journal.messages] == [text]
    assert "".join(event["delta"] for event in ran.of("TEXT_MESSAGE_CONTENT")) == text


async def test_a_cancelled_flow_keeps_what_was_said(settings: Settings, model: ModelServer) -> None:
    ran = Ran(brief(f"hold:{(key := fresh('key'))}"))
    running = asyncio.create_task(ran.run(settings))
    await until(lambda: "three" in str(ran.of("TEXT_MESSAGE_CONTENT")), "half an answer")
    assert ran.runtime is not None
    ran.runtime.stop("cancel")
    await asyncio.wait_for(running, 30)
    model.release(key)
    assert ran.outcome == CrewOutcome("cancelled", "one two three")
    assert [m.content for m in ran.journal.messages] == ["one two three"]
    assert [record.outcome for record in ran.journal.recorded if record.usage] == ["recorded", "cancelled"]


class ReleasingJournal(MemoryJournal):
    """Has the run released as soon as the first step is recorded."""

    def __init__(self, ran: Ran) -> None:
        super().__init__()
        self._ran = ran

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        await super().record(*records, messages=messages, state=state)
        self._ran.runtime.stop("release")


async def test_a_flow_is_released_before_its_next_model_call(settings: Settings, model: ModelServer) -> None:
    first = Ran(brief("where to?"))
    first.journal = ReleasingJournal(first)
    await first.run(settings)
    assert first.outcome == CrewOutcome("released")
    assert [request.key for request in model.served] == ["draft"]
    second = await Ran(brief("where to?", journal=first.journal.rows())).run(settings)
    assert second.outcome == CrewOutcome("finished", ANSWER)
    assert [request.key for request in model.served] == ["draft", None]


@pytest.mark.parametrize("status", ["unknown", "begun"])
async def test_a_process_died_while_a_method_was_committed(settings: Settings, model: ModelServer, status: str) -> None:
    first = await Ran(brief("hello", "plain")).run(settings)
    *calls, method = first.journal.rows()
    asked = len(model.served)
    second = await Ran(brief("hello", "plain", journal=(*calls, replace(method, status=status)))).run(settings)
    assert second.outcome == first.outcome
    assert len(model.served) == asked
    assert [m.content for m in second.journal.messages] == [f"{ANSWER} | {ANSWER}"]


@pytest.mark.parametrize("lost", [0, 1])
async def test_one_of_two_calls_side_by_side_was_lost(settings: Settings, model: ModelServer, lost: int) -> None:
    first = await Ran(brief("hello", "plain")).run(settings)
    rows = [row for row in first.journal.rows() if row.kind == "model"]
    asked = len(model.served)
    second = await Ran(brief("hello", "plain", journal=(rows[1 - lost],))).run(settings)
    assert second.outcome == first.outcome
    assert len(model.served) == asked + 1


async def test_a_flow_that_changed_diverges(settings: Settings, model: ModelServer) -> None:
    from callboard_runtime.crew.pause import ReplayDiverged

    first = await Ran(brief("one thing")).run(settings)
    asked = len(model.served)
    with pytest.raises(ReplayDiverged, match="chat"):
        await Ran(brief("another thing", journal=first.journal.rows())).run(settings)
    assert len(model.served) == asked


async def test_a_model_asked_past_the_journal_ends_the_run(settings: Settings, model: ModelServer) -> None:
    with pytest.raises(ConfigError, match=r"must await litellm\.acompletion"):
        await Ran(brief("hello", "plain", flow="travel_flows:PastLiteLLM")).run(settings)
    assert not model.served


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("message", "method work left 12000"),
        ("result", "tool result has 12000"),
        ("custom", "event PredictState has 12000"),
    ],
)
async def test_more_than_a_command_could_carry_ends_the_run_and_is_not_shown(
    settings: Settings, said: str, what: str
) -> None:
    """A single event that cannot be committed would keep even the end of the run from being told."""
    ran = Ran(brief(said, "plain", flow="travel_flows:TooMuch"))
    with pytest.raises(InvalidInput, match=f"^the flow's {what}"):
        await ran.run(settings)
    assert max(len(orjson.dumps(event)) for event in ran.sink.events) < 1000


async def test_a_crew_inside_a_flow_ends_the_run_before_it_asks(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="through CrewAI, where it is neither journaled nor metered"):
        await Ran(brief("hello", "plain", flow="travel_flows:CrewInside")).run(settings)


async def test_the_flow_of_the_documentation(settings: Settings, model: ModelServer, tmp_path: Path) -> None:
    [program] = blocks(FLOWS_PAGE, "python")
    [entry] = blocks(FLOWS_PAGE, "yaml")
    (tmp_path / "trips.py").write_text(program)
    (tmp_path / "workflow.yaml").write_text(entry)
    config = RuntimeConfig.from_sources(by_type={}, static_cfg=tmp_path, agent_id="travel")
    assert config.flow is not None
    assert config.flow.llm is not None
    own = config.model_copy(update={"flow": config.flow.model_copy(update={"llm": None})})
    there = settings.model_copy(update={"config": settings.config.model_copy(update={"dir": tmp_path})})
    ran = await Ran(brief("hello", config=own, history=(HistoryMessage("user", "hello"),))).run(there)
    assert [m.content for m in ran.journal.messages] == [ANSWER]
    assert [event["snapshot"] for event in ran.of("STATE_SNAPSHOT")] == [{"turns": 0, "busy": True}, {"turns": 1}]
    assert model.served[0].body["model"] == "gpt-5-mini"


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("travel_flows:Nothing", "'Nothing' in module 'travel_flows' is not a class derived from crewai's Flow"),
        ("no_such_module:Flow", "cannot import 'no_such_module'"),
    ],
)
def test_a_flow_that_cannot_be_loaded(settings: Settings, flow: str, message: str) -> None:
    from callboard_runtime.flows.loading import load_flow

    with pytest.raises(ConfigError, match=message):
        load_flow("travel", flow, CONFIG)


def test_a_missing_extra_is_named(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from callboard_runtime.flows import loading

    (tmp_path / "lonely.py").write_text("import ag_ui_crewai.sdk\n")
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "ag_ui_crewai", None)
    monkeypatch.delitem(sys.modules, "ag_ui_crewai.sdk", raising=False)
    with pytest.raises(ConfigError, match=r"needs ag-ui-crewai; install `callboard\[flows\]`"):
        loading.load_flow("travel", "lonely:Flow", tmp_path)


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ({"flow": "travel_flows"}, r"w\.flow: String should match"),
        ({"flow": "a:B", "stages": ["answer"]}, "`flow` and `stages` exclude each other"),
        ({"stages": ["answer"], "model_code": "held"}, "`model_code` belongs to a flow"),
        ({"stages": []}, r"w\.stages: there must be one at least; or name a `flow"),
        ({"flow": "a:B", "model_code": "no-such"}, r"w\.model_code: unknown model 'no-such'"),
    ],
)
def test_a_flow_that_is_configured_wrongly(workflow: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RuntimeConfig.from_sources(by_type={}, static_cfg={"workflow": {"w": workflow}}, agent_id="w")


def test_what_is_patched_is_where_it_was(settings: Settings) -> None:
    """A new release of either library that moves these would let flows ask models past the journal."""
    import litellm
    from ag_ui_crewai import sdk

    from callboard_runtime.flows import patches

    patches.patch_litellm()
    patches.patch_sdk()
    names = ("acompletion", "completion", "text_completion", "atext_completion", "responses", "aresponses")
    assert all(getattr(litellm, name) in patches._instead.values() for name in names)
    assert sdk.CustomStreamWrapper in patches.JournaledStream.__mro__
    assert "_copilotkit_stream_custom_stream_wrapper" in sdk.copilotkit_stream.__code__.co_names


def test_a_pinned_crew_is_as_a_former_release_knows_it() -> None:
    crew = RuntimeConfig.from_sources(by_type={}, agent_id="default")
    assert "flow" not in crew.to_json()
    flow = resolved("travel")
    assert RuntimeConfig.load(orjson.loads(orjson.dumps(flow.to_json()))) == flow
