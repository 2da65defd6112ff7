"""In: a model call of a crew. Out: its answer, from the journal, or else asked for, metered and recorded."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from callboard_runtime.crew.pause import ReplayDiverged, StopSignal
from callboard_runtime.crew.ports import Journal
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.errors import ConfigError, RunCancelling
from callboard_runtime.faults import fault_point
from callboard_runtime.llm.answer import AnswerBuilder, AnswerView
from callboard_runtime.llm.errors import ModelError, ModelTimeout, key_setting, model_error, reason
from callboard_runtime.llm.messages import ModelAnswer, ModelCall, Usage, estimate_tokens
from callboard_runtime.llm.prices import price_text
from callboard_runtime.llm.provider import SCRIPTED, Target
from callboard_runtime.llm.request import Request
from callboard_runtime.observe.spans import metered, model_span
from callboard_runtime.observe.worker import REPLAYED
from callboard_runtime.settings import LlmSettings

logger = logging.getLogger(__name__)

_BACKOFF = 0.5  # seconds before the first retry
_BACKOFF_LIMIT = 20.0  # seconds
_MAX_PATH = 220  # characters; a journal key has room for 400


_KEYLESS = frozenset({SCRIPTED, "ollama", "ollama_chat", "bedrock", "vertex_ai", "sagemaker_chat", "oci", "llamafile"})


class View(AnswerView, Protocol):
    """An AnswerView that also knows which message rows an answer makes."""

    def messages(self, answer: ModelAnswer) -> tuple[NewMessage, ...]: ...


class ModelCaller:
    """The model calls of one run; every provider request is begun in the journal before and recorded after.

    Raises ModelError when all tries failed, ReplayDiverged when the journal says something else, ConfigError when a
    key is missing, RunCancelling when the run is to stop, and whatever the journal raises.
    """

    def __init__(
        self,
        journal: Journal,
        settings: LlmSettings,
        stop: StopSignal | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._stop = stop or StopSignal()
        self._jitter = jitter
        self._occurrences: Counter[str] = Counter()
        self._unsent_records: list[StepRecord] = []  # of interrupted requests
        self._unsent_messages: list[NewMessage] = []

    async def answer(self, call: ModelCall, targets: Sequence[Target], view: Callable[[], View]) -> ModelAnswer:
        """Answer the call; `view` makes the place where one try is shown, and is not called for a replay."""
        digest = call.digest()
        key = self._key(call.path, digest)
        tries = len(targets) * (self._settings.retries + 1)
        recorded = self._replay(key, digest, call, tries)
        return recorded or await self._ask(call, key, digest, targets, view)

    @property
    def partial_text(self) -> str:
        """What an interrupted answer had shown."""
        return "".join(str(message.content) for message in self._unsent_messages)

    def take_unsent(self) -> tuple[tuple[StepRecord, ...], tuple[NewMessage, ...]]:
        """The records and messages of interrupted requests that the journal has not been given; once."""
        taken = tuple(self._unsent_records), tuple(self._unsent_messages)
        self._unsent_records.clear()
        self._unsent_messages.clear()
        return taken

    # -- replay -------------------------------------------------------------------------------------------------------

    def _key(self, path: str, digest: str) -> str:
        place = f"{path[:_MAX_PATH]}@{digest[:16]}"
        self._occurrences[place] += 1
        return f"{place}#{self._occurrences[place]}"

    def _replay(self, key: str, digest: str, call: ModelCall, tries: int) -> ModelAnswer | None:
        if not (unreplayed := self._journal.unreplayed()):
            return None
        for number in range(1, max(tries, 50) + 1):  # settings may have allowed more tries when it was recorded
            row = self._journal.find(f"{key}!{number}")
            if row is None or row.status != "recorded":
                continue
            REPLAYED.labels("model").inc()
            fault_point("during_replay")
            if row.digest != digest:
                raise ReplayDiverged(f"step {row.key}: the request differs from the recorded one")
            return ModelAnswer.from_result(row.result or {})
        expected = next((other for other in unreplayed if _precedes(other, call.path)), None)
        if expected is not None:
            raise ReplayDiverged(f"step {key}: not in the journal, which goes on with {expected}")
        return None

    # -- live ---------------------------------------------------------------------------------------------------------

    async def _ask(
        self, call: ModelCall, key: str, digest: str, targets: Sequence[Target], view: Callable[[], View]
    ) -> ModelAnswer:
        number, failure = 0, ModelError("no model is configured")
        for target in targets:
            self._require_key(target)
            for attempt in range(self._settings.retries + 1):
                number += 1
                try:
                    with model_span(call.stage, target.provider, target.model):
                        return await self._try(call, target, f"{key}!{number}", digest, view())
                except ModelError as error:
                    failure = error
                if not failure.retryable or attempt == self._settings.retries:
                    break
                await self._back_off(attempt, failure)
        raise failure

    def _require_key(self, target: Target) -> None:
        if target.api_key is None and target.api_base is None and target.provider not in _KEYLESS:
            raise ConfigError(
                f"no API key for provider {target.provider}: set {key_setting(target.provider)}, "
                f"or point CALLBOARD_LLM__API_BASE at a server of your own"
            )

    async def _back_off(self, attempt: int, failure: ModelError) -> None:
        wait = min(_BACKOFF_LIMIT, _BACKOFF * 2**attempt)
        if failure.retry_after is not None:
            wait = min(_BACKOFF_LIMIT, max(wait, failure.retry_after))
        logger.info("model request failed, trying again", extra={"action": "model_retry", "code": failure.code})
        with self._stop.interruptible():
            await asyncio.sleep(wait * (0.5 + self._jitter() / 2))

    async def _try(self, call: ModelCall, target: Target, key: str, digest: str, view: View) -> ModelAnswer:
        self._stop.check()
        await self._journal.begin(_begin(call, target, key, digest))
        fault_point("before_model_request")
        request = Request(call, target, self._settings, AnswerBuilder(view, call.names))
        try:
            with self._stop.interruptible():
                answer = await request.run()
        except (RunCancelling, asyncio.CancelledError):
            self._keep_partial(key, request, view)
            raise
        except Exception as error:  # noqa: BLE001  # whatever a provider's SDK raises
            view.withdrawn()
            raise await self._failed(key, request, error) from None
        view.calls(tuple(filter(call.valid, answer.tool_calls)))
        view.ended()
        fault_point("after_model_answer")
        record = StepRecord(key=key, result=answer.to_result(), usage=metered(request.usage(), "ok"))
        await self._journal.record(record, messages=view.messages(answer))
        fault_point("model_record_held")
        return answer

    async def _failed(self, key: str, request: Request, error: Exception) -> ModelError:
        failure = model_error(error, request.target.provider, request.target.model)
        logger.warning(
            "model request failed with %s: %s",
            failure.code,
            reason(error, request.target.api_key),
            extra={"action": "model_failed", "code": failure.code, "step": key, "cause": type(error).__name__},
        )
        builder = request.builder
        used = isinstance(failure, ModelTimeout) or builder.started or builder.usage is not None
        usage = request.usage() if used else request.usage(Usage())
        metered(usage, failure.code)
        await self._journal.record(StepRecord(key=key, outcome="failed", usage=usage, error=failure.code))
        return failure

    def _keep_partial(self, key: str, request: Request, view: View) -> None:
        view.ended()
        partial = request.builder.partial()
        kept = ModelAnswer(text=partial.text, reasoning=partial.reasoning, message_id=partial.message_id)
        self._unsent_records.append(
            StepRecord(
                key=key, outcome="cancelled", result=kept.to_result(), usage=metered(request.usage(), "cancelled")
            )
        )
        if kept.text:
            self._unsent_messages.extend(view.messages(kept))


def _begin(call: ModelCall, target: Target, key: str, digest: str) -> StepBegin:
    return StepBegin(
        key=key,
        kind="model",
        name=call.stage,
        digest=digest,
        provider=target.provider,
        model=target.model,
        input_tokens=estimate_tokens(call.size()),
        input_price=price_text(target.input_price),
        output_price=price_text(target.output_price),
    )


def _precedes(key: str, path: str) -> bool:
    """Whether the recorded model step `key` would have been asked for before a new one at `path`.

    Siblings are not compared: parallel delegations finish in any order.
    """
    other, at, _ = key.rpartition("@")
    if not at:
        return False  # a tool's row: its call came from a model answer that was replayed
    return other.split("/")[0] != path.split("/")[0] or other == path or other.startswith(f"{path}/")
