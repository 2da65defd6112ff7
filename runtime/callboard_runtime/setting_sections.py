"""The groups of settings: one class per section of the environment variables, `CALLBOARD_<SECTION>__<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode

from callboard_runtime.webhook_rules import HOW_TO_MAKE, RUN_EVENTS, is_secret, url_problem


def _separated(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(name for part in value.strip("[]").split(",") if (name := part.strip(" \t\"'")))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)]
"""Names separated by commas; a JSON list is understood too."""


class Section(BaseModel):
    """One group of settings; an unknown name in it is an error, so that a typo is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProviderKey(SecretStr):
    """A provider's API key: equal to its text, hidden in `repr`, `str` and JSON."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.get_secret_value() == other
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self.get_secret_value())


class ProviderKeys(BaseModel):
    """API keys by provider, such as `CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK`; any provider's name may be used."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, ProviderKey] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    openai: ProviderKey | None = None
    anthropic: ProviderKey | None = None
    deepseek: ProviderKey | None = None
    openrouter: ProviderKey | None = None

    def of(self, provider: str) -> str | None:
        """The key of a provider in clear, or None."""
        key = getattr(self, provider, None)
        return key.get_secret_value() if isinstance(key, SecretStr) else None


class LlmSettings(Section):
    provider_keys: ProviderKeys = Field(default=ProviderKeys(), description="API key per provider")
    api_base: dict[str, str] = Field(default={}, description="Base URL per provider, for any OpenAI-compatible server")
    default_model: str | None = Field(default=None, description="model_code that replaces the packaged agents' own")
    allow_scripted: bool = Field(default=False, description="Let the packaged scripted model serve without being named")
    scripts: Path | None = Field(default=None, description="Directory of YAML scripts for the scripted model")
    ledger: Path | None = Field(default=None, description="File where the scripted model notes every request it served")
    timeout: float = Field(default=120, gt=0, description="Seconds one model request may take")
    first_token_timeout: float = Field(default=60, gt=0, description="Seconds until the first token of a stream")
    retries: int = Field(default=2, ge=0, le=10, description="Retries of one model request")
    concurrency: int = Field(default=200, ge=1, description="Model requests at once, per provider and worker process")


class ConfigSettings(Section):
    dir: Path | None = Field(default=None, description="Directory of YAML files that overlay the packaged ones")


class AuthSettings(Section):
    jwt_secret: SecretStr | None = Field(default=None, description="HS256 secret, at least 32 bytes")
    jwt_public_key: str | None = Field(default=None, description="PEM public key for RS256 or ES256")
    jwt_issuer: str | None = Field(default=None, description="Required `iss` of a token")
    jwt_audience: str | None = Field(default=None, description="Required `aud` of a token")
    operator_role: str = Field(default="operator", description="Role that may read every session")

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < 32:
            raise ValueError("the secret must have at least 32 bytes; make one with `openssl rand -hex 32`")
        return secret


class HttpSettings(Section):
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one")
    cors_origins: Names = Field(
        default=(), description="Origins that a browser may call from, separated by commas; none by default"
    )
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, description="Largest request body")
    max_messages: int = Field(default=2000, ge=1, description="Most messages in one request")
    max_streams_per_user: int = Field(default=100, ge=1, description="Open event streams per user and front process")
    max_streams: int = Field(default=20_000, ge=1, description="Open event streams per front process")
    max_queued_runs: int = Field(default=10_000, ge=1, description="Runs that may wait for workers before 503")
    max_queued_runs_per_user: int = Field(default=1000, ge=1, description="Runs of one user that may wait before 429")
    runs_per_minute: int = Field(default=600, ge=1, description="Runs a user may start per minute")
    heartbeat: float = Field(default=15, gt=0, description="Seconds between SSE keep-alive comments")
    reader_buffer_bytes: int = Field(default=1024 * 1024, ge=4096, description="Bytes held for a slow reader")
    body_timeout: float = Field(default=30, gt=0, description="Seconds a request's body may take to arrive")
    idle_timeout: float = Field(
        default=75, gt=0, description="Seconds a connection may take for the head of its next request"
    )
    accept_timeout: float = Field(default=5, gt=0, description="Seconds a request may wait for the actor")
    drain: float = Field(default=10, ge=0, description="Seconds to let streams end at shutdown")


