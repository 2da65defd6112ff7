"""Prepares a process for CrewAI and LiteLLM: both quiet, offline but for the configured models, and out of HOME."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache

from callboard_runtime.garbage import nothing_collected
from callboard_runtime.llm.late import built_at_first_use
from callboard_runtime.llm.trims import apply_trims
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

# OTEL_SDK_DISABLED would also silence this process's own tracing, so it stays unset: these are CrewAI's own switches.
SWITCHES = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",  # else importing LiteLLM reads `.env` files into the environment
}
_HOME_LIKE = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


@cache
def load() -> None:
    """Import CrewAI and LiteLLM with their off-switches set; once per process, several seconds the first time."""
    os.environ.update(SWITCHES)
    scratch = _scratch_dir()
    os.environ["CREWAI_STORAGE_DIR"] = scratch  # CrewAI joins it to HOME; an absolute path wins
    with nothing_collected(), _home_at(scratch), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say about themselves while they are imported
        with built_at_first_use():
            import crewai
            import litellm
        litellm.ModelResponse()  # pydantic finishes these models at their first use, with the same warnings
        litellm.ModelResponseStream()
    from crewai_core.lock_store import set_lock_backend

    set_lock_backend(_no_lock)
    apply_trims()
    litellm.suppress_debug_info = True
    litellm.drop_params = True  # a parameter that one provider lacks must not fail its fallback
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logger.info("crewai %s and litellm are loaded", crewai.__version__, extra={"action": "llm_loaded"})


def warm_up(settings: Settings | None = None) -> None:
    """Load everything that the first run would otherwise wait for; reaches no network.

    A prefork parent may call it: nothing is kicked off and no connection is opened.
    """
    load()
    from callboard_runtime.llm.scripted import register

    register(settings.llm if settings else Settings().llm)


@cache
def load_tokenizer() -> None:
    """Load LiteLLM's tokenizer: half a second and a hundred megabytes, for streams that only LiteLLM can read."""
    import litellm

    litellm.token_counter(model="gpt-4o-mini", text="x")  # pyright: ignore[reportUnknownMemberType]


async def close_clients() -> None:
    """Close the connections that LiteLLM keeps open between requests, on the loop that opened them."""
    import litellm

    await litellm.close_litellm_async_clients()  # pyright: ignore[reportPrivateImportUsage]  # loaded lazily
    litellm.in_memory_llm_clients_cache.flush_cache()
    await litellm.module_level_aclient.close()  # not in that cache


def _no_lock(name: str, *, timeout: float = 0) -> nullcontext[None]:
    return nullcontext()  # CrewAI guards files with it, of which there are none


def _scratch_dir() -> str:
    scratch = tempfile.mkdtemp(prefix="callboard-crewai-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # forked children share it
            shutil.rmtree(scratch, ignore_errors=True)

    atexit.register(remove)
    return scratch


@contextmanager
def _home_at(directory: str) -> Generator[None]:
    """CrewAI makes a key file and folders under HOME while it is imported, and fails where it cannot."""
    before = {name: os.environ.get(name) for name in _HOME_LIKE}
    os.environ.update(dict.fromkeys(_HOME_LIKE, directory))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
