"""A process that publishes one outbox: its loop, but for how an arm reads; readiness, an end in good order."""

import asyncio
import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from services.bootstrap import Process
from services.broker.producer import BatchProducer, Delivery, Record
from services.broker.publication import NotConfirmed, Unpublishable, publication, record_delay, refused
from services.broker.sends import Sending, Sends
from services.domain.messages import KIND_OF_TYPE
from services.failpoints import InjectedError
from services.storage.postgres import AWAY, connect
from services.telemetry.admin import serve_admin

STOP_TIMEOUT_S: Final = 3.0
BROKER_RETRY_S: Final = 0.2
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
STATEMENT_S: Final = 10.0
SENT: Final = "messaging.client.sent.messages"

Row = tuple[
    int, UUID, bytes, str, bytes, str | bytes, datetime
]  # position, message id, key, type, payload, headers, time
_TYPE: Final = 3


class Sent(msgspec.Struct, frozen=True):
    """Rows that are with the broker, each beside its record; `end`: what is confirmed with them."""

    rows: list[Row]
    records: list[Record]
    end: int = 0


class Publisher(ABC):
    """Publishes one database's outbox to one topic until `stopping` is set, through every outage.

    An arm says how it comes to its rows, and how it remembers what was published. Its statement `set_aside` keeps a row
    that can never be published.
    """

    arm: ClassVar[str]
    sql: ClassVar[Mapping[str, str]]
    away: ClassVar[tuple[type[BaseException], ...]] = (*AWAY, NotConfirmed, InjectedError)

    def __init__(
        self, database: str, topic: str, process: Process, producer: BatchProducer, stopping: asyncio.Event
    ) -> None:  # fmt: skip
        self.connected = False  # to the database
        self.database, self.settings, self.log = database, process.settings, process.log
        self.failpoints, self.stopping = process.failpoints, stopping
        self.delivery: Delivery | None = None  # outlives a session: the producer never holds two batches
        self._topic, self._metrics, self._producer = topic, process.metrics, producer
        self._sends = Sends(process.tracer, self.arm)
        self._sending: Sending | None = None
        self._failures = 0  # in a row
        for outcome in ("confirmed", "refused", "failed"):
            self._metrics.add(SENT, 0, topic=topic, outcome=outcome)

    @abstractmethod
    async def publish(self, connection: Any) -> None:
        """Publish until `stopping` is set; `connected` says whether rows can be seen."""

    async def run(self) -> None:
        """Connect, publish, connect again."""
        while not self.stopping.is_set():
            try:
                await self._session()
            except self.away as error:  # which one it was: in the log
                self.log.event(
                    "relay.source_lost", level="warning", source=self.database, error=repr(error)[:300]
                )  # fmt: skip
                await _back_off(self.stopping, self._failures)
                self._failures += 1
            finally:
                self.connected = False

    async def _session(self) -> None:
        if self.delivery is not None:  # what an earlier session sent: it keeps its place, whatever became of it
            await self.delivery
        connection = await connect(self.settings.postgres, self.database, name=self.settings.process)
        try:
            await self.publish(connection)
        finally:
            connection.terminate()

    async def send(self, connection: Any, rows: Sequence[Row], end: int = 0) -> Sent:
        """Give the rows to the broker; one from which no record can be made is set aside."""
        sent = Sent([], [], end)
        for row in rows:
            topic = self._topic if row[_TYPE] in KIND_OF_TYPE else None
            try:
                sent.records.append(publication(topic, *row[1:]))
                sent.rows.append(row)
            except Unpublishable as error:
                await self._set_aside(connection, row, error.reason)
        if sent.rows:
            await self.failpoints.hit("publish.after_fetch")
            self._sending = self._sends.begin(sent.records)
            self.delivery = self._producer.send(sent.records)
        return sent

    async def settle(self, connection: Any, sent: Sent) -> None:
        """Every row is published, or set aside. Raises NotConfirmed when they are to be published again."""
        failures = await self.delivery if self.delivery is not None else []
        self.delivery = None
        self._sends.end(self._sending, {failure.index: failure.reason for failure in failures})
        self._sending = None
        try:
            gone = await refused(self._producer, sent.records, failures)
        except NotConfirmed:
            self._metrics.add(SENT, len(sent.rows), topic=self._topic, outcome="failed")
            raise
        for index, reason in gone.items():
            await self._set_aside(connection, sent.rows[index], reason)
        self._metrics.add(SENT, len(sent.rows) - len(gone), topic=self._topic, outcome="confirmed")
        record_delay(self._metrics, self.arm, sent.records)
        self._failures = 0

    async def _set_aside(self, connection: Any, row: Row, reason: str) -> None:
        position = row[0]
        await connection.execute(self.sql["set_aside"], position, reason, timeout=STATEMENT_S)
        fields = {"source": self.database, "position": position, "reason": reason}
        self.log.event("relay.set_aside", level="error", **fields)
        self._metrics.add(SENT, 1, topic=self._topic, outcome="refused")


async def run_publisher(process: Process, make: Callable[[BatchProducer, asyncio.Event], Publisher]) -> None:
    """Publish until SIGTERM or SIGINT; then what is in flight has 3 s to be confirmed. `make` is given the stop event.

    An error of the loop is raised, so that the supervisor starts a new life.
    """
    settings, stopping = process.settings, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    producer = BatchProducer(settings.kafka, settings.process)
    publisher = make(producer, stopping)
    broker = asyncio.create_task(_until_broker_answers(producer))

    def ready() -> str:
        return "waits for the database" if not publisher.connected else "" if broker.done() else "waits for the broker"

    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, ready)
    loop, signalled = asyncio.create_task(publisher.run()), asyncio.create_task(stopping.wait())
    await asyncio.wait([loop, signalled], return_when=asyncio.FIRST_COMPLETED)
    process.log.event("process.stopping")
    try:
        await asyncio.wait_for(loop, STOP_TIMEOUT_S)
    except TimeoutError:
        return  # what is in flight comes again in the next life
    finally:
        broker.cancel()
        await asyncio.gather(broker, return_exceptions=True)
        producer.close()
        await admin.cleanup()


async def _back_off(stopping: asyncio.Event, failures: int) -> None:
    """Wait longer the more failures in a row there were, 2 s at most; less when it is time to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), min(FIRST_DELAY_S * 2 ** min(failures, 10), LONGEST_DELAY_S))


async def _until_broker_answers(producer: BatchProducer) -> None:
    while not await producer.broker_answers():  # noqa: ASYNC110  # a look that fails has waited 2 s already
        await asyncio.sleep(BROKER_RETRY_S)
