"""The broker as the live audit asks it, again and again: clients that are kept, and no consumer group. Blocks."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from services.broker.reader import GroupOffsets, Offsets, Partition, Record
from services.domain.messages import Coordinates

_ANSWER_S: Final = 5.0
_BATCH: Final = 5_000
_DROPPED: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_CLIENT: Final = {"log_level": 0, "error_cb": lambda _: None}  # errors reach the caller as exceptions


class Broker:
    """Where topics begin and end, and what groups have committed."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **_CLIENT})
        self._groups = GroupOffsets(bootstrap, _ANSWER_S)
        self._partitions: dict[str, list[Partition]] = {}

    def ends(self, topics: Iterable[str], *, stable: bool = False) -> Offsets:
        """Where the topics end; with `stable`, where no transaction is open before it. Raises KafkaException."""
        level = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(topics, OffsetSpec.latest(), level)

    def firsts(self, topics: Iterable[str]) -> Offsets:
        """The first offset of the topics that is still there. Raises KafkaException."""
        return self._offsets(topics, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)

    def committed(self, groups: Iterable[str]) -> dict[str, Offsets]:
        """The committed offsets of each group. Raises KafkaException."""
        return self._groups.of(groups)

    def close(self) -> None:
        """Let go of the broker."""
        self._groups.close()

    def _offsets(self, topics: Iterable[str], spec: Any, level: Any) -> Offsets:
        places = [place for topic in topics for place in self._of(topic)]
        if not places:
            return {}
        asked = self._admin.list_offsets(
            {TopicPartition(*p): spec for p in places}, isolation_level=level, request_timeout=_ANSWER_S
        )
        return {(p.topic, p.partition): future.result().offset for p, future in asked.items()}

    def _of(self, topic: str) -> list[Partition]:
        if topic not in self._partitions:
            there = self._admin.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
            if not there:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"there is no topic {topic}"))
            self._partitions[topic] = [(topic, number) for number in there]
        return self._partitions[topic]


class Tail:
    """Reads topics from where they begin, and then what is new, up to ends that were taken before."""

    def __init__(self, bootstrap: str, *, stable: bool = False) -> None:
        self._next: dict[Partition, int] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "auditor",  # the library asks for one; assign() without commits never uses it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed" if stable else "read_uncommitted",
                "auto.offset.reset": "error",  # a record that is gone is said, never skipped
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 500,
                "queued.max.messages.kbytes": 16_384,
                **_CLIENT,
            }
        )

    def is_before(self, ends: Mapping[Partition, int]) -> bool:
        """Whether there is a record below the ends that was not read yet."""
        return any(self._next.get(place, 0) < end for place, end in ends.items())

    def read_to(self, ends: Mapping[Partition, int], firsts: Mapping[Partition, int], most: int) -> Iterator[Record]:
        """The records below the ends that were not read yet, about so many at most; to be iterated to its end.

        Raises KafkaException, also when none comes for 5 s.
        """
        if new := [place for place in ends if place not in self._next]:
            self._next |= {place: firsts.get(place, 0) for place in new}
            starts = [TopicPartition(*p, self._next[p] or OFFSET_BEGINNING) for p in new]
            self._consumer.incremental_assign(starts)
        deadline, taken = time.monotonic() + _ANSWER_S, 0
        while taken < most and self.is_before(ends):
            errors = []
            messages = self._consumer.consume(_BATCH, 0.1)
            taken += len(messages)
            for message in messages:
                deadline = time.monotonic() + _ANSWER_S
                if message.error() is None:
                    yield self._take(message)
                elif (error := self._failed(message)) is not None:
                    errors.append(error)  # the others of the batch come first: nobody hands them out again
            if errors:
                raise KafkaException(errors[0])
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no record came"))

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _failed(self, message: Any) -> KafkaError | None:
        place, error = (message.topic(), message.partition()), message.error()
        # the end of a partition: what lies between the last record and it are markers, and aborted records
        if error.code() == KafkaError._PARTITION_EOF:
            self._next[place] = max(self._next.get(place, 0), message.offset())
            return None
        # the broker has dropped what was to be read next: the next time it is read from where it begins then
        if error.code() in _DROPPED and self._next.pop(place, None) is not None:
            self._consumer.incremental_unassign([TopicPartition(*place)])
        return error

    def _take(self, message: Any) -> Record:
        place = (message.topic(), message.partition())
        offset = message.offset()
        self._next[place] = offset + 1
        headers = [(name, value) for name, value in message.headers() or () if value is not None]
        return Record(Coordinates(*place, offset), headers, message.value(), message.timestamp()[1] / 1000)
