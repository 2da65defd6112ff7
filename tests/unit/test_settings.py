"""Settings: where they come from, what wins, how a mistake is named, and that no secret ever shows."""

import json
import logging
import pickle
from pathlib import Path

import pytest
from pydantic import SecretStr

from callboard_runtime.errors import SettingsError
from callboard_runtime.settings import HttpSettings, LlmSettings, ProviderKeys, Settings

SECRET = "hunter2-and-quite-long-enough-to-be-found"


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.env"
    monkeypatch.setenv("CALLBOARD_ENV_FILE", str(path))
    return path


def test_provider_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK", "k1")
    keys = Settings().llm.provider_keys
    assert keys.deepseek == "k1"
    assert keys.deepseek != "k2"
    assert keys.of("deepseek") == "k1"
    assert keys.of("openai") is None


def test_the_social_prefix_is_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCIAL_LLM__PROVIDER_KEYS__DEEPSEEK", "k1")
    monkeypatch.setenv("SOCIAL_HTTP__PORT", "9001")
    assert Settings().llm.provider_keys.deepseek == "k1"
    assert Settings().http.port == 9001


def test_a_provider_nobody_foresaw_may_have_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__MISTRAL", "k9")
    assert Settings().llm.provider_keys.of("mistral") == "k9"


def test_precedence_arguments_environment_alias_file(monkeypatch: pytest.MonkeyPatch, env_file: Path) -> None:
    def prefix() -> str:
        return Settings().redis_prefix

    assert prefix() == "callboard"
    env_file.write_text("SOCIAL_REDIS_PREFIX=alias-in-file\n")
    assert prefix() == "alias-in-file"
    env_file.write_text("SOCIAL_REDIS_PREFIX=alias-in-file\nCALLBOARD_REDIS_PREFIX=in-file\n")
    assert prefix() == "in-file"
    monkeypatch.setenv("SOCIAL_REDIS_PREFIX", "alias-in-env")
    assert prefix() == "alias-in-env"
    monkeypatch.setenv("CALLBOARD_REDIS_PREFIX", "in-env")
    assert prefix() == "in-env"
    assert Settings(redis_prefix="argument").redis_prefix == "argument"


def test_sources_are_merged_member_by_member(monkeypatch: pytest.MonkeyPatch, env_file: Path) -> None:
    env_file.write_text("CALLBOARD_HTTP__PORT=9001\nCALLBOARD_HTTP__HEARTBEAT=7\n")
    monkeypatch.setenv("CALLBOARD_HTTP__PORT", "9002")
    monkeypatch.setenv("SOCIAL_HTTP__HOST", "0.0.0.0")
    http = Settings().http
    assert (http.port, http.heartbeat, http.host) == (9002, 7, "0.0.0.0")


def test_the_env_file_may_be_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLBOARD_REDIS_PREFIX=from-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_ENV_FILE")
    assert Settings().redis_prefix == "from-file"
    monkeypatch.setenv("CALLBOARD_ENV_FILE", "")
    assert Settings().redis_prefix == "callboard"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_AMQP_URL", "")
    monkeypatch.setenv("CALLBOARD_LLM__SCRIPTS", "")
    assert Settings().amqp_url is None
    assert Settings().llm.scripts is None


