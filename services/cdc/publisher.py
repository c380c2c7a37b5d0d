"""The loop of the arm: rows from the stream to the broker, their position confirmed after the broker confirmed them.

Pipelined: while a batch is with the broker, the next one is read. Never two batches are in flight, so the order of the
commits is kept. Died at any await: the slot begins again where it was confirmed, and what came after is published
again, with the same message ids. When the slot is gone (dropped, or invalidated because it held too much), a new one is
made, and all rows that are kept are published again: those that only the old slot knew of are among them.
"""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg2

from services.bootstrap import Process
from services.broker.producer import BatchProducer, Delivery, Record
from services.broker.publication import NotConfirmed, Unpublishable, publication, refused
from services.broker.publishing import back_off
from services.broker.sends import Sending, Sends
from services.cdc.pgoutput import Inserted
from services.cdc.stream import Batch, Stream, open_stream
from services.domain.messages import KIND_OF_TYPE
from services.failpoints import InjectedError
from services.storage.postgres import AWAY, connect, statements
from services.storage.slots import ensure_slot

LOOK_EVERY_S: Final = 0.5
EMPTY_EVERY_S: Final = 5.0
IDLE_S: Final = 0.5
PING_EVERY_S: Final = 1.0  # below wal_sender_timeout, 4 s
STATEMENT_S: Final = 10.0
SENT: Final = "messaging.client.sent.messages"

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


class Look(msgspec.Struct, frozen=True):
    """Who has confirmed up to `position` has confirmed every transaction that `snapshot` sees."""

    snapshot: str
    position: int


class Sent(msgspec.Struct, frozen=True):
    """Rows that are with the broker, each beside its record; `end`: what is confirmed with them."""

    rows: list[Inserted]
    records: list[Record]
    end: int = 0


