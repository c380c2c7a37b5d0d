"""Records read again where an arm first met them: letters that are too large to keep have their value there only."""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from services.domain.messages import Coordinates, RawHeaders

_WAIT_S: Final = 10.0


class Original(msgspec.Struct, frozen=True):
    """A record as it lies on its topic."""

    key: bytes | None
    value: bytes | None
    headers: RawHeaders


def read_originals(bootstrap: str, places: Sequence[Coordinates]) -> dict[Coordinates, Original]:
    """The records at these places; one that the broker no longer has is left out. Blocks.

    Raises KafkaException when the broker does not answer within 10 s.
    """
    if not places:
        return {}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "letters",  # the library asks for one; assign() without commits never uses it
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "log_level": 0,
            "error_cb": lambda _: None,  # errors reach the caller as exceptions
        }
    )
    try:
        found = ((at, _read(consumer, at)) for at in places)
        return {at: original for at, original in found if original is not None}
    finally:
        consumer.close()


def _read(consumer: Any, at: Coordinates) -> Original | None:
    consumer.assign([TopicPartition(at.topic, at.partition, at.offset)])
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if (error := message.error()) is not None:
            if error.code() in _GONE:
                return None
            raise KafkaException(error)
        if message.offset() != at.offset:  # compacted away, or a marker
            return None
        return Original(message.key(), message.value(), message.headers() or [])
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no record came from {at}"))


_GONE: Final = frozenset(
    {KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE,
     KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)  # fmt: skip