class RunSettings(Section):
    deadline: float = Field(default=600, gt=0, description="Seconds a run may be active, pauses excluded")
    start_deadline: float = Field(default=3600, gt=0, description="Seconds a run may wait for a worker")
    cancel_grace: float = Field(default=5, gt=0, description="Seconds a worker has to end a cancelled run itself")
    max_attempts: int = Field(default=3, ge=1, description="Attempts without a new journal row before a run fails")
    max_queue: int = Field(default=200, ge=0, description="Runs that may wait in one session")
    tool_call_ttl: float = Field(default=7 * 24 * 3600, gt=0, description="Seconds a pending tool call stays open")
    history_tokens: int = Field(default=16_000, ge=100, description="Tokens of conversation sent to the model")
    approver_roles: Names = Field(default=(), description="Roles that may approve; none: the session's owner")
    approver_not_requester: bool = Field(default=False, description="Nobody may approve a call of their own run")
    max_tool_result_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        description="Largest result of one tool call, as JSON; a backend tool's has at most 262144 in any case",
    )
    max_state_bytes: int = Field(default=64 * 1024, ge=1024, le=256 * 1024, description="Largest shared state")
    on_expiry: Literal["continue", "fail"] = Field(
        default="continue", description="What a run does when a pending tool call expires: go on without it, or fail"
    )


class WorkerSettings(Section):
    concurrency: int = Field(default=100, ge=1, description="Runs at once in one worker process")
    processes: int = Field(default=1, ge=0, description="Processes that one `callboard worker` forks; 0: one per core")
    coalesce_ms: int = Field(
        default=25,
        ge=0,
        le=50,
        description="Milliseconds in which deltas are joined; twice as many, at most 50, from nine runs at once on",
    )
    heartbeat: float = Field(default=2, gt=0, description="Seconds between a process's heartbeats")
    drain: float = Field(default=30, ge=0, description="Seconds to reach a step boundary at shutdown")


class ActorSettings(Section):
    prefetch: int = Field(default=64, ge=1, description="Unacknowledged commands per partition")
    cache_sessions: int = Field(default=10_000, ge=1, description="Session states held in memory")
    group_size: int = Field(default=128, ge=1, description="Most commands in one commit")
    standby_delay: float = Field(
        default=1, ge=0, description="Seconds before a partition that is not a favourite is consumed"
    )
    delivery_limit: int = Field(default=20, ge=1, description="Deliveries of a command before it is dead-lettered")
    max_mailbox: int = Field(default=100_000, ge=1, description="Commands that may wait in one partition queue")
    sweep: float = Field(default=1, gt=0, description="Seconds between sweeps")
    silent_after: float = Field(
        default=10, gt=0, description="Seconds without a heartbeat after which a process is dead"
    )


class RetentionSettings(Section):
    """For how long after its run's end something is kept; 0 keeps it for the life of the session."""

    events: float = Field(default=0, ge=0, description="Seconds an ended run's events can be read again; 0: always")
    journals: float = Field(default=0, ge=0, description="Seconds an ended run's journal is kept; 0: always")
    runs: float = Field(
        default=0, ge=0, description="Seconds an ended run is kept, with its events, journal and calls; 0: always"
    )
    audit: float = Field(default=0, ge=0, description="Seconds an audit row is kept; 0: always")


class EventsSettings(Section):
    enabled: bool = Field(default=True, description="Tell integrations of runs, on exchange callboard.events.v1")


