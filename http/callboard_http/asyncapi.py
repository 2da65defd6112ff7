"""The AsyncAPI document of what programs outside may send and hear: `python -m callboard_http.asyncapi` prints it.

FastStream describes the exchanges, queues and bodies; nothing of this runs.
"""

from __future__ import annotations

import yaml
from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.specification import AsyncAPI

from callboard_http.ingress_requests import CancelMessage, ResumeMessage
from callboard_http.run_request import RunAgentInput
from callboard_runtime.broker import topology
from callboard_runtime.broker.messages import Accepted, Problem, RunEvent

API_VERSION = "1"
_ABOUT = (
    "Requests go to the exchange callboard.ingress with a token in the header `authorization` (`Bearer <JWT>`); the "
    "reply goes to `reply_to`: what was accepted, or a problem. What happens to runs is told on the exchange "
    "callboard.events.v1 at least once; a copy has the same message id."
)
_INGRESS = RabbitExchange(topology.INGRESS_EXCHANGE, type=ExchangeType.DIRECT, durable=True)
_EVENTS = RabbitExchange(topology.EVENTS_EXCHANGE, type=ExchangeType.TOPIC, durable=True)
RUN_EVENT_KEY = "session.{session_id}.run.{run_id}.{name}"


def document() -> str:
    """The document as YAML; the same for the same code."""
    broker = RabbitBroker("amqp://localhost:5672/", apply_types=False)
    described = [*_requests(broker), *_answers(broker)]  # the broker itself holds them weakly
    api = AsyncAPI(broker, title="Callboard", version=API_VERSION, description=_ABOUT, schema_version="3.0.0")
    text = yaml.safe_dump(api.to_specification().to_jsonable(), sort_keys=True, allow_unicode=True, width=120)
    del described  # kept until here on purpose
    return text


def _answers(broker: RabbitBroker) -> list[object]:
    events = broker.publisher(
        exchange=_EVENTS,
        routing_key=RUN_EVENT_KEY,
        schema=RunEvent,
        title="RunEvents",
        description="started, interrupted, finished, failed or cancelled; ids are escaped as one word each",
    )
    reply = "The reply to a request, to its `reply_to`"
    replies = [
        broker.publisher(routing_key="{reply_to}", schema=schema, title=title, description=reply)
        for title, schema in (("Accepted", Accepted), ("Refused", Problem))
    ]
    return [events, *replies]


def _requests(broker: RabbitBroker) -> list[object]:
    def queue(key: str) -> RabbitQueue:
        return RabbitQueue(topology.INGRESS_QUEUE, durable=True, routing_key=key)

    @broker.subscriber(
        queue("run"), _INGRESS, title="Run", description="Start a run; header `agent-id` picks the agent"
    )
    async def run(body: RunAgentInput) -> None: ...

    @broker.subscriber(queue("resume"), _INGRESS, title="Resume", description="Answer what a run waits for")
    async def resume(body: ResumeMessage) -> None: ...

    @broker.subscriber(queue("cancel"), _INGRESS, title="Cancel", description="Cancel a run")
    async def cancel(body: CancelMessage) -> None: ...

    return [run, resume, cancel]


# Written to docs/asyncapi.yaml; a test compares them.
if __name__ == "__main__":
    print(document(), end="")
