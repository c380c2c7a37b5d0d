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

from services.broker.publishing import STATEMENT_S, Publisher, Sent
from services.cdc.pgoutput import Inserted
from services.cdc.stream import Batch, Stream, open_stream
from services.storage.postgres import statements
from services.storage.slots import ensure_slot

LOOK_EVERY_S: Final = 0.5
EMPTY_EVERY_S: Final = 5.0
IDLE_S: Final = 0.5
PING_EVERY_S: Final = 1.0  # below wal_sender_timeout, 4 s

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


class Look(msgspec.Struct, frozen=True):
    """Who has confirmed up to `position` has confirmed every transaction that `snapshot` sees."""

    snapshot: str
    position: int


class CdcPublisher(Publisher):
    """Reads the rows from the replication stream."""

    arm = "cdc"
    sql = _SQL
    away = (*Publisher.away, psycopg2.Error)

    async def publish(self, connection: Any) -> None:
        """Make the slot if there is none, publish what only a lost one knew of, then what the stream says."""
        if await ensure_slot(connection):
            self.log.event("slot.made", level="warning", source=self.database)
        await self._republish(connection)
        stream = await open_stream(self.settings.postgres, self.database, self.settings.process)
        try:
            self.connected = True
            await self._publish(stream, Housekeeping(connection, stream))
        finally:
            stream.close()

    async def _republish(self, connection: Any) -> None:
        """Publish every kept row, if the slot was lost. Before the stream: rows that both have come in order, twice."""
        found = await connection.fetchrow(_SQL["to_republish"], timeout=STATEMENT_S)
        if found is None:
            return
        position, last, count = 0, found["last"] or 0, 0
        while rows := await self._kept(connection, position, last):
            await self.settle(connection, await self.send(connection, rows))
            position, count = rows[-1].position, count + len(rows)
        await connection.execute(_SQL["republished"], timeout=STATEMENT_S)
        self.log.event("slot.republished", level="warning", source=self.database, rows=count)

    async def _kept(self, connection: Any, position: int, last: int) -> list[Inserted]:
        limit = self.settings.relay_batch
        rows = await connection.fetch(_SQL["kept"], position, last, limit, timeout=STATEMENT_S)
        return [
            Inserted(p, id_, key.encode(), type_, payload, h.encode(), at)
            for p, id_, key, type_, payload, h, at in rows
        ]

    async def _publish(self, stream: Stream, housekeeping: "Housekeeping") -> None:
        """Read, send, confirm, until `stopping` is set."""
        connection, pending = housekeeping.connection, Sent([], [])
        while not (self.stopping.is_set() and not pending.rows):
            batch = Batch([]) if self.stopping.is_set() else stream.read(self.settings.relay_batch)
            if pending.rows:
                await self._confirmed(stream, connection, pending)
                housekeeping.news = True
            await housekeeping.turn()
            pending = await self.send(connection, batch.rows, batch.end)
            if not pending.rows:
                if batch.end:
                    stream.confirm(batch.end)
                else:
                    stream.confirm_idle()
                    await stream.wait(IDLE_S)

    async def _confirmed(self, stream: Stream, connection: Any, sent: Sent) -> None:
        """Wait for the broker, through its outages with the stream kept; then confirm the position."""
        while self.delivery is not None and not self.delivery.done():
            await asyncio.wait([self.delivery], timeout=PING_EVERY_S)
            stream.ping()
        await self.settle(connection, sent)
        await self.failpoints.hit("publish.after_produce_before_confirm")
        if sent.end:
            stream.confirm(sent.end)


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
