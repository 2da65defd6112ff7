"""What is put off while CrewAI and LiteLLM are imported stays put off, and is all there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from callboard_runtime.llm.late import reexports

PUT_OFF = """
import sys
import callboard_runtime.crew.runtime
from callboard_runtime.llm.libraries import Agent, AsyncStream, BaseTool, Crew, ModelResponseStream, Task, litellm

never = (
    "crewai.rag.embeddings.providers.aws.bedrock",
    "litellm.repositories.team_repository",
    "litellm.router_strategy.complexity_router.complexity_router",
    "openai.resources.admin",
    "openai.resources.audio",
    "openai.resources.beta",
    "openai.types.admin",
    "openai.types.evals",
)
assert not (loaded := [name for name in never if name in sys.modules]), loaded

from crewai.events.types.a2a_events import A2ADelegationStartedEvent
from crewai.events.types.task_events import TaskStartedEvent
from litellm.types.utils import Usage

complete = "__pydantic_complete__"
built = [Agent, BaseTool, Crew, ModelResponseStream, Task, TaskStartedEvent, Usage]
assert all(getattr(each, complete) for each in built), [each for each in built if not getattr(each, complete)]
assert not getattr(A2ADelegationStartedEvent, complete)
"""

THERE_WHEN_ASKED_FOR = """
import sys
from importlib import import_module
from callboard_runtime.llm.late import PACKAGES, reexports
from callboard_runtime.llm.libraries import litellm
import openai, pydantic

client = openai.OpenAI(api_key="none")
assert client.beta.threads and client.audio.speech and client.admin.organization
assert openai.types.beta.Thread is import_module("openai.types.beta.thread").Thread
from openai.types.chat import *
assert ChatCompletion is import_module("openai.types.chat.chat_completion").ChatCompletion
try:
    openai.types.NoSuchType
except AttributeError as error:
    assert "NoSuchType" in str(error)
else:
    raise AssertionError("a name that nobody has was found")

on_demand = [module for name, module in list(sys.modules.items()) if f"{name}.".startswith(PACKAGES) and module]
seen = 0
for module in on_demand:
    is_package = hasattr(module, "__path__") and module.__file__
    if is_package and (names := reexports(open(module.__file__).read(), module.__name__)):
        for name, (source, own) in names.items():
            assert getattr(module, name) is getattr(import_module(source, module.__name__), own), (module, name)
            seen += 1
assert seen > 1000, seen

from litellm.types.router import ModelConfig
assert not ModelConfig.__pydantic_complete__
made = ModelConfig(model_name="m", litellm_params={"model": "openai/m"}, tpm="1", rpm=1)
assert made.tpm == 1 and made.litellm_params.model == "openai/m" and ModelConfig.__pydantic_complete__

class Derived(ModelConfig):
    more: int

assert Derived.__pydantic_complete__, "what is derived later must be built at once"

class Own(pydantic.BaseModel):
    more: int

assert Own.__pydantic_complete__ and "defer_build" not in pydantic.BaseModel.model_config
"""

KNOWLEDGE = """
from callboard_runtime.llm.libraries import Agent
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.rag.chromadb.client import ChromaDBClient
from crewai.rag.embeddings.factory import build_embedder
from crewai.rag.embeddings.providers.ollama import OllamaProvider
from crewai.knowledge.storage.knowledge_storage import KnowledgeStorage

openai = {"provider": "openai", "config": {"api_key": "none", "model_name": "text-embedding-3-small"}}
assert type(build_embedder(openai)).__name__ == "OpenAIEmbeddingFunction"
assert OllamaProvider.__name__ == "OllamaProvider"
storage = KnowledgeStorage(embedder=openai, collection_name="late")
assert isinstance(storage._client, ChromaDBClient), storage._client
source = StringKnowledgeSource(content="Curtains open at eight.", storage=storage)
assert source.content == "Curtains open at eight."
"""


def _run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_no_run_needs_is_neither_loaded_nor_built() -> None:
    _run(PUT_OFF)


def test_everything_that_was_put_off_is_there_when_it_is_asked_for() -> None:
    _run(THERE_WHEN_ASKED_FOR)


def test_knowledge_of_a_crew_still_finds_its_embedder_and_its_database() -> None:
    _run(KNOWLEDGE)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('"""Text."""\nfrom __future__ import annotations\nfrom .a import B as B', {"B": (".a", "B")}),
        ("from p.a.b import (C, D as E)\n__all__ = ['C', 'E']", {"C": (".a.b", "C"), "E": (".a.b", "D")}),
        ("from .a import B\nprint(B)", None),
        ("from .a import *", None),
        ("from .a import B\nimport os", None),
        ("from .a import B\nfrom other import C", None),
        ("from . import a", None),
        ("from .a import B\n__all__ = make()", None),
        ("from .a import a", None),
        ("", None),
    ],
)
def test_only_an_init_that_does_nothing_but_reexport_is_put_off(
    source: str, names: dict[str, tuple[str, str]] | None
) -> None:
    assert reexports(source, "p") == names
