"""A closed loop of HTTP requests over kept connections: each sends the next one when its answer is there.

Bare sockets and a parser in C: the client shares the machine with what it measures.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httptools
import msgspec


class Answered(msgspec.Struct, frozen=True):
    """What came back."""

    statuses: dict[int, int]
    latencies_ms: list[float]


async def send(host: str, port: int, requests: Iterator[bytes], connections: int, rate: float = 0.0) -> Answered:
    """Send all requests, at full speed or at a rate at most. Raises OSError when a connection is lost."""
    loop = asyncio.get_running_loop()
    every_s = connections / rate if rate else 0.0
    clients = [_Client(requests, loop.create_future(), every_s) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, host, port)  # type: ignore[misc]
    await asyncio.gather(*(client.over for client in clients))
    statuses: dict[int, int] = {}
    for client in clients:
        for status in client.statuses:
            statuses[status] = statuses.get(status, 0) + 1
    return Answered(statuses, sorted(ms for client in clients for ms in client.latencies_ms))


class _Client(asyncio.Protocol):
    """One connection; `requests` is shared with the others."""

    def __init__(self, requests: Iterator[bytes], over: "asyncio.Future[None]", every_s: float) -> None:
        self.over = over
        self._every_s = every_s
        self.statuses: list[int] = []
        self.latencies_ms: list[float] = []
        self._requests = requests
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._sent_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionResetError("the service closed a connection"))

    def on_message_complete(self) -> None:
        """The parser's: one answer is whole."""
        self.latencies_ms.append((time.perf_counter() - self._sent_at) * 1000)
        self.statuses.append(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)
        if self._every_s:
            wait_s = self._sent_at + self._every_s - time.perf_counter()
            asyncio.get_running_loop().call_later(max(0.0, wait_s), self._send)
        else:
            self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.over.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)
