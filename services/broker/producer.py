"""Batches to the broker: acks=all, idempotent, in order; one future a batch, resolved when every record was reported.

A broker outage is waited out (no message time-out): the order is kept, and nothing is reported as failed that may still
arrive.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

# Answers that no repetition changes: the record itself is what is wrong. All others may pass.
REFUSED_FOR_EVER: Final = frozenset(
    {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD", "INVALID_TIMESTAMP"}
)
# A fatal error leaves no way on for this instance of the producer.
_FATAL: Final = frozenset({"_FATAL", "_FENCED"})
_POLL_S: Final = 0.1

Record = tuple[str, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]  # topic, key, value, headers


class Failure(msgspec.Struct, frozen=True, order=True):
    """A record that was not confirmed: its index in the batch and the error's name, as librdkafka has it."""

    index: int
    reason: str

    @property
    def for_ever(self) -> bool:
        """Whether the same record would be refused again."""
        return self.reason in REFUSED_FOR_EVER


Delivery = asyncio.Future[list[Failure]]


def producer_settings(bootstrap: str, client_id: str) -> dict[str, Any]:
    """librdkafka's settings. Batches stay far below the broker's bound: what it refuses for its size was alone."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 2,
        "batch.size": 262_144,
        "message.timeout.ms": 0,
        "topic.metadata.propagation.max.ms": 5_000,  # a topic that is gone is said after so long, and not after 30 s
        "queue.buffering.max.messages": 20_000,
        "queue.buffering.max.kbytes": 131_072,
        "reconnect.backoff.max.ms": 1_000,
        "socket.nagle.disable": True,
    }


class BatchProducer:
    """Sends batches from one event loop; a thread of its own takes the broker's reports."""

    def __init__(self, bootstrap: str, client_id: str, *, make: Callable[..., Any] = Producer) -> None:
        self._settings = producer_settings(bootstrap, client_id)
        self._make = make
        self._broken = False
        self._closed = False
        self._producer = self._instance()
        self._thread = threading.Thread(target=self._poll, name="producer", daemon=True)
        self._thread.start()

    def send(self, records: Sequence[Record]) -> Delivery:
        """Queue a batch in its order; the future gives what was not confirmed (an empty list: all was).

        After a failure that may pass, nothing more of the batch is queued: a later record of its key would overtake it.
        """
        if self._broken:
            self._replace()
        batch = _Batch(asyncio.get_running_loop())
        produce, report, queued = self._producer.produce, batch.report, 0
        for index, (topic, key, value, headers) in enumerate(records):
            try:
                produce(topic, value, key, headers=headers, on_delivery=partial(report, index))
                queued += 1
            except (KafkaException, BufferError) as error:
                failure = Failure(index, _name(error))
                batch.failures.append(failure)
                if failure.reason in _FATAL:
                    self._give_up()
                if not failure.for_ever:
                    batch.failures.extend(Failure(rest, failure.reason) for rest in range(index + 1, len(records)))
                    break
        batch.expect(queued)
        return batch.delivery

    async def broker_answers(self) -> bool:
        """Whether the broker answers a metadata request within 2 s."""
        try:
            await asyncio.to_thread(self._producer.list_topics, timeout=2)
        except KafkaException:
            return False
        return True

    def close(self) -> None:
        """Give up what is still queued and end the thread."""
        self._closed = True
        self._producer.purge()
        self._thread.join()

    def _instance(self) -> Any:
        return self._make({**self._settings, "error_cb": self._on_error}, logger=logging.getLogger("librdkafka"))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.name() in _FATAL:
            self._give_up()

    def _give_up(self) -> None:
        """This instance sends nothing any more: have all that it holds reported, so that no batch waits for ever."""
        self._broken = True
        self._producer.purge()

    def _replace(self) -> None:
        old, self._producer, self._broken = self._producer, self._instance(), False
        old.purge()
        old.flush(1)  # takes the last reports of the other batches that it had

    def _poll(self) -> None:
        while not self._closed:
            self._producer.poll(_POLL_S)


class _Batch:
    """Counts the reports of one batch: `report` runs in the polling thread, all else in the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.delivery: Delivery = loop.create_future()
        self.failures: list[Failure] = []
        self._loop = loop
        self._reported = 0
        self._expected = -1  # not known before the whole batch is queued, when reports already come in

    def report(self, index: int, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self.failures.append(Failure(index, error.name()))
        self._reported += 1
        if self._reported == self._expected:
            self._finish()

    def expect(self, queued: int) -> None:
        self._expected = queued
        if self._reported == queued:  # the last report came before the count: both threads may see it, once is done
            self._finish()

    def _finish(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self.delivery.done():
            self.delivery.set_result(sorted(self.failures))


def _name(error: BaseException) -> str:
    return str(error.args[0].name()) if isinstance(error, KafkaException) else "_QUEUE_FULL"
