"""Per-partition workers: the chunks of a partition in order, the partitions side by side."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from services.broker.delivery import Chunk, DeliveryApp

DEPTH: Final = 3  # chunks of a partition, the one in hand included, from which on it is not fetched from
SETTLE_S: Final = 3.0  # how long a revocation waits for chunks in hand; below the session time-out

Handle = Callable[["Chunk"], Awaitable[None]]


class Lanes:
    """Hands each chunk to `handle`, then acknowledges it. The first error ends all work and is in `failed`.

    Memory is bounded by DEPTH chunks a partition and what one fetch brings. A full partition stops no other one.
    """

    def __init__(self, app: "DeliveryApp", handle: Handle) -> None:
        self._app = app
        self._handle = handle
        self._lanes: dict[Any, deque[Any]] = {}  # events of partitions that have a worker; the first one is in hand
        self._workers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, event: Any) -> None:
        """Queue a chunk behind those of its partition. A stale one is abandoned."""
        tp = event.message.tp
        if not self._may_begin(event):
            self._app.consumer.abandon(event.message)
        elif (lane := self._lanes.get(tp)) is None:
            self._lanes[tp] = deque([event])
            worker = asyncio.create_task(self._work(tp, self._lanes[tp]), name=f"lane {tp.topic}/{tp.partition}")
            worker.add_done_callback(self._worker_over)
            self._workers.add(worker)
        else:
            lane.append(event)
            if len(lane) >= DEPTH:
                self._app.consumer.on_buffer_full(tp)

    async def settle(self) -> None:
        """Let the chunks in hand finish, SETTLE_S at most; then give them up, with what waits behind them.

        What is given up is delivered again elsewhere: duplicates, as the arm's semantics say, never a loss.
        """
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=SETTLE_S)
            for worker in late:
                worker.cancel()
        self._lanes.clear()

    async def stop(self) -> None:
        """Begin no further chunk, and settle."""
        self._stopping = True
        await self.settle()

    def _may_begin(self, event: Any) -> bool:
        return not self._stopping and self._app.is_fresh(event.message)

    async def _work(self, tp: Any, lane: deque[Any]) -> None:
        while lane:
            event = lane[0]
            if self._may_begin(event):
                await self._handle(event.message)
                event.ack()
            else:
                self._app.consumer.abandon(event.message)
            lane.popleft()
            if len(lane) < DEPTH:
                self._app.consumer.on_buffer_drop(tp)
        if self._lanes.get(tp) is lane:
            del self._lanes[tp]

    def _worker_over(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None and not self.failed.done():
            self._stopping = True
            self.failed.set_exception(error)
