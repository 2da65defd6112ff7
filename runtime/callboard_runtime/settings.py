"""Every setting of every process, read from the environment (`CALLBOARD_…`, nested with `__`) and from `.env`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError
from pydantic_settings.sources import DotEnvSettingsSource

from callboard_runtime.errors import SettingsError
from callboard_runtime.setting_sections import (
    ActorSettings,
    AuthSettings,
    ConfigSettings,
    EmbeddedSettings,
    EventsSettings,
    HttpSettings,
    IngressSettings,
    LlmSettings,
    MetricsSettings,
    OtelSettings,
    ProviderKey,
    ProviderKeys,
    RetentionSettings,
    RunSettings,
    Section,
    WebhookSettings,
    WorkerSettings,
)

PREFIX = "CALLBOARD_"
ALIAS_PREFIX = "SOCIAL_"

__all__ = [
    "ALIAS_PREFIX",
    "PREFIX",
    "ActorSettings",
    "AuthSettings",
    "ConfigSettings",
    "EmbeddedSettings",
    "EventsSettings",
    "HttpSettings",
    "IngressSettings",
    "LlmSettings",
    "MetricsSettings",
    "OtelSettings",
    "ProviderKey",
    "ProviderKeys",
    "RetentionSettings",
    "RunSettings",
    "Section",
    "Settings",
    "WebhookSettings",
    "WorkerSettings",
]


def _env_file() -> str | None:
    return os.environ.get("CALLBOARD_ENV_FILE", ".env") or None


class Settings(BaseSettings):
    """All settings; raises SettingsError naming the variable and the fix. Secrets never show in `repr`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,  # `X=` means: not set
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(default=None, description="postgresql://user:password@host:port/database")
    amqp_url: SecretStr | None = Field(default=None, description="amqp://user:password@host:port/vhost")
    redis_url: SecretStr | None = Field(default=None, description="redis://[:password@]host:port/db")
    redis_prefix: str = Field(default="callboard", description="Prefix of every Redis key")
    database_pool: int = Field(default=10, ge=1, description="Database connections per process")
    dev_auth: bool = Field(
        default=False, description="Set by `callboard up` only: every loopback request is user `dev`"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged")
    log_format: Literal["text", "json"] = Field(default="text", description="Form of the log lines")

    llm: LlmSettings = LlmSettings()
    config: ConfigSettings = ConfigSettings()
    auth: AuthSettings = AuthSettings()
    http: HttpSettings = HttpSettings()
    runs: RunSettings = RunSettings()
    worker: WorkerSettings = WorkerSettings()
    actors: ActorSettings = ActorSettings()
    events: EventsSettings = EventsSettings()
    webhooks: WebhookSettings = WebhookSettings()
    ingress: IngressSettings = IngressSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    retention: RetentionSettings = RetentionSettings()
    otel: OtelSettings = OtelSettings()
    metrics: MetricsSettings = MetricsSettings()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None
        except SourceError as error:
            raise SettingsError(_explain_source(error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Precedence: arguments, then CALLBOARD_ and SOCIAL_ variables, then the same two in the env file."""
        file = _env_file()
        alias = EnvSettingsSource(settings_cls, env_prefix=ALIAS_PREFIX)
        from_file = [DotEnvSettingsSource(settings_cls, env_file=file, env_prefix=p) for p in (PREFIX, ALIAS_PREFIX)]
        return (init_settings, env_settings, alias, *from_file)

    def required_database_url(self) -> str:
        """The database URL with the asyncpg driver named; raises SettingsError when unset."""
        url = self._required("database_url", "postgresql://callboard:…@localhost:5432/callboard")
        scheme, separator, rest = url.partition("://")
        if not separator:
            raise SettingsError(f"{PREFIX}DATABASE_URL is no URL; its form is postgresql://user:password@host:port/db")
        return f"postgresql+asyncpg://{rest}" if scheme in ("postgresql", "postgres") else url

    def required_amqp_url(self) -> str:
        """The broker URL with a short heartbeat and reconnect interval unless it names its own."""
        url = self._required("amqp_url", "amqp://callboard:…@localhost:5672/callboard")
        given = urlsplit(url).query
        extra = [f"{k}={v}" for k, v in (("heartbeat", 10), ("reconnect_interval", 1)) if f"{k}=" not in given]
        return url + (("&" if given else "?") + "&".join(extra) if extra else "")

    def required_redis_url(self) -> str:
        return self._required("redis_url", "redis://localhost:6379/0")

    def _required(self, name: str, example: str) -> str:
        value: SecretStr | None = getattr(self, name)
        if value is None:
            raise SettingsError(
                f"{PREFIX}{name.upper()} is not set; set it, such as {PREFIX}{name.upper()}={example}, "
                "or run `callboard up`, which brings its own services"
            )
        return value.get_secret_value()


def _explain(error: ValidationError) -> str:
    problems = (_problem(item) for item in error.errors(include_url=False, include_input=False))
    return "; ".join(problems)


def _problem(item: Mapping[str, Any]) -> str:
    path = tuple(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{_variable(path)}: there is no such setting{_nearest(path)}"
    return f"{_variable(path)}: {item['msg'].removeprefix('Value error, ')}"


def _variable(path: Sequence[str]) -> str:
    return PREFIX + "__".join(path).upper()


def _nearest(path: Sequence[str]) -> str:
    """A hint at the setting that was probably meant, or that the name is to be left out."""
    *above, name = path
    model: type[BaseModel] | None = Settings
    for part in above:
        inner = model.model_fields[part].annotation if model and part in model.model_fields else None
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    near = difflib.get_close_matches(name, model.model_fields if model else (), n=1)
    return f"; did you mean {_variable([*above, near[0]])}?" if near else "; remove it"


def _explain_source(error: SourceError) -> str:
    """A value that should have been JSON; its own text is left out, as it may be a secret in the wrong place."""
    named = re.search(r'field "(\w+)"', str(error))
    name = _variable([named[1]]) if named else PREFIX + "…"
    return f"{name}: the value is not valid JSON; set each member by itself, as {name}__<MEMBER>=…"
