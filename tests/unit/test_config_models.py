"""The packaged catalogue against the LiteLLM that is installed: providers, context windows and prices."""

import importlib.util
import json
import re
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from callboard_runtime.config.parts import SCRIPTED_MODEL, SCRIPTED_PROVIDER
from callboard_runtime.config.providers import ROUTED, provider_of
from callboard_runtime.config.static import load_static

MODELS = load_static().models


def litellm_file(name: str) -> Path:
    # Read as files: importing LiteLLM takes seconds.
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / name


@cache
def price_map() -> dict[str, dict[str, Any]]:
    text = litellm_file("model_prices_and_context_window_backup.json").read_text(encoding="utf-8")
    return json.loads(text, parse_float=Decimal)


def test_every_provider_is_one_that_litellm_knows() -> None:
    source = litellm_file("types/utils.py").read_text(encoding="utf-8")
    body = source.partition("class LlmProviders(str, Enum):")[2].partition("\nclass ")[0]
    known = set(re.findall(r'^    \w+ = "([^"]+)"', body, re.MULTILINE))
    assert len(known) > 50
    assert known >= ROUTED


@pytest.mark.parametrize("code", sorted(code for code in MODELS if provider_of(MODELS[code].model) != "openrouter"))
def test_prices_are_those_of_litellm(code: str) -> None:
    spec = MODELS[code]
    if provider_of(spec.model) == SCRIPTED_PROVIDER:
        assert spec.price_per_million is not None
        assert set(spec.price_per_million.model_dump().values()) == {0}
        return
    known = price_map().get(spec.model) or price_map()[spec.model.partition("/")[2]]
    price = spec.price_per_million
    assert price is not None
    million = Decimal(1_000_000)
    assert price.input == known["input_cost_per_token"] * million
    assert price.output == known["output_cost_per_token"] * million
    assert price.cached == known["cache_read_input_token_cost"] * million
    assert spec.context_window == known["max_input_tokens"]


def test_the_scripted_model_is_there() -> None:
    assert provider_of(MODELS[SCRIPTED_MODEL].model) == SCRIPTED_PROVIDER


@pytest.mark.parametrize("name", ["gpt-5", "openai", "openai/", "/x", "", "nowhere/x"])
def test_names_without_a_provider_have_none(name: str) -> None:
    assert provider_of(name) is None
