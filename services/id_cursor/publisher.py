"""The loop of the arm, as most hand-written relays have it: what lies above the highest published position is new.

It is wrong: positions are drawn at the insert and seen at the commit. A row that commits after a higher one was
published lies below the remembered position, and is never read.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from services.bootstrap import Process
from services.broker.producer import BatchProducer, Delivery, Record
from services.broker.publication import NotConfirmed, Unpublishable, publication, refused
from services.broker.publishing import back_off
from services.broker.sends import Sends
from services.domain.messages import KIND_OF_TYPE
from services.failpoints import InjectedError
from services.storage.postgres import AWAY, connect, statements

STATEMENT_S: Final = 10.0
SENT: Final = "messaging.client.sent.messages"

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


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
        self._sends = Sends(process.tracer, "id_cursor")
        self._failures = 0  # in a row
        for outcome in ("confirmed", "refused", "failed"):
            self._metrics.add(SENT, 0, topic=topic, outcome=outcome)

    async def run(self) -> None:
        """Connect, publish, connect again."""
        while not self._stopping.is_set():
            try:
                await self._session()
            except (*AWAY, NotConfirmed, InjectedError) as error:  # it connects again; which error it was: in the log
                fields = {"source": self._database, "error": repr(error)[:300]}
                self._log.event("relay.source_lost", level="warning", **fields)
                await back_off(self._stopping, self._failures)
                self._failures += 1
            finally:
                self.connected = False

    async def _session(self) -> None:
        if self._delivery is not None:  # what an earlier session sent: it keeps its place, whatever became of it
            await self._delivery
        connection = await connect(self._settings.postgres, self._database, name=self._settings.process)
        try:
            self.connected = True
            while not self._stopping.is_set():
                rows = await connection.fetch(_SQL["next"], self._settings.relay_batch, timeout=STATEMENT_S)
                if rows:
                    await self._publish(connection, rows)
                    self._failures = 0
                else:
                    await asyncio.sleep(self._settings.relay_idle_poll_ms / 1000)
        finally:
            connection.terminate()

    async def _publish(self, connection: Any, rows: list[Any]) -> None:
        """Publish, then remember. Died between: the rows are published again."""
        await self._failpoints.hit("publish.after_fetch")
        positions, records = [], []
        for row in rows:
            try:
                records.append(self._record(row))
                positions.append(row["position"])
            except Unpublishable as error:
                await self._set_aside(connection, row["position"], error.reason)
        sending = self._sends.begin(records)
        self._delivery = self._producer.send(records)
        failures, self._delivery = await self._delivery, None
        self._sends.end(sending, {failure.index: failure.reason for failure in failures})
        gone = await refused(self._producer, records, failures)
        for index, reason in gone.items():
            await self._set_aside(connection, positions[index], reason)
        self._metrics.add(SENT, len(records) - len(gone), topic=self._topic, outcome="confirmed")
        await self._failpoints.hit("publish.after_produce_before_confirm")
        await connection.execute(_SQL["remember"], rows[-1]["position"], timeout=STATEMENT_S)

    def _record(self, row: Any) -> Record:
        _, message_id, key, type_, payload, headers, created_at = row
        topic = self._topic if type_ in KIND_OF_TYPE else None
        return publication(topic, message_id, key.encode(), type_, payload, headers, created_at)

    async def _set_aside(self, connection: Any, position: int, reason: str) -> None:
        await connection.execute(_SQL["set_aside"], position, reason, timeout=STATEMENT_S)
        fields = {"source": self._database, "position": position, "reason": reason}
        self._log.event("relay.set_aside", level="error", **fields)
        self._metrics.add(SENT, 1, topic=self._topic, outcome="refused")
