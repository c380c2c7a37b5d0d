"""Faust made safe: one event a fetched chunk, and commits of the finished prefix only.

Stock Faust 0.15.3 commits past records that nobody has finished (faust/transport/consumer.py, `_new_offset`), takes a
failed commit for done, and spends 165-200 µs on each event. Here a chunk of up to N records of one partition is one
event; what may be committed is computed by `prefix.Prefix`; a commit is bounded in time and tried again when it failed.
Faust's membership, assignment, fetching and rebalancing are used as they are.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import faust
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IllegalStateError, KafkaConnectionError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from services.broker.prefix import Prefix
from services.settings import Settings

COMMIT_EVERY_S: Final = 1.0
COMMIT_TIMEOUT_S: Final = 3.0  # below the session time-out: a revocation waits for one commit at most
COMMIT_PAUSE_S: Final = 0.2  # after one that failed and is awaited
POLL_RECORDS: Final = 4_000  # records fetched at once at most, over all partitions

Report = Callable[..., None]  # called as report(event name, **fields)


class StaleGeneration(Exception):
    """The group has moved on: what was fetched before belongs to whoever is given the partition."""


class Chunk(ConsumerMessage):
    """Records of one partition, in order; `offset` is the last one's. Acknowledging it acknowledges all of them."""

    records: tuple[ConsumerRecord, ...] = ()


class _Thread(driver.AIOKafkaConsumerThread):
    """aiokafka's consumer, which Faust runs in a thread of its own."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Replays are copied in transactions: one that was aborted is not there."""
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust offers no setting
        return consumer

    async def commit_exactly(self, positions: dict[Any, int]) -> None:
        """Commit, and raise what aiokafka raises (Faust's own commit turns it into a crash of the app).

        Raises TimeoutError after COMMIT_TIMEOUT_S, and then nothing goes on trying: an older commit that came through
        after a newer one would set the group back, with nothing left to commit that would put it right.
        """
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        await asyncio.wait_for(self.call_thread(self._commit_until, deadline, positions), COMMIT_TIMEOUT_S + 0.5)

    async def _commit_until(self, deadline: float, positions: dict[Any, int]) -> None:
        async with asyncio.timeout(deadline - time.monotonic()):
            await self._ensure_consumer().commit(_offsets(positions))

    async def commit_under(self, generation: int, positions: dict[Any, int]) -> None:
        """Commit under one generation of the group, once; raises what came in the way, and StaleGeneration.

        aiokafka's own commit takes the generation that it finds when it sends, and sends again under the next one.
        """
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        sent = self.call_thread(self._commit_under, deadline, generation, positions)
        await asyncio.wait_for(sent, COMMIT_TIMEOUT_S + 0.5)

    async def _commit_under(self, deadline: float, generation: int, positions: dict[Any, int]) -> None:
        coordinator = self._ensure_consumer()._coordinator
        async with asyncio.timeout(deadline - time.monotonic()):
            await coordinator.ensure_coordinator_known()
            async with coordinator._commit_lock:
                if coordinator.generation != generation:
                    raise StaleGeneration(f"fetched in generation {generation}, now {coordinator.generation}")
                # not shielded, no await between: the request is made of the generation that was looked at
                await coordinator._do_commit_offsets(None, _offsets(positions))

    async def seek_to_committed(self) -> Mapping[Any, int]:
        """Go back to the committed positions, returned; where nothing is committed, to where the log begins.

        Somebody may have deleted the group's offsets: reading all again loses nothing. aiokafka's own method leaves a
        partition where it is when its committed position is 0.
        """
        positions: Mapping[Any, int] = await self.call_thread(self._seek_all)
        return positions

    async def _seek_all(self) -> Mapping[Any, int]:
        consumer, positions = self._ensure_consumer(), {}
        for tp in consumer.assignment():
            offset = await consumer.committed(tp)
            if offset is None:
                offset = (await consumer.beginning_offsets([tp]))[tp]
            # one that was revoked meanwhile starts at its committed position wherever it is assigned next
            with contextlib.suppress(IllegalStateError):
                consumer.seek(tp, offset)
                positions[tp] = offset
        return positions


