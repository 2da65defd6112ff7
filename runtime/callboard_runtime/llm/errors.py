"""What can go wrong with a model, as stable codes; never with a key or a provider's raw words in it.

ModelError                MODEL_FAILED
├── ModelAuth             MODEL_AUTH              names the setting that holds the key
├── ModelRateLimited      MODEL_RATE_LIMITED      tried again
├── ModelUnavailable      MODEL_UNAVAILABLE       tried again
├── ModelTimeout          MODEL_TIMEOUT           tried again
├── ModelBadResponse      MODEL_BAD_RESPONSE      tried again
├── ModelContextTooLong   MODEL_CONTEXT_TOO_LONG
└── ModelRejected         MODEL_REJECTED          the provider refused the request as it was
"""

from __future__ import annotations

import re
from typing import ClassVar

from callboard_runtime.errors import CallboardError


class ModelError(CallboardError):
    """The model call failed."""

    code = "MODEL_FAILED"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message, retry_after=retry_after)


class ModelAuth(ModelError):
    """The provider did not accept the API key."""

    code = "MODEL_AUTH"


class ModelRateLimited(ModelError):
    """The provider limits the rate of requests."""

    code = "MODEL_RATE_LIMITED"
    retryable = True


class ModelUnavailable(ModelError):
    """The provider cannot be reached, or failed."""

    code = "MODEL_UNAVAILABLE"
    retryable = True


class ModelTimeout(ModelError):
    """The provider did not answer in time."""

    code = "MODEL_TIMEOUT"
    retryable = True


class ModelBadResponse(ModelError):
    """The provider sent an answer that cannot be read."""

    code = "MODEL_BAD_RESPONSE"
    retryable = True


class ModelContextTooLong(ModelError):
    """The conversation is longer than the model's context."""

    code = "MODEL_CONTEXT_TOO_LONG"


class ModelRejected(ModelError):
    """The provider refused the request."""

    code = "MODEL_REJECTED"


_KEY_LIKE = re.compile(r"\b[A-Za-z]{2,6}[-_][A-Za-z0-9*_-]{6,}|\b[A-Za-z0-9_*-]{24,}")
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "prompt is too long")
_UNREACHABLE = ("connect", "remoteprotocol", "readerror", "writeerror", "closedresource", "incompleteread")
_UNREADABLE = ("json", "validation", "decode", "keyerror", "typeerror", "attributeerror")


def model_error(error: BaseException, provider: str, model: str) -> ModelError:
    """The stable error for whatever LiteLLM or a provider's SDK raised; the cause is kept for the log, not the text."""
    if isinstance(error, ModelError):
        return error
    names = " ".join(type(link).__name__.lower() for link in _chain(error))
    status = _status(error)
    where = f"{provider} model {model}"
    if "timeout" in names or status == 408:
        return ModelTimeout(f"the {where} did not answer in time")
    if status in (401, 403) or "authentication" in names:
        return ModelAuth(f"{provider} refused the API key; check {key_setting(provider)}")
    if status == 429 or "ratelimit" in names:
        return ModelRateLimited(f"the {where} limits the rate of requests", retry_after=_retry_after(error))
    return _by_kind(error, names, status, where)


def _by_kind(error: BaseException, names: str, status: int | None, where: str) -> ModelError:
    if "contextwindow" in names or (status in (400, 413, 422) and _says_too_long(error)):
        return ModelContextTooLong(f"the conversation is too long for the {where}")
    if _readable_failure(names) and not _unreachable(names):
        return ModelBadResponse(f"the {where} sent an answer that cannot be read")
    if status is not None and 400 <= status < 500:
        return ModelRejected(f"the {where} refused the request with status {status}")
    return ModelUnavailable(f"the {where} cannot be reached or failed" + (f" with status {status}" if status else ""))


def key_setting(provider: str) -> str:
    """The variable that holds a provider's API key."""
    return f"CALLBOARD_LLM__PROVIDER_KEYS__{provider.upper().replace('-', '_')}"


def reason(error: BaseException, secret: str | None) -> str:
    """What a provider said, for the log alone: shortened, and with anything that looks like a key taken out."""
    text = " ".join(str(error).split())
    if secret:
        text = text.replace(secret, "…")
    return _KEY_LIKE.sub("…", text)[:300]


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links and len(links) < 10:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _status(error: BaseException) -> int | None:
    """The provider's HTTP status: the innermost one, because LiteLLM puts 500 on errors of its own."""
    found = [status for link in _chain(error) if isinstance(status := getattr(link, "status_code", None), int)]
    return found[-1] if found else None


def _retry_after(error: BaseException) -> int | None:
    for link in _chain(error):
        headers = getattr(getattr(link, "response", None), "headers", None)
        value = str(headers.get("retry-after", "")) if headers is not None else ""
        if value.isdigit():
            return int(value)
    return None


def _says_too_long(error: BaseException) -> bool:
    text = str(error).lower()
    return any(phrase in text for phrase in _TOO_LONG)


def _unreachable(names: str) -> bool:
    return any(word in names for word in _UNREACHABLE)


def _readable_failure(names: str) -> bool:
    return any(word in names for word in _UNREADABLE)
