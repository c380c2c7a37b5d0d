"""Reading Kafka without being anybody's consumer: no group is joined, nothing is committed."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from services.broker.passing import patiently
from services.domain.messages import Coordinates, Headers

Partition = tuple[str, int]
Offsets = Mapping[Partition, int]

_WAIT_S: Final = 10.0
_BATCH: Final = 5_000
_ARRIVING_S: Final = 0.02  # what has come by then is taken, however little it is
_CLIENT: Final = {
    "log_level": 0,
    "error_cb": lambda _: None,  # errors reach the caller as exceptions
    "enable.sparse.connections": False,  # true: every client's first question waits for 50 ms
}


class Record(msgspec.Struct, frozen=True):
    """What a topic says of a record."""

    at: Coordinates
    headers: Headers  # those that have a value
    value: bytes | None = None
    time: float = 0.0  # Unix seconds: when it was produced


class Bounds(msgspec.Struct, frozen=True):
    """Of each partition: the first offset that is still there, and the one after the last."""

    firsts: Offsets
    ends: Offsets


def bounds(bootstrap: str, topics: Iterable[str], *, stable: bool = False) -> Bounds:
    """Where the topics begin and end: at the high watermark (open transactions are within), or where it is `stable`,
    before the first open transaction.

    Raises KafkaException when the broker does not answer within 10 s or a topic is missing.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, **_CLIENT})
    there = admin.list_topics(timeout=_WAIT_S).topics
    if missing := sorted(set(topics) - set(there)):
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"there is no topic {missing[0]}"))
    partitions = [(topic, number) for topic in topics for number in there[topic].partitions]
    level = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
    firsts = _offsets(admin, partitions, OffsetSpec.earliest(), level)
    return Bounds(firsts, _offsets(admin, partitions, OffsetSpec.latest(), level))


def _offsets(admin: Any, partitions: Iterable[Partition], spec: Any, level: Any) -> Offsets:
    """A broker that has just come back says for a moment that it leads nothing: it is asked again."""
    wanted = {TopicPartition(*p): spec for p in partitions}

    def now() -> Offsets:
        asked = admin.list_offsets(wanted, isolation_level=level, request_timeout=_WAIT_S)
        return {(p.topic, p.partition): future.result().offset for p, future in asked.items()}

    return patiently(now, _WAIT_S)


def committed(bootstrap: str, group: str) -> Offsets:
    """The group's committed offsets; partitions without one are left out.

    Raises KafkaException when the broker does not answer within 10 s.
    """
    with closing(GroupOffsets(bootstrap, _WAIT_S)) as offsets:
        return offsets.of([group])[group]


class GroupOffsets:
    """Asks what groups have committed, by consumers that are kept and never join.

    The admin client's request for it ends the whole process: by an assertion when the broker dies meanwhile (librdkafka
    #3663, #4605), by SIGSEGV when the broker has just become another coordinator (confluent-kafka-javascript #374).

    `stable`: wait until no transaction has offsets that are not decided yet (KIP-447).
    """

    def __init__(self, bootstrap: str, timeout_s: float, *, stable: bool = False) -> None:
        self._bootstrap, self._timeout_s = bootstrap, timeout_s
        self._isolation = "read_committed" if stable else "read_uncommitted"
        self._consumers: dict[str, Any] = {}

    def of(self, groups: Iterable[str]) -> dict[str, Offsets]:
        """By group; partitions without a commit are left out. Raises KafkaException when no answer comes in time."""
        return {group: {(p.topic, p.partition): p.offset for p in self.commits(group)} for group in groups}

    def commits(self, group: str) -> list[Any]:
        """The TopicPartitions that the group has committed, with offset and metadata. Raises like `of`."""
        consumer = self._consumer(group)
        there = consumer.list_topics(timeout=self._timeout_s).topics
        asked = [TopicPartition(topic, number) for topic in there for number in there[topic].partitions]
        answer = consumer.committed(asked, timeout=self._timeout_s)
        if errors := [p.error for p in answer if p.error is not None]:
            raise KafkaException(errors[0])
        return [p for p in answer if p.offset >= 0]

    def close(self) -> None:
        """Let go of the broker."""
        for consumer in self._consumers.values():
            consumer.close()

    def _consumer(self, group: str) -> Any:
        if group not in self._consumers:
            self._consumers[group] = Consumer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "group.id": group,
                    "enable.auto.commit": False,
                    "isolation.level": self._isolation,
                    **_CLIENT,
                }
            )
        return self._consumers[group]


