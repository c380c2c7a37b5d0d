"""What tests of replays share: a topic to copy from and one to copy to; as a program, a replay that may die."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from services.replay.copying import copy
from services.replay.plan import Plan
from services.replay.window import Span


class Free:
    """Failpoints that nobody armed."""

    def hit_blocking(self, name: str) -> None: ...


class Deadly:
    """Dies, as by SIGKILL, at the pass of this number."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def hit_blocking(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Bench(msgspec.Struct, frozen=True):
    """Two partitions to copy from, one to copy to."""

    kafka: str
    topic: str
    target: str

    def plan(self, *spans: tuple[int, int, int]) -> Plan:
        chosen = tuple(Span(*span) for span in spans)
        return Plan(
            id=self.topic, arm="effectively_once", topic=self.topic, target=self.target,
            asked=str(spans), spans=chosen,
        )  # fmt: skip

    def fill(self, count: int, partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.kafka})
        for n in range(count):
            producer.produce(self.topic, b"%d" % n, b"k", partition, headers=[("ce_id", b"%d" % n)])
        assert producer.flush(20) == 0

    def copied(self) -> list[Any]:
        """What a reader of committed records finds, once no transaction is open any more."""
        consumer = Consumer(
            {"bootstrap.servers": self.kafka, "group.id": f"t-{uuid4()}", "isolation.level": "read_committed",
             "enable.partition.eof": True, "enable.auto.commit": False}
        )  # fmt: skip
        try:
            _, end = consumer.get_watermark_offsets(TopicPartition(self.target, 0), timeout=10)
            consumer.assign([TopicPartition(self.target, 0, 0)])
            found, deadline = [], time.monotonic() + 30
            while time.monotonic() < deadline:
                for message in consumer.consume(500, 0.2):
                    if message.error() is None:
                        found.append(message)
                    elif message.offset() >= end:  # the end of what is committed is the end of the topic
                        return found
            raise AssertionError("a transaction stays open")
        finally:
            consumer.close()


@contextlib.contextmanager
def bench(kafka: str) -> Iterator[Bench]:
    """Topics of a test's own, deleted afterwards."""
    name, admin = f"replaying.{uuid4().hex[:8]}", AdminClient({"bootstrap.servers": kafka})
    made = Bench(kafka, name, f"{name}.redelivery")
    for future in admin.create_topics([NewTopic(made.topic, 2, 1), NewTopic(made.target, 1, 1)]).values():
        future.result()
    try:
        yield made
    finally:
        for future in admin.delete_topics([made.topic, made.target]).values():
            future.result()
        with contextlib.suppress(KafkaException):  # a test without a replay
            admin.delete_consumer_groups([made.plan().group])[made.plan().group].result()


if __name__ == "__main__":
    bootstrap, plan, nth = sys.argv[1:]
    copy(bootstrap, msgspec.json.decode(plan, type=Plan), Deadly(int(nth)), lambda _: None)