class SafeConsumer(driver.Consumer):
    """Faust's consumer with chunked delivery and the safe commit."""

    app: "DeliveryApp"

    def __init__(self, *args: Any, **options: Any) -> None:
        self._prefix: Prefix[Any] = Prefix()
        self._room = asyncio.Event()
        super().__init__(*args, **options)
        deliver_on = self.callback  # type: ignore[has-type]

        async def deliver(message: Chunk) -> None:
            if not self.app.commits_first:
                self._prefix.deliver(message.tp, message)
            await deliver_on(message)

        self.callback = deliver

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Chunk]]:  # noqa: ASYNC109  # Faust's own
        """Yield what was fetched as chunks, until the flow stops or the generation changes."""
        if self.flow_active and not self._get_active_partitions():
            await self._wait_for_room(timeout)
            return
        records, active = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        for aiokafka_tp, fetched in records.items():
            tp = TP(*aiokafka_tp)
            if active is not None and tp not in active and tp not in self._buffered_partitions:
                continue
            for start in range(0, len(fetched), self.app.chunk_size):
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                yield tp, self._to_chunk(tp, fetched[start : start + self.app.chunk_size], generation)

    async def _wait_for_room(self, timeout: float) -> None:  # noqa: ASYNC109
        """Every partition is full or paused: Faust would sleep for a whole second."""
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), timeout)

    def on_buffer_drop(self, tp: Any) -> None:
        """A full partition is fetched from again."""
        super().on_buffer_drop(tp)
        self._room.set()

    def resume_flow(self) -> None:
        """A rebalance is over."""
        super().resume_flow()
        self._room.set()

    def _to_chunk(self, tp: Any, records: list[ConsumerRecord], generation: int) -> Chunk:
        last = records[-1]
        chunk = Chunk(
            last.topic, last.partition, last.offset, last.timestamp / 1000, last.timestamp_type,
            (), None, b"", None, None, None, tp, generation_id=generation,
        )  # fmt: skip
        chunk.records = tuple(records)
        return chunk

    def ack(self, message: Chunk) -> bool:
        """Mark a chunk as finished. Of a chunk of an older generation nothing follows."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def abandon(self, message: Chunk) -> None:
        """Let go of a chunk without finishing it: it belongs to an assignment that is over."""
        self._unacked_messages.discard(message)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit the finished prefix; `False` when there was nothing or it failed (then the next call tries again)."""
        positions = self._prefix.committable()
        if not positions:
            return False
        try:
            await self._thread.commit_exactly(positions)
        except Exception as error:  # any: a commit that failed is tried again, it never ends the app
            self.app.report("offset.commit_failed", positions=_readable(positions), error=f"{error!r:.300}")
            return False
        self._prefix.committed(positions)
        self.app.report("offset.committed", positions=_readable(positions))
        return True

    async def commit_first(self, chunk: Chunk) -> bool:
        """Commit a chunk before anything of it is done; `False` when it was taken away meanwhile.

        `True` only if the broker confirmed it under the generation in which the chunk was fetched: then no other
        process has it or gets it. Tried until then. Chunks of a partition come one after another: no commit overtakes.
        """
        positions = {chunk.tp: chunk.offset + 1}
        while self.app.is_fresh(chunk):
            try:
                await self._thread.commit_under(chunk.generation_id, positions)
            except Exception as error:  # any: what is not confirmed is not applied
                self.app.report("offset.commit_failed", positions=_readable(positions), error=f"{error!r:.300}")
                await asyncio.sleep(COMMIT_PAUSE_S)
            else:
                self.app.report("offset.committed", positions=_readable(positions))
                return True
        return False

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Let what is being worked on finish (bounded), commit it, and forget the rest: it will be delivered again."""
        if revoked:
            self.pause_partitions(revoked)  # nothing that is fetched from here on would be begun
            self._buffered_partitions.clear()
            await self.app.settle()
            await self.app.releasing()
            await self.maybe_wait_for_commit_to_finish()  # it began before the last chunks were finished
            await self.commit()
            self.app.report("offset.revoked", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in revoked))
        self._prefix.forget(revoked)
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Go back to the committed positions: everything in flight will be delivered again."""
        self._prefix.forget()
        await super().perform_seek()
        self.app.report("offset.rewound", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in self.assignment()))

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust's watch looks at its own path of events and commits, which is not used here."""

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps in the offsets (transaction markers, compaction) need no bookkeeping: the prefix knows deliveries."""


def _offsets(positions: dict[Any, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(o, "") for tp, o in positions.items()}


def _readable(positions: dict[Any, int]) -> dict[str, int]:
    return {f"{tp.topic}/{tp.partition}": position for tp, position in positions.items()}


class SafeTransport(driver.Transport):
    """Makes the safe consumer."""

    Consumer = SafeConsumer


class DeliveryApp(faust.App):
    """A Faust app whose agents get chunks. Set `report`, `settle` and `releasing` before it starts."""

    chunk_size: int
    commits_first: bool  # each chunk by `commit_first`, none by itself after it is finished
    report: Report
    settle: Callable[[], Awaitable[None]]
    releasing: Callable[[], Awaitable[None]]  # in a rebalance, when what was in hand is settled and not yet committed

    def _create_directories(self) -> None:
        """None: there are no tables to keep."""

    def is_fresh(self, chunk: Chunk) -> bool:
        """Whether the chunk still belongs to this process's assignment."""
        return not self.rebalancing and chunk.generation_id == self.consumer_generation_id


