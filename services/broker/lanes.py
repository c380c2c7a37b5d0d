"""Per-partition workers: the chunks of a partition in order, the partitions side by side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from services.broker.delivery import Chunk, DeliveryApp

DEPTH: Final = 2  # chunks that wait behind the one that a partition's worker has in hand
SETTLE_S: Final = 3.0  # how long a revocation waits for chunks in hand; below the session time-out

Handle = Callable[[Chunk], Awaitable[None]]


class Lanes:
    """Hands each chunk to `handle`, then acknowledges it. The first error ends all work and is in `failed`."""

    def __init__(self, app: DeliveryApp, handle: Handle) -> None:
        self._app = app
        self._handle = handle
        self._queues: dict[Any, asyncio.Queue[Any]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def put(self, event: Any) -> None:
        """Queue a chunk; waits while its partition has DEPTH chunks waiting (that bounds what is in memory)."""
        tp = event.message.tp
        if tp not in self._queues:
            self._queues[tp] = asyncio.Queue(DEPTH)
            worker = asyncio.create_task(self._work(self._queues[tp]), name=f"lane {tp.topic}/{tp.partition}")
            worker.add_done_callback(self._worker_over)
            self._workers.add(worker)
        await self._queues[tp].put(event)

    async def settle(self, _: Any = None) -> None:
        """Wait until no worker has a chunk in hand, SETTLE_S at most. What only waits is abandoned as stale."""
        try:
            await asyncio.wait_for(self._idle.wait(), SETTLE_S)
        except TimeoutError:
            return  # these chunks are delivered again elsewhere: duplicates, as the arm's semantics say, never a loss

    async def stop(self) -> None:
        """Begin no further chunk, let those in hand finish (bounded), end the workers."""
        self.stopping = True
        await self.settle()
        for worker in self._workers:
            worker.cancel()

    async def _work(self, queue: asyncio.Queue[Any]) -> None:
        while True:
            event = await queue.get()
            if self.stopping or not self._app.is_fresh(event.message):
                self._app.consumer.abandon(event.message)
                continue
            self._busy += 1
            self._idle.clear()
            try:
                await self._handle(event.message)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
            event.ack()
            del event  # an event that a variable holds would keep its chunk in memory

    def _worker_over(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)
