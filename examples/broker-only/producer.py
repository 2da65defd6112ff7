"""Asks for one run and prints the reply: `producer.py <threadId> <runId> <text>`.

CALLBOARD_AMQP_URL says where the broker is, TOKEN whose run it is. The same three words again are the same run.
"""

import asyncio
import json
import os
import sys

import aio_pika

PATIENCE = 30.0  # seconds for the reply; a request without one may be sent again


async def ask(thread: str, run: str, text: str) -> int:
    """The reply's status: 202 when the run is durable."""
    async with await aio_pika.connect_robust(os.environ["CALLBOARD_AMQP_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        replies = await channel.declare_queue(exclusive=True)
        ingress = await channel.get_exchange("callboard.ingress")
        await ingress.publish(request(thread, run, text, replies.name), routing_key="run", mandatory=True)
        async with asyncio.timeout(PATIENCE), replies.iterator() as messages:
            reply = await anext(messages)
            await reply.ack()
    status = int(str(reply.headers["status"]))
    print(json.dumps({"status": status, "reply": json.loads(reply.body)}), flush=True)
    return status


def request(thread: str, run: str, text: str, reply_to: str) -> aio_pika.Message:
    """A RunAgentInput; the message's id follows from the run's, so that a repetition is the same request."""
    message = {"id": f"{run}-user", "role": "user", "content": text}
    body = {"threadId": thread, "runId": run, "messages": [message], "forwardedProps": {"agentId": "chat"}}
    return aio_pika.Message(
        json.dumps(body).encode(),
        headers={"authorization": f"Bearer {os.environ['TOKEN']}"},
        reply_to=reply_to,
        correlation_id=run,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


if __name__ == "__main__":
    thread, run, *words = sys.argv[1:]
    sys.exit(0 if asyncio.run(ask(thread, run, " ".join(words))) == 202 else 1)
