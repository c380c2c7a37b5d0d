"""When records become readable: a reader without a group, in a thread of its own."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from confluent_kafka import Consumer, TopicPartition

from services.broker.reader import bounds


class Arrivals:
    """Reads partitions from their present ends on, while it is entered."""

    def __init__(self, kafka: str, partitions: Sequence[TopicPartition]) -> None:
        self.at: dict[str, float] = {}  # the first (monotonic) time of each message id
        self._stopping = False
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka,
                "group.id": "bench",  # the library asks for one; assign() without commits never uses it
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        ends = bounds(kafka, {p.topic for p in partitions}).ends
        self._starts = [TopicPartition(p.topic, p.partition, ends[p.topic, p.partition]) for p in partitions]
        self._thread = threading.Thread(target=self._read, name="arrivals", daemon=True)

    def __enter__(self) -> "Arrivals":
        self._consumer.assign(self._starts)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        self._consumer.close()

    def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many have arrived, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while len(self.at) < count and time.monotonic() < deadline:
            time.sleep(0.05)

    def _read(self) -> None:
        while not self._stopping:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                now = time.monotonic()
                ids = [value for name, value in message.headers() if name == "ce_id"]
                self.at.setdefault(ids[0].decode(), now)
