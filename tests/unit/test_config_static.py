"""The YAML files: overlaying, reading again after a change, and mistakes named by file and key."""

import os
import re
from pathlib import Path

import pytest

from callboard_runtime.config.loader import resolve_rows
from callboard_runtime.config.static import OVERLAY, PACKAGED, load_static
from callboard_runtime.errors import ConfigError, NotFound
from callboard_runtime.settings import Settings


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


def test_the_packaged_workflows() -> None:
    static = load_static()
    assert sorted(static.workflows) == ["chat", "default", "demo"]
    assert [stage.name for stage in static.workflows["default"].stages] == ["intent", "answer"]
    assert static.workflows["default"].visible_stages() == ("answer",)
    assert [stage.name for stage in static.workflows["chat"].stages] == ["answer"]


def test_a_directory_overlays_field_by_field(tmp_path: Path) -> None:
    packaged = load_static()
    static = load_static(
        write(
            tmp_path,
            agents="intent: {role: Oracle, llm_params: {temperature: 1}}",
            models="deepseek-v3.2: {context_window: 99}",
        )
    )
    assert static.agents["intent"].role == "Oracle"
    assert static.agents["intent"].goal == packaged.agents["intent"].goal
    assert static.agents["intent"].llm_params.temperature == 1
    assert static.agents["intent"].llm_params.max_tokens == 200
    assert static.models["deepseek-v3.2"].context_window == 99
    assert static.models["deepseek-v3.2"].model == "deepseek/deepseek-chat"
    assert static.workflows == packaged.workflows
    assert static.where("agents", "intent", "role") == f"agents.yaml {OVERLAY}"
    assert static.where("agents", "intent", "goal") == f"agents.yaml {PACKAGED}"
    assert static.where("agents", "intent", "llm_params", "temperature") == f"agents.yaml {OVERLAY}"
    assert static.is_packaged("agents", "intent", "llm_params", "max_tokens")


def test_a_workflow_of_ones_own(tmp_path: Path) -> None:
    static = load_static(
        write(
            tmp_path,
            workflow="research: {stages: [{name: find, agent: researcher, task: find, visible: true}, answer]}",
            agents="researcher: {role: R, goal: G, backstory: B, model_code: scripted}",
            tasks="find: {description: 'Find {message}', expected_output: Facts.}",
        )
    )
    assert sorted(static.workflows) == ["chat", "default", "demo", "research"]
    assert static.workflows["research"].visible_stages() == ("find", "answer")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"agents": "intent: {rloe: x}"}, f"agents.yaml {OVERLAY}: intent.rloe: unknown key"),
        ({"agents": "boss: {role: Boss}"}, f"agents.yaml {OVERLAY}: boss.goal: is missing"),
        ({"agents": "intent: {max_iterations: many}"}, f"agents.yaml {OVERLAY}: intent.max_iterations: "),
        ({"agents": "intent: {role: '{nobody}'}"}, "intent.role: there is no variable {nobody}; write {{nobody}} for"),
        ({"agents": "intent: {llm_params: {temperature: 3}}"}, f"agents.yaml {OVERLAY}: intent.llm_params.temperature"),
        ({"agents": "- intent"}, f"agents.yaml {OVERLAY}: must be a mapping of names to values, not list"),
        ({"agents": "intent: 7"}, f"agents.yaml {OVERLAY}: intent: must be a mapping"),
        ({"agents": "7: {role: x}"}, "key 7 must be text; put it in quotes"),
        ({"agents": "intent: {role: a}\nintent: {}"}, f"agents.yaml {OVERLAY}: line 2: .*'intent' is there twice"),
        ({"workflow": "my flow: {stages: [answer]}"}, f"workflow.yaml {OVERLAY}: my flow: a name begins with a letter"),
        ({"agents": "intent: {role: a\nx"}, f"agents.yaml {OVERLAY}: line 2: is not valid YAML"),
        ({"agents": "intent: !!python/object:os.system {}"}, f"agents.yaml {OVERLAY}: line 1: is not valid YAML"),
        ({"tasks": "answer: {description: ''}"}, f"tasks.yaml {OVERLAY}: answer.description: "),
        ({"tasks": "answer: {description: '{history}'}"}, f"tasks.yaml {OVERLAY}: answer.description: .*{{history}}"),
        ({"workflow": "w: {stages: [ghost]}"}, f"workflow.yaml {OVERLAY}: w.stages.0: no agent 'ghost'"),
        ({"workflow": "w: {stages: [answer, answer]}"}, f"workflow.yaml {OVERLAY}: w: stage 'answer' is there twice"),
        ({"workflow": "w: {}"}, f"workflow.yaml {OVERLAY}: w.stages: is missing"),
        ({"models": "m: {model: nowhere/x, context_window: 1}"}, f"models.yaml {OVERLAY}: m.model: must be `provider/"),
        ({"models": "m: {model: openai/x}"}, f"models.yaml {OVERLAY}: m.context_window: is missing"),
        ({"models": "m: {model: openai/x, context_window: 1, price_per_million: {input: -1, output: 1}}"},
         "m.price_per_million.input"),
        ({"tools": "t: {function: 'm:f'}"}, f"tools.yaml {OVERLAY}: t.description: is missing"),
        ({"tools": "t: {function: 'm:f', description: d, parameters: {type: object, required: x}}"},
         f"tools.yaml {OVERLAY}: t.parameters: required: "),
        ({"agent": "intent: {role: x}"}, "agent.yaml is not read; the files are agents.yaml, tasks.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_and_key(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says).replace(r"\.\*", ".*")) as caught:
        load_static(write(tmp_path, **files))
    assert str(tmp_path) not in caught.value.message  # the message may reach a client


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CALLBOARD_CONFIG__DIR"):
        load_static(tmp_path / "nowhere")


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "agents.yaml").write_bytes(b"intent: {role: \xff}")
    with pytest.raises(ConfigError, match=r"agents\.yaml .*UTF-8"):
        load_static(tmp_path)


