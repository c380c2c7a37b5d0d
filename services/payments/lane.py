"""The retry lane of one arm: serves its tiers and its redelivery topic, each at its own pace.

    1. fetch         a partition whose records all wait is paused: no other one waits for it
    2. wait          until the first record is due
    3. handle        like any other record of the arm: applied, or sent on to the next tier or the dead letters
    4. commit        after everything of 3 was confirmed

A rebalance ends the waiting at once; what was in hand and is not committed comes again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.domain.arms import ConsumerArm
from services.domain.failure_policy import TIERS
from services.domain.forwarding import forwarding_of
from services.domain.messages import Coordinates, Undecodable
from services.settings import Settings

POLL_MS: Final = 200
SETTLE_S: Final = 3.0  # how long a revocation waits for records in hand; below the session time-out
COMMIT_TIMEOUT_S: Final = 3.0

Handle = Callable[[Sequence[ConsumerRecord]], Awaitable[None]]
Report = Callable[..., None]
Releasing = Callable[[], Awaitable[None]]  # in a rebalance, when what was in hand is settled
Rebalanced = Callable[[], None]  # at the end of it, when the group has given an assignment


def ready_at_ms(record: ConsumerRecord, tier_s: float | None) -> int:
    """When a record leaves its tier, Unix milliseconds: when it is due, or when the tier's time is over.

    What was asked to wait for longer than its tier lasts leaves it early, to go round in it once more.
    """
    try:
        due_ms = forwarding_of(record.headers, Coordinates(record.topic, record.partition, record.offset)).due_ms
    except Undecodable:
        return 0  # it goes to the dead letters
    if tier_s is None:
        return 0
    return min(due_ms, int(record.timestamp + tier_s * 1000))


class Lane:
    """One consumer, one worker a partition. The first error ends all work and is in `failed`."""

    def __init__(
        self, arm: ConsumerArm, settings: Settings, handle: Handle, report: Report, releasing: Releasing,
        rebalanced: Rebalanced,
    ) -> None:  # fmt: skip
        self._arm = arm
        self._chunk = settings.chunk
        self._handle = handle
        self._report = report
        self.releasing = releasing
        self.rebalanced = rebalanced
        self._tier_s = {arm.retry_topic(tier): tier.delay_s for tier in TIERS}
        self._waiting: dict[TopicPartition, deque[ConsumerRecord]] = {}
        self._workers: dict[TopicPartition, asyncio.Task[None]] = {}
        self._stopping = False
        self.assigned = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka,
            group_id=arm.lane_group,
            client_id=settings.process,
            enable_auto_commit=False,
            auto_offset_reset="none",  # where to start is decided once, when the topics are made
            isolation_level="read_committed",  # a replay is copied in transactions
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_s * 1000),
            max_poll_interval_ms=1_000_000,
        )

    async def run(self) -> None:
        """Consume until `stop`. Raises what aiokafka raises when it cannot go on."""
        self._consumer.subscribe(
            [*self._arm.retry_topics, self._arm.redelivery_topic], listener=_Listener(self)
        )  # fmt: skip
        await self._consumer.start()
        while not self._stopping:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._chunk)
            for tp, records in fetched.items():
                self._take(tp, records)

    async def stop(self) -> None:
        """Begin nothing more, let what is in hand finish (bounded), leave the group."""
        self._stopping = True
        await self.settle(list(self._workers))
        await self._consumer.stop()

    async def settle(self, partitions: Iterable[TopicPartition]) -> None:
        """Let records in hand finish, SETTLE_S at most; those that only wait are given up at once."""
        workers = [self._workers[tp] for tp in partitions if tp in self._workers]
        for tp in partitions:
            self._waiting.pop(tp, None)
        if workers:
            _, late = await asyncio.wait(workers, timeout=SETTLE_S)
            for worker in late:
                worker.cancel()

    def _take(self, tp: TopicPartition, records: list[ConsumerRecord]) -> None:
        """Hand records to the partition's worker; it is fetched from again when they are done."""
        if tp not in self._consumer.assignment():
            return  # it was taken away between the fetch and here
        self._consumer.pause(tp)
        self._waiting[tp] = deque(records)
        worker = asyncio.create_task(self._work(tp), name=f"lane {tp.topic}/{tp.partition}")
        self._workers[tp] = worker
        worker.add_done_callback(lambda done: self._worker_over(tp, done))

    async def _work(self, tp: TopicPartition) -> None:
        while waiting := self._waiting.get(tp):
            due_s = ready_at_ms(waiting[0], self._tier_s.get(tp.topic)) / 1000 - time.time()
            if due_s > 0:
                await asyncio.sleep(min(due_s, POLL_MS / 1000))  # in slices: a revocation is noticed
                continue
            ready = self._ready(tp, waiting)
            await self._handle(ready)
            await self._commit(tp, ready[-1].offset + 1)
            for _ in ready:
                waiting.popleft()
        if tp in self._consumer.assignment():
            self._consumer.resume(tp)

    def _ready(self, tp: TopicPartition, waiting: deque[ConsumerRecord]) -> list[ConsumerRecord]:
        now_ms, tier_s = time.time() * 1000, self._tier_s.get(tp.topic)
        ready = []
        for record in waiting:
            if ready_at_ms(record, tier_s) > now_ms:
                break
            ready.append(record)
        return ready

    async def _commit(self, tp: TopicPartition, position: int) -> None:
        """Commit, again until it succeeds: nothing later may come that would. Of a partition that was taken away the
        records come again to whoever has it, as after a crash."""
        name = f"{tp.topic}/{tp.partition}"
        while tp in self._consumer.assignment():
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_S):
                    await self._consumer.commit({tp: position})
            except (KafkaError, TimeoutError) as error:
                self._report("offset.commit_failed", positions={name: position}, error=f"{error!r:.300}")
                await asyncio.sleep(POLL_MS / 1000)
            else:
                self._report("offset.committed", positions={name: position})
                return

    def _worker_over(self, tp: TopicPartition, worker: asyncio.Task[None]) -> None:
        if self._workers.get(tp) is worker:
            del self._workers[tp]
        if not worker.cancelled() and (error := worker.exception()) is not None and not self.failed.done():
            self._stopping = True
            self.failed.set_exception(error)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        self._lane.assigned.clear()
        await self._lane.settle(list(revoked))
        if revoked:
            await self._lane.releasing()

    async def on_partitions_assigned(self, assigned: set[Any]) -> None:
        self._lane.assigned.set()
        self._lane.rebalanced()