@pytest.mark.parametrize("text", ["https://a.example,https://b.example", '["https://a.example", "https://b.example"]'])
def test_origins_are_a_list(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CALLBOARD_HTTP__CORS_ORIGINS", text)
    assert Settings().http.cors_origins == ("https://a.example", "https://b.example")


def secretive() -> Settings:
    return Settings(
        database_url=SecretStr(f"postgresql://u:{SECRET}@h/db"),
        amqp_url=SecretStr(f"amqp://u:{SECRET}@h"),
        redis_url=SecretStr(f"redis://:{SECRET}@h"),
        llm={"provider_keys": {"deepseek": SECRET, "mistral": SECRET}},
        auth={"jwt_secret": SECRET},
    )


def test_secrets_never_show(caplog: pytest.LogCaptureFixture) -> None:
    settings = secretive()
    assert settings.llm.provider_keys.of("mistral") == SECRET
    logging.getLogger("test").warning("settings %s", settings)
    shown = [
        repr(settings),
        str(settings),
        f"{settings.llm}",
        settings.model_dump_json(),
        json.dumps(settings.model_dump(mode="json")),
        repr(settings.model_dump()),
        repr(vars(settings)),
        caplog.text,
        repr(settings.llm.provider_keys.deepseek),
        str(settings.llm.provider_keys.deepseek),
    ]
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CALLBOARD_LLM__PROVIDER_KEYS", SECRET),
        ("CALLBOARD_LLM", SECRET),
        ("CALLBOARD_HTTP__PORT", SECRET),
        ("CALLBOARD_LOG_LEVEL", SECRET),
        ("CALLBOARD_AUTH__JWT_SECRET", "hunter2-short"),
        ("CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK__X", SECRET),
    ],
)
def test_a_wrong_value_is_named_but_never_shown(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "CALLBOARD_" + variable.split("_")[1] in str(caught.value)
    assert value not in str(caught.value)
    assert value not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "CALLBOARD_HTTP__PROT",
            "1",
            "CALLBOARD_HTTP__PROT: there is no such setting; did you mean CALLBOARD_HTTP__PORT?",
        ),
        ("CALLBOARD_HTTP__ZZZ", "1", "CALLBOARD_HTTP__ZZZ: there is no such setting; remove it"),
        ("CALLBOARD_HTTP__PORT", "70000", "CALLBOARD_HTTP__PORT: .*65535"),
        ("CALLBOARD_WORKER__COALESCE_MS", "51", "CALLBOARD_WORKER__COALESCE_MS: .*50"),
        ("CALLBOARD_AUTH__JWT_SECRET", "short", "at least 32 bytes; make one with `openssl rand -hex 32`"),
        ("CALLBOARD_HTTP", "x", "CALLBOARD_HTTP: .* as CALLBOARD_HTTP__<MEMBER>"),
        ("SOCIAL_LOG_LEVEL", "loud", "CALLBOARD_LOG_LEVEL: .*'DEBUG'"),
    ],
)
def test_a_mistake_names_the_variable_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=says):
        Settings()


def test_every_mistake_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_HTTP__PORT", "x")
    monkeypatch.setenv("CALLBOARD_RUNS__DEADLINE", "0")
    with pytest.raises(SettingsError, match=r"HTTP__PORT.*; .*RUNS__DEADLINE"):
        Settings()


@pytest.mark.parametrize("name", ["database_url", "amqp_url", "redis_url"])
def test_a_needed_url_that_is_missing_says_what_to_set(name: str) -> None:
    with pytest.raises(SettingsError, match=f"CALLBOARD_{name.upper()} is not set; set it, such as .*callboard up"):
        getattr(Settings(), f"required_{name}")()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_the_database_url_names_its_driver(scheme: str) -> None:
    settings = Settings(database_url=SecretStr(f"{scheme}://u:p@h:1/db"))
    assert settings.required_database_url() == "postgresql+asyncpg://u:p@h:1/db"


def test_a_database_url_that_is_none_is_not_shown() -> None:
    with pytest.raises(SettingsError, match="CALLBOARD_DATABASE_URL") as caught:
        Settings(database_url=SecretStr(SECRET)).required_database_url()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("amqp://h", "amqp://h?heartbeat=10&reconnect_interval=1"),
        ("amqp://h/v?heartbeat=3", "amqp://h/v?heartbeat=3&reconnect_interval=1"),
        ("amqp://h?heartbeat=3&reconnect_interval=9", "amqp://h?heartbeat=3&reconnect_interval=9"),
    ],
)
def test_the_broker_url_has_a_short_heartbeat_unless_it_names_its_own(given: str, wanted: str) -> None:
    assert Settings(amqp_url=SecretStr(given)).required_amqp_url() == wanted


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.redis_prefix = "x"
    with pytest.raises(ValueError, match="frozen"):
        settings.http.port = 1


def test_settings_cross_a_process_boundary() -> None:
    settings = secretive()
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert copy.llm.provider_keys.of("mistral") == SECRET


def test_sections_do_not_share_state() -> None:
    assert LlmSettings().api_base is not LlmSettings().api_base
    assert HttpSettings() == HttpSettings()
    assert ProviderKeys() == ProviderKeys()
