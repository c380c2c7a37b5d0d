"""What a broker says for a moment, and is asked again for: it has just started, or has just made a topic."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")
_PAUSE_S: Final = 0.2
# Not all of these are marked as retriable.
_PASSING: Final = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)


def patiently(work: Callable[[], T], within_s: float) -> T:
    """Do it again when it fails in a way that passes; repeats must be harmless. Blocks.

    Raises KafkaException when it still does after `within_s`, or at once when that does not pass.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            return work()
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].code() not in _PASSING:
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
