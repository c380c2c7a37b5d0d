"""The loop of one source: outbox rows to records, removed after the broker confirmed them.

Pipelined: while a batch is with the broker, one round trip removes the batch before and reads the one after.
A key's first occurrences keep the order of their commits: its rows commit in the order of their positions, every read
begins at the table's start, one session owns its shard, and no batch is sent before the one before was reported.
Died at any await: rows that were confirmed and not removed are published again, with the same message id.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from services.bootstrap import Process
from services.broker.producer import BatchProducer, Delivery, Failure, Record
from services.broker.publication import Unpublishable, record_delay
from services.broker.sends import Sending, Sends
from services.domain.arms import DEFAULT_PUBLISHER
from services.failpoints import InjectedError
from services.relay.ownership import decide
from services.relay.records import POSITION, SHARD, WORDS, Outcome, Row, outcome_of, record_of
from services.relay.session import Session, open_session
from services.storage.postgres import AWAY

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
REBALANCE_EVERY_S: Final = 0.5
KEEP_ALIVE_S: Final = 1.0
SENT: Final = "messaging.client.sent.messages"


class Source(msgspec.Struct, frozen=True):
    """A database with an outbox, the topic of each type that may lie in it, and how a row becomes a record."""

    database: str
    topics: Mapping[str, str]
    record_of: Callable[[Row, Mapping[str, str]], Record] = record_of
    idle_poll_ms: float = 0.0  # 0: as the settings say
    redrives: bool = False  # its rows are redriven letters


class Batch(msgspec.Struct, frozen=True):
    """Rows on their way, each beside its record."""

    positions: list[int]
    records: list[Record]


class SourceRelay:
    """Relays one source until `stopping` is set, through every outage of the database and of the broker."""

    def __init__(self, source: Source, process: Process, producer: BatchProducer, stopping: asyncio.Event) -> None:
        self.connected = False
        self._source = source
        self._settings = process.settings
        self._log = process.log
        self._metrics = process.metrics
        self._failpoints = process.failpoints
        self._producer = producer
        self._stopping = stopping
        self._delivery: Delivery | None = None  # outlives a session: the producer never holds two batches of a source
        self._sends = Sends(process.tracer, DEFAULT_PUBLISHER)
        self._sending: Sending | None = None
        self._failures = 0  # in a row
        self._rebalance_at = 0.0
        self._idle_poll_s = (source.idle_poll_ms or process.settings.relay_idle_poll_ms) / 1000
        for topic in source.topics.values():
            for outcome in WORDS:
                self._metrics.add(SENT, 0, topic=topic, outcome=outcome)

    async def run(self) -> None:
        """Connect, relay, connect again."""
        while not self._stopping.is_set():
            try:
                async with open_session(
                    self._settings.postgres, self._source.database, self._settings.process
                ) as session:
                    self.connected = True
                    await self._relay(session)
            except (*AWAY, InjectedError) as error:  # it connects again; which error it was stands in the log
                self._log.event(
                    "relay.source_lost", level="warning", source=self._source.database, error=repr(error)[:300]
                )
                await self._back_off()
            finally:
                self.connected = False

    async def _relay(self, session: Session) -> None:
        """One session: its end, by an error or not, is the end of all that was read and not sent."""
        await self._reported(session)  # what an earlier session sent
        self._rebalance_at = 0.0
        rows: list[Row] = []
        confirmed: list[int] = []
        while not self._stopping.is_set():
            if time.monotonic() >= self._rebalance_at:
                rows, confirmed = await self._rebalance(session, rows, confirmed)
            batch = await self._prepared(session, rows)
            if batch.records:
                await self._send(session, batch)
            rows = await session.turn_over(confirmed, batch.positions, self._settings.relay_batch)
            outcome = await self._outcome(session, batch)
            confirmed = outcome.confirmed
            if outcome.failed:
                rows = []  # later rows of the same keys may be among them
                await self._rewind(outcome)
                continue
            self._failures = 0
            if not rows and not batch.records:
                await asyncio.sleep(self._idle_poll_s)
        await session.delete(confirmed)

    async def _rebalance(self, session: Session, rows: list[Row], confirmed: list[int]) -> tuple[list[Row], list[int]]:
        """Come nearer to the fair share, with nothing in flight. Returns what is still to be sent and removed."""
        self._rebalance_at = time.monotonic() + REBALANCE_EVERY_S
        before, census = session.shards, await session.census()
        change = decide(census)
        if change.release:
            await session.delete(confirmed)  # else the next owner would publish them again
            await session.release(change.release)
            rows, confirmed = [row for row in rows if row[SHARD] in session.shards], []
        if change.take:
            await session.take(change.take)
        if session.shards != before:
            shards = sorted(session.shards)
            self._log.event("relay.shards", source=self._source.database, shards=shards, members=census.members)
        return rows, confirmed

    async def _prepared(self, session: Session, rows: Sequence[Row]) -> Batch:
        """The batch of the rows; one from which no record can be made is set aside."""
        batch = Batch([], [])
        for row in rows:
            try:
                batch.records.append(self._source.record_of(row, self._source.topics))
                batch.positions.append(row[POSITION])
            except Unpublishable as error:
                await self._set_aside(session, row[POSITION], error.reason)
        return batch

    async def _send(self, session: Session, batch: Batch) -> None:
        await self._failpoints.hit("publish.after_fetch")
        await session.ensure_fresh()
        begin = self._sends.begin_redriven if self._source.redrives else self._sends.begin
        self._sending = begin(batch.records)
        if self._failpoints.armed("publish.half_batch"):
            self._delivery = asyncio.ensure_future(self._in_halves(batch.records))
        else:
            self._delivery = self._producer.send(batch.records)

    async def _in_halves(self, records: Sequence[Record]) -> list[Failure]:
        half = (len(records) + 1) // 2
        failures = await self._producer.send(records[:half])
        reason = next((failure.reason for failure in failures if not failure.for_ever), None)
        if reason is not None:
            return [*failures, *(Failure(index, reason) for index in range(half, len(records)))]
        await self._failpoints.hit("publish.half_batch")
        rest = await self._producer.send(records[half:])
        return [*failures, *(Failure(half + failure.index, failure.reason) for failure in rest)]

    async def _reported(self, session: Session) -> list[Failure]:
        """What was not confirmed of what is in flight. An outage of the broker is waited out with the session kept."""
        delivery = self._delivery
        if delivery is None:
            return []
        while not delivery.done():
            await asyncio.wait([delivery], timeout=KEEP_ALIVE_S)
            if not delivery.done():
                await session.ping()
        self._delivery = None
        return delivery.result()

    async def _outcome(self, session: Session, batch: Batch) -> Outcome:
        """What became of each row of the batch; what is refused for ever is already set aside."""
        outcome = outcome_of(batch.positions, await self._reported(session))
        if outcome.refused and not outcome.failed:
            outcome = await self._alone(session, batch, outcome)
        self._count(batch, outcome)
        self._trace(batch, outcome)
        if batch.records:
            await self._failpoints.hit("publish.after_produce_before_delete")
        return outcome

    async def _alone(self, session: Session, batch: Batch, outcome: Outcome) -> Outcome:
        """The broker refuses a set of records for one of them: only what it refuses alone is set aside."""
        records = dict(zip(batch.positions, batch.records, strict=True))
        for position in outcome.refused:
            await session.ensure_fresh()  # one by one, they may take longer than an idle session lives
            self._delivery = self._producer.send([records[position]])
            outcome = outcome.revised(position, await self._reported(session))
        for position, reason in outcome.refused.items():
            await self._set_aside(session, position, reason)
        return outcome

    async def _set_aside(self, session: Session, position: int, reason: str) -> None:
        await session.set_aside(position, reason)
        fields = {"source": self._source.database, "position": position, "reason": reason}
        self._log.event("relay.set_aside", level="error", **fields)

    async def _rewind(self, outcome: Outcome) -> None:
        reasons = Counter(outcome.failed.values())
        self._log.event("relay.rewound", level="warning", source=self._source.database, failed=reasons)
        await self._back_off()

    async def _back_off(self) -> None:
        delay_s = min(FIRST_DELAY_S * 2**self._failures, LONGEST_DELAY_S)
        self._failures = min(self._failures + 1, 10)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)

    def _trace(self, batch: Batch, outcome: Outcome) -> None:
        if self._sending is not None:
            reasons = {**outcome.refused, **outcome.failed}
            failed = {i: reasons[position] for i, position in enumerate(batch.positions) if position in reasons}
            self._sends.end(self._sending, failed)
            self._sending = None

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        topics = (record[0] for record in batch.records)
        words = (outcome.word(position) for position in batch.positions)
        for (topic, word), amount in Counter(zip(topics, words, strict=True)).items():
            self._metrics.add(SENT, amount, topic=topic, outcome=word)
        if outcome.confirmed and not self._source.redrives:  # a letter's age is no delay
            record_delay(self._metrics, DEFAULT_PUBLISHER, batch.records)