class WebhookSettings(Section):
    allow_private: bool = Field(
        default=False, description="Deliver to private and loopback addresses, and without TLS (http://), too"
    )
    urls: Names = Field(default=(), description="URLs that are told of runs, separated by commas; none by default")
    secret: SecretStr | None = Field(
        default=None, validate_default=True, description="Signs every request: `whsec_` and 24 to 64 bytes in base64"
    )
    old_secret: SecretStr | None = Field(
        default=None, description="Signs, too, while receivers change from this secret to the new one"
    )
    events: Names = Field(
        default=("interrupted", "finished", "failed", "cancelled"),
        description="What is told: `started`, `interrupted`, `finished`, `failed`, `cancelled`",
    )
    timeout: float = Field(default=10, gt=0, le=60, description="Seconds a receiver has to answer")
    concurrency: int = Field(default=8, ge=1, le=100, description="Requests at once, per URL and actor process")
    first_retry: float = Field(default=5, gt=0, description="Seconds until the first retry; each later one waits twice")
    longest_retry: float = Field(default=3600, gt=0, description="Most seconds between two tries, also by Retry-After")
    max_attempts: int = Field(default=50, ge=1, description="Tries before a delivery is given up")
    max_age: float = Field(default=24 * 3600, gt=0, description="Seconds after which a delivery is given up")
    kept: float = Field(default=30 * 24 * 3600, gt=0, description="Seconds an ended delivery stays in the log")

    @field_validator("urls")
    @classmethod
    def _deliverable(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for number, url in enumerate(urls, 1):
            if problem := url_problem(url, bool(info.data.get("allow_private"))):
                raise ValueError(f"URL {number} {problem}")  # not the URL itself, which may hold a secret
        return tuple(dict.fromkeys(urls))

    @field_validator("secret", "old_secret")
    @classmethod
    def _signs(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            if info.field_name == "secret" and info.data.get("urls"):
                raise ValueError(f"must be set to deliver webhooks; {HOW_TO_MAKE}")
        elif not is_secret(secret.get_secret_value()):
            raise ValueError(f"must be `whsec_` and 24 to 64 bytes in base64; {HOW_TO_MAKE}")
        return secret

    @field_validator("events")
    @classmethod
    def _known(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in events if name not in RUN_EVENTS]:
            raise ValueError(f"there is no event {unknown[0]!r}; the events are {', '.join(RUN_EVENTS)}")
        return events


class IngressSettings(Section):
    enabled: bool = Field(default=True, description="Take requests from exchange callboard.ingress in every front")
    prefetch: int = Field(default=64, ge=1, le=2000, description="Requests that one front handles at once")
    delivery_limit: int = Field(default=20, ge=1, description="Deliveries of a request before it is dead-lettered")
    max_waiting: int = Field(default=10_000, ge=1, description="Requests that may wait before the broker refuses more")


class OtelSettings(Section):
    endpoint: str | None = Field(
        default=None, description="OTLP/HTTP collector, such as http://collector:4318, or `console`; none: no traces"
    )
    headers: SecretStr | None = Field(default=None, description="Headers of every export: name=value,name=value")
    sample: float = Field(default=1.0, ge=0, le=1, description="Share of requests traced that name no trace themselves")
    accept_traceparent: bool = Field(
        default=True, description="Go on with the trace that a request names; else begin one that is linked to it"
    )

    @field_validator("endpoint")
    @classmethod
    def _http_or_console(cls, endpoint: str | None) -> str | None:
        if endpoint and endpoint != "console" and urlsplit(endpoint).scheme not in ("http", "https"):
            raise ValueError("must be the URL of an OTLP/HTTP collector, such as http://localhost:4318, or `console`")
        return endpoint


class MetricsSettings(Section):
    port: int | None = Field(
        default=None,
        ge=1,
        le=65_000,
        description="Port of `/metrics`, `/healthz` and `/readyz` of actors and workers, or a free one of the 31 after",
    )
    host: str = Field(default="127.0.0.1", description="Address that this port is opened on")


class EmbeddedSettings(Section):
    data_dir: Path | None = Field(default=None, description="Where the embedded services keep their data")
