"""What LiteLLM and OpenAI's SDK do for every request and nobody here reads, switched off. A sixth of a whole kick-off.

Checked against litellm 1.105.3 and openai 2; each trim has a guard test that fails when they do it elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast


@cache
def apply_trims() -> None:
    """Apply the process-wide trims, once, after both are imported."""
    import litellm.utils
    from openai.resources.chat.completions import completions

    # Prices an answer that has not come yet, and parses headers for `_hidden_params`: we meter by ourselves.
    litellm.utils.update_response_metadata = _nothing  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]
    # Walks through every message and tool by its type annotations, to rename fields: a chat request has none of those.
    completions.async_maybe_transform = given_only  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]


def _nothing(*_: Any, **__: Any) -> None:
    return None


async def given_only(data: object, _: object) -> object:
    """A request body without the parameters that were not given."""
    from openai._utils import is_given

    if not isinstance(data, Mapping):
        return data
    return {name: value for name, value in cast(Mapping[str, Any], data).items() if is_given(value)}
