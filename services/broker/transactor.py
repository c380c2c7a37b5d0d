"""A consumer and a producer whose output and offsets become true together (KIP-98, KIP-447). librdkafka; blocks.

The producer's transactional id is stable for a replica: its next life aborts at once what it left open. What another
replica left open, the broker aborts when the transaction's time is over.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from services.broker.producer import Failure, Record
from services.domain.messages import RawHeaders
from services.settings import Settings

ANSWER_S: Final = 20.0  # waited for the broker; longer than its restart takes
OPENED_S: Final = 5.0  # waited for the acknowledgement of records that are given up
FETCH_WAIT_S: Final = 0.2
EXPIRES: Final = 1.5  # session time-outs until the broker aborts a transaction: as long nobody takes over its offsets
_FENCED: Final = frozenset({"_FATAL", "_FENCED"})


class Fenced(Exception):
    """Nothing more can come of this producer: another took its place, or its transaction cannot even be aborted."""


class Aborted(Exception):
    """The transaction failed; `abort` comes next. The text says why."""


class Fetched(msgspec.Struct, frozen=True):
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders


class Transactor:
    """Reads batches, and sends them on in transactions. All methods block, and are called by one thread at a time.

    Each raises Aborted, or Fenced; then the process has to end.
    """

    def __init__(
        self, group: str, topics: Sequence[str], settings: Settings, releasing: Callable[[], None],
        rebalanced: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.assigned = False
        self._releasing = releasing
        self._rebalanced = rebalanced
        self.expires_s = EXPIRES * settings.session_timeout_s
        self.moved = False  # the assignment changed within the last fetch
        log = logging.getLogger("librdkafka")
        self._consumer = Consumer(_consumer_settings(group, settings), logger=log)
        self._producer = Producer(_producer_settings(settings, self.expires_s), logger=log)
        self._producer.init_transactions(ANSWER_S)
        self._consumer.subscribe(list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke)

    def fetch(self, most: int) -> list[Fetched]:
        """The next records, none if none came within FETCH_WAIT_S; no transaction may be open.

        Raises KafkaException when the broker says what is no passing thing.
        """
        self.moved = False
        messages = self._consumer.consume(most, FETCH_WAIT_S)
        for message in messages:
            error = message.error()
            if error is not None and not error.retriable():
                raise KafkaException(error)
        if self.moved and messages:
            self._rewind()  # some may be of partitions that are gone: they are others' now
            return []
        return [_fetched(message) for message in messages if message.error() is None]

    def begin(self) -> None:
        """Begin a transaction."""
        self._try(self._producer.begin_transaction)

    def produce(self, records: Sequence[Record]) -> list[Failure]:
        """Add records to the transaction; returns those that are refused before they are sent (too large, mostly)."""
        refused = []
        for index, (topic, key, value, headers) in enumerate(records):
            try:
                self._producer.produce(topic, value, key, headers=list(headers))
            except BufferError:
                raise Aborted("the producer's queue is full") from None
            except KafkaException as error:
                failure = Failure(index, str(error.args[0].name()))
                if not failure.for_ever:
                    raise self._failed(error) from error
                refused.append(failure)
        return refused

    def send_offsets(self, batch: Sequence[Fetched]) -> None:
        """Add the positions behind the batch. A process that is no member any more fails here."""
        ends = {(record.topic, record.partition): record.offset + 1 for record in batch}
        positions = [TopicPartition(*partition, offset) for partition, offset in ends.items()]
        metadata = self._consumer.consumer_group_metadata()
        self._try(partial(self._producer.send_offsets_to_transaction, positions, metadata, ANSWER_S))

    def commit(self) -> None:
        """Make output and offsets true."""
        self._try(partial(self._producer.commit_transaction, ANSWER_S))

    def abort(self) -> None:
        """Give the transaction up and go back to the committed positions."""
        # EndTxn can overtake the AddPartitionsToTxn that opens the transaction at the broker, and is then fatal
        # (librdkafka issue 4849): what was acknowledged shows that it is open
        self._producer.flush(OPENED_S)
        try:
            self._producer.abort_transaction(ANSWER_S)
        except KafkaException as error:
            raise Fenced(f"the transaction cannot be aborted: {error.args[0].str()}") from error
        self._rewind()

    def ends(self) -> dict[tuple[str, int], int | None]:
        """The ends of the partitions that this process owns, as last heard; None of one where nothing was heard yet.

        This one may be called by another thread.
        """
        known: dict[tuple[str, int], int | None] = {}
        with contextlib.suppress(KafkaException, RuntimeError):  # it is closed
            for partition in self._consumer.assignment():
                bounds = self._consumer.get_watermark_offsets(partition, cached=True)
                known[partition.topic, partition.partition] = bounds[1] if bounds and bounds[1] >= 0 else None
        return known

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _rewind(self) -> None:
        partitions = self._consumer.assignment()
        positions = self._consumer.committed(partitions, ANSWER_S) if partitions else []
        for position in positions:
            if position.error is not None:
                raise KafkaException(position.error)
        if positions:
            self._consumer.assign(positions)

    def _try(self, work: Any) -> None:
        try:
            work()
        except KafkaException as error:
            raise self._failed(error) from error

    def _failed(self, error: KafkaException) -> Exception:
        kafka = error.args[0]
        text = f"{kafka.name()}: {kafka.str()}"
        # a fenced producer says so by its code: the flag is not set
        return Fenced(text) if kafka.fatal() or kafka.name() in _FENCED else Aborted(text)

    def _on_assign(self, *_: Any) -> None:
        self.moved = self.assigned = True
        self._rebalanced()

    def _on_revoke(self, *_: Any) -> None:
        self.moved, self.assigned = True, False
        self._releasing()


def _consumer_settings(group: str, settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka,
        "client.id": settings.process,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",  # where to start is decided once, when the topics are made
        "isolation.level": "read_committed",
        "session.timeout.ms": int(settings.session_timeout_s * 1000),
        "heartbeat.interval.ms": int(settings.heartbeat_s * 1000),
        "queued.max.messages.kbytes": 16_384,
        "reconnect.backoff.max.ms": 1_000,
    }


def _producer_settings(settings: Settings, expires_s: float) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.kafka,
        "client.id": settings.process,
        "transactional.id": f"payments.{settings.process}",
        "transaction.timeout.ms": int(expires_s * 1000),
        "linger.ms": 2,
        "reconnect.backoff.max.ms": 1_000,
    }


def _fetched(message: Any) -> Fetched:
    return Fetched(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers() or (),
    )