class Publisher:
    """Publishes one database's outbox to one topic until `stopping` is set, through every outage."""

    def __init__(
        self, database: str, topic: str, process: Process, producer: BatchProducer, stopping: asyncio.Event
    ) -> None:  # fmt: skip
        self.connected = False
        self._database, self._topic = database, topic
        self._settings, self._log, self._metrics = process.settings, process.log, process.metrics
        self._failpoints = process.failpoints
        self._producer = producer
        self._stopping = stopping
        self._delivery: Delivery | None = None  # outlives a session: the producer never holds two batches
        self._sends = Sends(process.tracer, "cdc")
        self._sending: Sending | None = None
        self._failures = 0  # in a row
        for outcome in ("confirmed", "refused", "failed"):
            self._metrics.add(SENT, 0, topic=topic, outcome=outcome)

    async def run(self) -> None:
        """Connect, publish, connect again."""
        while not self._stopping.is_set():
            try:
                await self._session()
            except (*AWAY, psycopg2.Error, NotConfirmed, InjectedError) as error:  # which one it was: in the log
                self._log.event(
                    "relay.source_lost", level="warning", source=self._database, error=repr(error)[:300]
                )  # fmt: skip
                await back_off(self._stopping, self._failures)
                self._failures += 1
            finally:
                self.connected = False

    async def _session(self) -> None:
        if self._delivery is not None:  # what an earlier session sent: it keeps its place, whatever became of it
            await self._delivery
        connection = await connect(self._settings.postgres, self._database, name=self._settings.process)
        try:
            if await ensure_slot(connection):
                self._log.event("slot.made", level="warning", source=self._database)
            await self._republish(connection)
            stream = await open_stream(self._settings.postgres, self._database, self._settings.process)
            try:
                self.connected = True
                await self._publish(stream, Housekeeping(connection, stream))
            finally:
                stream.close()
        finally:
            connection.terminate()

    async def _republish(self, connection: Any) -> None:
        """Publish every kept row, if the slot was lost. Before the stream: rows that both have come in order, twice."""
        found = await connection.fetchrow(_SQL["to_republish"], timeout=STATEMENT_S)
        if found is None:
            return
        position, last, count = 0, found["last"] or 0, 0
        while rows := await self._kept(connection, position, last):
            await self._settle(connection, await self._send(connection, rows))
            position, count = rows[-1].position, count + len(rows)
        await connection.execute(_SQL["republished"], timeout=STATEMENT_S)
        self._log.event("slot.republished", level="warning", source=self._database, rows=count)

    async def _kept(self, connection: Any, position: int, last: int) -> list[Inserted]:
        limit = self._settings.relay_batch
        rows = await connection.fetch(_SQL["kept"], position, last, limit, timeout=STATEMENT_S)
        return [
            Inserted(p, id_, key.encode(), type_, payload, h.encode(), at)
            for p, id_, key, type_, payload, h, at in rows
        ]

    async def _publish(self, stream: Stream, housekeeping: "Housekeeping") -> None:
        """Read, send, confirm, until `stopping` is set."""
        connection, pending = housekeeping.connection, Sent([], [])
        while not (self._stopping.is_set() and not pending.rows):
            batch = Batch([]) if self._stopping.is_set() else stream.read(self._settings.relay_batch)
            if pending.rows:
                await self._confirmed(stream, connection, pending)
                housekeeping.news = True
            await housekeeping.turn()
            pending = await self._send(connection, batch.rows, batch.end)
            if not pending.rows:
                if batch.end:
                    stream.confirm(batch.end)
                else:
                    stream.confirm_idle()
                    await stream.wait(IDLE_S)

    async def _send(self, connection: Any, rows: list[Inserted], end: int = 0) -> "Sent":
        """Give the rows to the broker; one from which no record can be made is set aside."""
        sent = Sent([], [], end)
        for row in rows:
            topic = self._topic if row.type in KIND_OF_TYPE else None
            try:
                sent.records.append(publication(topic, *row[1:]))
                sent.rows.append(row)
            except Unpublishable as error:
                await self._set_aside(connection, row, error.reason)
        if sent.rows:
            await self._failpoints.hit("publish.after_fetch")
            self._sending = self._sends.begin(sent.records)
            self._delivery = self._producer.send(sent.records)
        return sent

    async def _confirmed(self, stream: Stream, connection: Any, sent: "Sent") -> None:
        """Wait for the broker, through its outages with the stream kept; then confirm the position."""
        while self._delivery is not None and not self._delivery.done():
            await asyncio.wait([self._delivery], timeout=PING_EVERY_S)
            stream.ping()
        await self._settle(connection, sent)
        await self._failpoints.hit("publish.after_produce_before_confirm")
        if sent.end:
            stream.confirm(sent.end)

    async def _settle(self, connection: Any, sent: "Sent") -> None:
        """Every row is published, or set aside. Raises NotConfirmed when they are to be published again."""
        failures = await self._delivery if self._delivery is not None else []
        self._delivery = None
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
        self._failures = 0

    async def _set_aside(self, connection: Any, row: Inserted, reason: str) -> None:
        await connection.execute(_SQL["set_aside"], row.position, reason, timeout=STATEMENT_S)
        fields = {"source": self._database, "position": row.position, "reason": reason}
        self._log.event("relay.set_aside", level="error", **fields)
        self._metrics.add(SENT, 1, topic=self._topic, outcome="refused")


class Housekeeping:
    """Writes down which rows are confirmed, and removes them."""

    def __init__(self, connection: Any, stream: Stream) -> None:
        self.connection = connection
        self.news = True  # rows were confirmed after the last look; at the start, perhaps by an earlier life
        self._stream = stream
        self._look: Look | None = None  # what is to be written when its position is confirmed
        self._look_at = 0.0
        self._empty_at = 0.0

    async def turn(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._look is not None and self._stream.confirmed >= self._look.position:
            await self.connection.execute(_SQL["confirmed"], self._look.snapshot, timeout=STATEMENT_S)
            self._look = None
        if self._look is None and self.news and now >= self._look_at:
            self._look_at, self.news = now + LOOK_EVERY_S, False
            self._look = Look(*await self.connection.fetchrow(_SQL["look"], timeout=STATEMENT_S))
        if now >= self._empty_at:
            self._empty_at = now + EMPTY_EVERY_S
            await self.connection.execute(_SQL["empty"], timeout=STATEMENT_S)
