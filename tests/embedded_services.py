"""The embedded services in a process of their own: prints their URLs as JSON, ends when its input ends.

In:  the data folder as the only argument
Out: one line, `{"database": …, "amqp": …, "redis": …}`
"""

import asyncio
import json
import sys
from pathlib import Path

from callboard_runtime.embedded.stack import EmbeddedStack


async def main(folder: Path) -> None:
    async with EmbeddedStack(folder) as stack:
        urls = {"database": stack.urls.database_url, "amqp": stack.urls.amqp_url, "redis": stack.urls.redis_url}
        print(json.dumps(urls), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