def test_empty_files_and_other_files_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, agents="", tools="# nothing yet\n")
    (tmp_path / "weather.py").write_text("def get(): ...")
    assert load_static(tmp_path).agents == load_static().agents


def touch(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def test_files_are_read_again_only_after_a_change(tmp_path: Path) -> None:
    write(tmp_path, agents="intent: {role: one}")
    first = load_static(tmp_path)
    assert load_static(tmp_path) is first
    write(tmp_path, agents="intent: {role: two}")
    touch(tmp_path / "agents.yaml")
    second = load_static(tmp_path)
    assert second.agents["intent"].role == "two"
    write(tmp_path, tasks="intent: {expected_output: new}")
    assert load_static(tmp_path).tasks["intent"].expected_output == "new"
    (tmp_path / "agents.yaml").unlink()
    assert load_static(tmp_path).agents["intent"].role == load_static().agents["intent"].role


def test_a_mistake_can_be_mended_while_running(tmp_path: Path) -> None:
    write(tmp_path, agents="intent: {rloe: x}")
    for _ in range(2):
        with pytest.raises(ConfigError):
            load_static(tmp_path)
    write(tmp_path, agents="intent: {role: x}")
    touch(tmp_path / "agents.yaml")
    assert load_static(tmp_path).agents["intent"].role == "x"


def settings(directory: Path | None = None, **llm: object) -> Settings:
    return Settings(config={"dir": directory}, llm=llm)


def test_a_resolution_is_kept_until_something_differs(tmp_path: Path) -> None:
    rows = ({"agent_type": "intent", "model_code": "gpt-5.4"},)
    write(tmp_path, agents="intent: {role: one}")
    first = resolve_rows(rows, None, settings(tmp_path))
    assert resolve_rows(({**rows[0]},), "default", settings(tmp_path)) is first
    assert resolve_rows((), "default", settings(tmp_path)).intent.llm.model_code == "deepseek-v3.2"
    assert resolve_rows(rows, "chat", settings(tmp_path)).workflow_stages == ("answer",)
    other_model = resolve_rows(rows, None, settings(tmp_path, default_model="scripted"))
    assert (other_model.intent.llm.model_code, other_model.answer.llm.model_code) == ("gpt-5.4", "scripted")
    write(tmp_path, agents="intent: {role: two}")
    touch(tmp_path / "agents.yaml")
    assert resolve_rows(rows, None, settings(tmp_path)).intent.agent.role == "two"
    assert first.intent.agent.role == "one"


def test_a_key_that_comes_later_is_seen() -> None:
    assert resolve_rows((), None, settings(allow_scripted=True)).intent.llm.model_code == "scripted"
    keyed = settings(allow_scripted=True, provider_keys={"deepseek": "k"})
    assert resolve_rows((), None, keyed).intent.llm.model_code == "deepseek-v3.2"


def test_an_unknown_agent_id_is_not_found() -> None:
    with pytest.raises(NotFound, match="there is no agent 'nope'; there are: chat, default, demo"):
        resolve_rows((), "nope", settings())