def records_between(bootstrap: str, starts: Offsets, ends: Offsets, *, stable: bool = False) -> Iterator[Record]:
    """What TopicReader reads; where there is nothing to read the broker is not asked. Blocks."""
    if not any(starts.get(partition, 0) < end for partition, end in ends.items()):
        return
    reader = TopicReader(bootstrap, starts, ends, stable=stable)
    try:
        while records := reader.read():
            yield from records
    finally:
        reader.close()


def records_at(bootstrap: str, places: Iterable[Coordinates]) -> dict[Coordinates, Record]:
    """The records that lie there, as far as they are still there. Blocks; for a few hundred at most.

    Raises KafkaException when the broker does not answer within 10 s.
    """
    found: dict[Coordinates, Record] = {}
    waiting: dict[Partition, list[int]] = {}
    for at in sorted(set(places), reverse=True):
        waiting.setdefault((at.topic, at.partition), []).append(at.offset)
    limits = bounds(bootstrap, {topic for topic, _ in waiting}) if waiting else Bounds({}, {})
    while waiting:
        starts = {partition: offsets.pop() for partition, offsets in waiting.items()}
        waiting = {partition: offsets for partition, offsets in waiting.items() if offsets}
        there = {p: at for p, at in starts.items() if limits.firsts.get(p, 0) <= at < limits.ends.get(p, 0)}
        ends = {partition: at + 1 for partition, at in there.items()}
        found |= {record.at: record for record in records_between(bootstrap, there, ends)}
    return found


class TopicReader:
    """Reads partitions from their starts (without one: from where they begin) up to ends that were taken before.

    Uncommitted and aborted records are included; with `stable` they are not, and the ends must be stable ones.
    """

    def __init__(self, bootstrap: str, starts: Offsets, ends: Offsets, *, stable: bool = False) -> None:
        self._ends = {p: end for p, end in ends.items() if starts.get(p, 0) < end}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "reader",  # the library asks for one; assign() without commits never uses it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed" if stable else "read_uncommitted",
                "auto.offset.reset": "error",  # a record that is gone is said, never skipped
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
                **_CLIENT,
            }
        )
        if self._ends.keys() - starts.keys():
            # librdkafka asks half a second later where a partition begins when it does not know yet whom to ask
            self._consumer.list_topics(timeout=_WAIT_S)
        self._consumer.assign([TopicPartition(*p, starts.get(p, OFFSET_BEGINNING)) for p in self._ends])

    def read(self) -> list[Record]:
        """The next records, in order within a partition; an empty list once every end is reached. Blocks.

        Raises KafkaException on an error of the broker, and when nothing came for 10 s.
        """
        deadline = time.monotonic() + _WAIT_S
        while self._ends:
            if records := [r for m in self._consumer.consume(_BATCH, _ARRIVING_S) if (r := self._take(m))]:
                return records
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no record came"))
        return []

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _take(self, message: Any) -> Record | None:
        partition = (message.topic(), message.partition())
        error = message.error()
        if error is not None:
            # the end of the partition: what lies between the last record and it are markers, and aborted records
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            self._finish(partition)
            return None
        offset = message.offset()
        end = self._ends.get(partition, 0)
        if offset + 1 >= end:
            self._finish(partition)
        if offset >= end:
            return None
        headers = [(name, value) for name, value in message.headers() or () if value is not None]
        return Record(Coordinates(*partition, offset), headers, message.value(), message.timestamp()[1] / 1000)

    def _finish(self, partition: Partition) -> None:
        if self._ends.pop(partition, None) is not None:
            self._consumer.incremental_unassign([TopicPartition(*partition)])
