"""The copy: a batch of records and the position behind it are one Kafka transaction, or nothing.

Died anywhere: the transaction under way is aborted (at once when the replay is resumed, after 10 s otherwise), and the
replay goes on behind the last one that was committed. A second process with the same id fences the first one.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from services.domain.forwarding import Forwarding, forwarded
from services.domain.messages import Coordinates
from services.replay.plan import Plan, Positions, check_same, known, offsets_of

BATCH: Final = 500
_WAIT_S: Final = 15.0
TRANSACTION_MS: Final = 10_000  # readers of committed records wait so long for a copy that died
# The broker's own bound on a batch: a producer's largest record (1,000,000 bytes) has room for the lab's headers.
_LARGEST_BYTES: Final = 1_048_588
_QUIET: Final = {"log_level": 0, "error_cb": lambda _: None}  # errors reach the caller as exceptions


class Passing(Protocol):
    """What passes failpoints."""

    def hit_blocking(self, name: str) -> None: ...


def copy(bootstrap: str, plan: Plan, failpoints: Passing, tell: Callable[[int], None]) -> int:
    """Copy what is left of a plan; `tell` hears after each batch how many records this call has copied. Returns them.

    Raises KafkaException, and WindowError when the id has another window; what is committed stays, and the next call
    goes on from there.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "transactional.id": plan.group,
            "transaction.timeout.ms": TRANSACTION_MS,
            "message.max.bytes": _LARGEST_BYTES,
            **_QUIET,
        }
    )
    producer.init_transactions(_WAIT_S)  # fences and aborts another life of this replay
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": plan.group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",  # a record that is gone is said, never skipped
            "enable.partition.eof": True,
            **_QUIET,
        }
    )
    try:
        found = known(bootstrap, plan.id)
        if found is None:
            positions = {span.partition: span.first for span in plan.spans}
            _commit(producer, consumer, plan, positions)  # from here on the window is fixed
        else:
            positions = found[1]
            check_same(found[0], plan)
        return _Copy(plan, positions, producer, consumer).carry_out(failpoints, tell)
    finally:
        consumer.close()


class _Copy:
    """One life of a replay."""

    def __init__(self, plan: Plan, positions: Positions, producer: Any, consumer: Any) -> None:
        self._plan = plan
        self._positions = positions
        self._lasts = {span.partition: span.last for span in plan.spans}
        self._open = {partition for partition, last in self._lasts.items() if positions[partition] <= last}
        self._producer = producer
        self._consumer = consumer
        consumer.assign([TopicPartition(plan.topic, p, positions[p]) for p in self._open])

    def carry_out(self, failpoints: Passing, tell: Callable[[int], None]) -> int:
        copied = 0
        while self._open:
            records = self._read()
            try:
                self._producer.begin_transaction()
                for record in records:
                    self._produce(record)
                failpoints.hit_blocking("replay.half_way")
                _send_offsets(self._producer, self._consumer, self._plan, self._positions)
                self._producer.commit_transaction(_WAIT_S)
            except BaseException:
                with contextlib.suppress(KafkaException):
                    self._producer.abort_transaction(_WAIT_S)
                raise
            copied += len(records)
            tell(copied)
        return copied

    def _read(self) -> list[Any]:
        """The next records of the window; an empty list only when a partition came to its end without one."""
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            before = len(self._open)
            records = [message for message in self._consumer.consume(BATCH, 0.1) if self._take(message)]
            if records or len(self._open) < before:
                return records
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no record came from {self._plan.topic}"))

    def _take(self, message: Any) -> bool:
        """Note a record's position; whether it is in the window."""
        partition, offset, error = message.partition(), message.offset(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        last = self._lasts[partition]
        if partition not in self._open or (error is not None and offset <= last):
            return False  # its end for now: an open transaction is waited for
        wanted = error is None and offset <= last
        self._positions[partition] = min(offset, last) + 1
        if offset >= last:
            self._open.discard(partition)
            self._consumer.incremental_unassign([TopicPartition(self._plan.topic, partition)])
        return wanted

    def _produce(self, message: Any) -> None:
        at = Coordinates(message.topic(), message.partition(), message.offset())
        station = Forwarding(origin=at, via="replay", operation=self._plan.id)
        headers: Sequence[tuple[str, bytes | None]] = message.headers() or []
        self._producer.produce(
            self._plan.target, message.value(), message.key(), headers=forwarded(headers, station)
        )  # fmt: skip


def _commit(producer: Any, consumer: Any, plan: Plan, positions: Positions) -> None:
    producer.begin_transaction()
    _send_offsets(producer, consumer, plan, positions)
    producer.commit_transaction(_WAIT_S)


def _send_offsets(producer: Any, consumer: Any, plan: Plan, positions: Positions) -> None:
    producer.send_offsets_to_transaction(offsets_of(plan, positions), consumer.consumer_group_metadata(), _WAIT_S)
