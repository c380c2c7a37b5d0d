"""What the broker says: where topics begin and end, what groups have committed, when a record came. Blocks."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from services.broker.reader import GroupOffsets
from services.probe.lag import Offsets, Partition, Place, Topics, rounds

ANSWER_S: Final = 2.0
READ_S: Final = 1.0  # for all the records of one look
_CLIENT: Final = {"log_level": 0, "error_cb": lambda _: None}  # errors reach the caller as exceptions


class Broker:
    """Clients for topics, records and groups, kept: to connect anew each second costs more than the looks."""

    def __init__(self, bootstrap: str, partitions: Mapping[str, int]) -> None:
        self._groups = GroupOffsets(bootstrap, ANSWER_S)
        self._partitions = [(topic, number) for topic, many in partitions.items() for number in range(many)]
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **_CLIENT})
        self._reader = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "probe",  # the library asks for one; assign() without commits never uses it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 1024,  # the broker sends at least one batch, and no more is wanted
                "queued.max.messages.kbytes": 1024,
                **_CLIENT,
            }
        )
        self._times: dict[Place, float] = {}  # of records that were wanted last

    def topics(self) -> Topics:
        """Where all topics begin and end now. Raises KafkaException when the broker does not answer in time."""
        return Topics(self._offsets(OffsetSpec.earliest()), self._offsets(OffsetSpec.latest()))

    def committed(self, groups: Sequence[str]) -> dict[str, Offsets]:
        """The committed offsets of each group. Raises KafkaException when the broker does not answer in time."""
        return self._groups.of(groups)

    def times(self, wanted: Iterable[Place]) -> Mapping[Place, float]:
        """The broker's time of records, Unix seconds; one that could not be read in time is left out.

        What was read is remembered while it is wanted: of a group that stands still nothing is read twice.
        """
        places = set(wanted)
        self._times = {place: at for place, at in self._times.items() if place in places}
        deadline = time.monotonic() + READ_S
        for one in rounds(places - self._times.keys()):
            self._read(one, deadline)
        return self._times

    def close(self) -> None:
        """Let go of the broker."""
        self._reader.close()
        self._groups.close()

    def _read(self, starts: Mapping[Partition, int], deadline: float) -> None:
        """The first record from each start on: where that one is gone, the next that is there stands for it."""
        self._reader.assign([TopicPartition(*partition, offset) for partition, offset in starts.items()])
        missing = dict(starts)
        while missing and (left_s := deadline - time.monotonic()) > 0:
            for message in self._reader.consume(len(missing), min(0.1, left_s)):
                partition = (message.topic(), message.partition())
                if message.error() is None and (start := missing.pop(partition, None)) is not None:
                    self._times[(*partition, start)] = message.timestamp()[1] / 1000
                    self._reader.incremental_unassign([TopicPartition(*partition)])
        self._reader.unassign()

    def _offsets(self, spec: Any) -> Offsets:
        asked = self._admin.list_offsets(
            {TopicPartition(*partition): spec for partition in self._partitions}, request_timeout=ANSWER_S
        )
        return {(p.topic, p.partition): future.result().offset for p, future in asked.items()}


AWAY: Final = (KafkaException,)