async def ask_broker(bootstrap: str) -> None:
    """Raises ConnectionError while no broker answers: Faust ends the process over that, when it starts."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    try:
        await client.bootstrap()
    except KafkaConnectionError as error:
        raise ConnectionError(str(error)) from error
    finally:
        await client.close()


def ends_of(app: faust.App) -> dict[tuple[str, int], int | None]:
    """The ends of the partitions that this process owns, as its last fetch told; None of one where none has yet."""
    known: dict[tuple[str, int], int | None] = {}
    with contextlib.suppress(ConsumerNotStarted):
        for tp in app.consumer.assignment():
            with contextlib.suppress(AssertionError, AttributeError, KeyError):  # revoked meanwhile, in its own thread
                known[tp.topic, tp.partition] = app.consumer.highwater(tp)
    return known


def tell_rebalances(app: faust.App, rebalanced: Callable[[], None]) -> None:
    """Tell of every assignment that the group gives this process, at the end of each rebalance."""

    async def assigned(*_: Any, **__: Any) -> None:
        rebalanced()

    app.on_partitions_assigned.connect(assigned)


def make_app(group: str, settings: Settings, *, commits_first: bool = False) -> DeliveryApp:
    """A Faust app for a consumer group: raw bytes in, nothing declared, no tables, no web server.

    The group must have committed offsets: where to start is decided once, when the topics are made.
    """
    app = DeliveryApp(
        group,
        broker=f"kafka://{settings.kafka}",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        value_serializer="raw",
        key_serializer="raw",
        broker_max_poll_records=POLL_RECORDS,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.heartbeat_s,
        broker_rebalance_timeout=2 * settings.session_timeout_s,
        broker_commit_interval=COMMIT_EVERY_S,
        consumer_auto_offset_reset="none",  # records that are gone are an error, never skipped in silence
        stream_wait_empty=False,  # `settle` waits, bounded; Faust's own wait has no end
    )
    app.chunk_size = settings.chunk
    app.commits_first = commits_first
    app.transport = SafeTransport(app.conf.broker_consumer, app)
    return app
