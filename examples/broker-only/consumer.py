"""Prints what becomes of runs, once each, as JSON lines. CALLBOARD_AMQP_URL says where the broker is."""

import asyncio
import contextlib
import json
import os

import aio_pika

QUEUE = "example.audit.v1"  # ours; durable, so that it keeps what comes while this program is away


async def main() -> None:
    async with await aio_pika.connect_robust(os.environ["CALLBOARD_AMQP_URL"]) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=50)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(await channel.get_exchange("callboard.events.v1"), "session.#")
        print(json.dumps({"listening": QUEUE}), flush=True)
        await consume(queue)


async def consume(queue: aio_pika.abc.AbstractQueue) -> None:
    """Acknowledge what was dealt with: what was not comes again, so each is told by its id from a copy of it."""
    seen: set[str | None] = set()  # a real consumer keeps these with what it writes, in one transaction
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                if message.message_id in seen:
                    continue
                seen.add(message.message_id)
                event = json.loads(message.body)
                print(json.dumps({name: event[name] for name in ("type", "session_id", "run_id")}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
