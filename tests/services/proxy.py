"""A TCP proxy that a test can cut, freeze, slow down and close while the two ends think they talk to each other."""

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 65536


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a server. Start and stop it with `async with`."""

    def __init__(self, host: str, port: int) -> None:
        """Forward to `host`:`port`."""
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0
        self._era = 0  # connections of an earlier one lead nowhere
        self._gone: set[asyncio.StreamWriter] = set()
        self.port = 0

    @classmethod
    def for_url(cls, url: str) -> "TcpProxy":
        """A proxy to the server that `url` names, with a port."""
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"the URL needs host and port: {parts.scheme}://{parts.hostname}")
        return cls(parts.hostname, parts.port)

    def url(self, url: str) -> str:
        """`url` with this proxy's address in place of the server's."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    def lead_to(self, url: str) -> None:
        """Connect new clients to the server that `url` names, as a load balancer does when a node is gone."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._target = (parts.hostname, parts.port)

    @property
    def connections(self) -> int:
        """How many clients are connected through the proxy now."""
        return len(self._writers) // 2

    async def __aenter__(self) -> "TcpProxy":
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close_listener()
        await self.disconnect_all()

    async def disconnect_all(self) -> None:
        """Reset every connection; new ones are accepted as before."""
        writers, pumps = list(self._writers), list(self._pumps)
        for writer in writers:
            _reset(writer)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    def pause(self) -> None:
        """Stop forwarding in both directions; connections stay open and silent."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def vanish(self) -> None:
        """Let every present connection lead nowhere, without a word to either end; new ones are forwarded."""
        self._era += 1
        self._gone |= self._writers

    def bury(self) -> None:
        """Reset the connections that vanished."""
        for writer in self._gone:
            _reset(writer)
        self._gone = set()

    def delay(self, seconds: float) -> None:
        """Hold every chunk back for so long; 0 switches it off."""
        self._delay = seconds

    async def refuse(self) -> None:
        """Cut everything and refuse new connections until `accept()`."""
        await self._close_listener()
        await self.disconnect_all()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(client_out)
            return
        self._writers |= {client_out, server_out}
        pumps = [
            asyncio.create_task(self._pump(client_in, server_out)),
            asyncio.create_task(self._pump(server_in, client_out)),
        ]
        self._pumps |= set(pumps)
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps -= set(pumps)
        self._writers -= {client_out, server_out}
        for writer in (client_out, server_out):
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        era = self._era
        try:
            while chunk := await source.read(_CHUNK):
                if era < self._era:
                    continue
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open.wait()
                sink.write(chunk)
                await sink.drain()
            if era == self._era and sink.can_write_eof():
                sink.write_eof()
        except ConnectionError:
            if era == self._era:
                _reset(sink)  # a dead server's reset reaches its clients, as it would without a proxy


def _reset(writer: asyncio.StreamWriter) -> None:
    # Zero linger makes the peer see RST, as a crashed machine's address would answer.
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
