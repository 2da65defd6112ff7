"""Which model an agent gets, by what name, at what price and with what parameters."""

from decimal import Decimal
from typing import Any

import pytest

from callboard_runtime.config.resolver import resolve_agent_runtime_config
from callboard_runtime.errors import ConfigError
from callboard_runtime.settings import LlmSettings


def test_prices_are_exact_and_per_token() -> None:
    llm = resolve_agent_runtime_config([], {"agents": {"intent": {"model_code": "deepseek-v3.2"}}}).intent.llm
    assert (llm.provider, llm.model) == ("deepseek", "deepseek/deepseek-chat")
    assert llm.input_price == Decimal("0.00000028")
    assert llm.output_price == Decimal("0.00000042")
    assert llm.cached_price == Decimal("0.000000028")


def test_an_unknown_price_is_none_not_zero() -> None:
    llm = resolve_agent_runtime_config(
        [], {"agents": {"intent": {"model_code": "openrouter-deepseek-v3.2"}}}
    ).intent.llm
    assert (llm.input_price, llm.output_price, llm.cached_price) == (None, None, None)


def test_an_uncatalogued_model_needs_a_provider_that_can_be_reached() -> None:
    static_cfg = {"agents": {"intent": {"model_code": "mistral/mistral-large-9"}}}
    says = "not in models.yaml: add it there, or set CALLBOARD_LLM__PROVIDER_KEYS__MISTRAL or .*__API_BASE__MISTRAL"
    with pytest.raises(ConfigError, match=says):
        resolve_agent_runtime_config([], static_cfg, llm=LlmSettings())
    for llm in (
        LlmSettings(api_base={"mistral": "http://localhost:1"}),
        LlmSettings.model_validate({"provider_keys": {"mistral": "k"}}),
    ):
        found = resolve_agent_runtime_config([], static_cfg, llm=llm).intent.llm
        assert (found.model_code, found.provider, found.model) == (
            "mistral/mistral-large-9",
            "mistral",
            "mistral/mistral-large-9",
        )
        assert found.input_price is None


@pytest.mark.parametrize("code", ["nowhere/model", "mistral/", "/model", "callboard-scripted/other", "mistral"])
def test_a_model_nobody_serves_is_unknown(code: str) -> None:
    llm = LlmSettings(api_base={"nowhere": "http://x", "mistral": "http://x", "callboard-scripted": "http://x"})
    with pytest.raises(ConfigError, match="unknown model"):
        resolve_agent_runtime_config([{"agent_type": "intent", "model_code": code}], None, llm=llm)


def test_an_unknown_default_model_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="CALLBOARD_LLM__DEFAULT_MODEL: unknown model 'nope'"):
        resolve_agent_runtime_config([], None, llm=LlmSettings(default_model="nope"))


def test_the_scripted_model_serves_unnamed_only_where_it_may_and_no_key_is_there() -> None:
    def model(**llm: Any) -> str:
        return resolve_agent_runtime_config([], None, llm=LlmSettings.model_validate(llm)).intent.llm.model_code

    assert model() == "deepseek-v3.2"
    assert model(allow_scripted=True) == "scripted"
    assert model(allow_scripted=True, provider_keys={"deepseek": "k"}) == "deepseek-v3.2"
    assert model(allow_scripted=True, api_base={"deepseek": "http://x"}) == "deepseek-v3.2"
    assert model(allow_scripted=True, default_model="gpt-5.4") == "gpt-5.4"
    assert model(default_model="scripted") == "scripted"


def test_the_scripted_model_never_replaces_one_that_was_named() -> None:
    llm = LlmSettings(allow_scripted=True)
    by_row = resolve_agent_runtime_config([{"agent_type": "intent", "model_code": "deepseek-v3.2"}], None, llm=llm)
    by_file = resolve_agent_runtime_config([], {"agents": {"intent": {"model_code": "deepseek-v3.2"}}}, llm=llm)
    assert by_row.intent.llm.model_code == by_file.intent.llm.model_code == "deepseek-v3.2"


def test_fallbacks_are_whole_models_in_order() -> None:
    agents = {"intent": {"fallbacks": ["gpt-5-mini", "scripted"]}}
    fallbacks = resolve_agent_runtime_config([], {"agents": agents}).intent.llm.fallbacks
    assert [model.model for model in fallbacks] == ["openai/gpt-5-mini", "callboard-scripted/default"]
    assert fallbacks[0].input_price == Decimal("0.00000025")


def test_request_parameters_are_those_that_are_set() -> None:
    agents = {"intent": {"llm_params": {"temperature": 0, "stop": ["x"]}}}
    params = resolve_agent_runtime_config([], {"agents": agents}).intent.llm.params
    assert params.request() == {"temperature": 0, "max_tokens": 200, "stop": ["x"]}
