"""Taking in what is new, in the order of an audit: upstream to downstream, each store later than the one before."""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from services.auditor.broker import Broker, Tail
from services.auditor.cursor import Cursor
from services.auditor.facts import facts
from services.auditor.history import Holdings, Key, key_of_record, origin_of
from services.auditor.holding import Start, begin, settle_letters, waiting_before
from services.auditor.ledger import ClientLedger
from services.auditor.live import Held, Live
from services.auditor.stores import SQL, Application, Connections, Stores, application, reaching
from services.broker.reader import Offsets, Record
from services.domain.arms import DEFAULT_PUBLISHER, ConsumerArm, PublisherArm
from services.domain.messages import Coordinates, Kind
from services.settings import Settings

# What one look takes in at most of each place: of an old lab a little more is settled and put away with each look.
_ROWS: Final = 20_000  # of one table
_RECORDS: Final = 20_000  # of the topics
_LEDGER_BYTES: Final = 10_000_000  # some 20,000 requests
_SLICE: Final = 2_000  # records that are taken in before others get their turn
_LOOK_AT_HEADS_S: Final = 10.0
_COUNT_S: Final = 2.0
_COUNT_SHARE: Final = 50  # counting all rows may take one part in so many of the time
_LATELY: Final = 5_000  # rows of one table: of a younger one that is removed it is known what it was
_WITH_MONEY: Final = frozenset({"charge"})


class _Table:
    """Applied effects of one table: how far it was read, and what its youngest rows were."""

    def __init__(self) -> None:
        self.cursor = Cursor(0)
        self.lately: dict[int, tuple[str, str, Application]] = {}  # by number: arm, effect and application

    def remember(self, number: int, arm: str, effect: str, found: Application) -> None:
        self.lately[number] = arm, effect, found
        if len(self.lately) > _LATELY:
            del self.lately[next(iter(self.lately))]


class Taking:
    """Brings a `Live` up to date. One look after another; an error ends a look, and the next one goes on from there."""

    def __init__(
        self, settings: Settings, publishers: Collection[PublisherArm], consumers: Collection[ConsumerArm]
    ) -> None:
        self._settings, self._publishers, self._consumers = settings, publishers, consumers
        self._stores = Stores(settings, None, Connections())
        self._broker = Broker(settings.kafka)
        self._topics = [arm.topic(kind) for arm in publishers for kind in arm.kinds]
        self._outputs = [arm.output_topic for arm in consumers if arm.output_topic]
        self._own = [topic for arm in consumers for topic in (*arm.retry_topics, arm.redelivery_topic) if topic]
        self._heads: Offsets = {}
        self._heads_due = self._count_due = 0.0
        self._counts_s: deque[float] = deque(maxlen=3)  # how long the last counts took
        self._begin_again()

    def _begin_again(self) -> None:
        """Forget all and read from the beginning."""
        self.live = Live(self._publishers, self._consumers)
        self.client = ClientLedger(Path(self._settings.home) / "ledger", follow=True)
        self._intents = {(arm.name, kind.name): Cursor(UUID(int=0)) for arm in self._publishers for kind in arm.kinds}
        self._records = {arm.name: _Table() for arm in self._consumers}
        self._pending: dict[str, dict[int, Application]] = {arm.name: {} for arm in self._consumers}
        self._calls = _Table()
        self._main, self._out = Tail(self._settings.kafka), Tail(self._settings.kafka, stable=True)
        self.behind = True  # there was more than a look takes in

    @property
    def truncated(self) -> list[str]:
        """Partitions whose first records the broker has dropped."""
        return sorted(f"{topic}/{number}" for (topic, number), first in self._heads.items() if first > 0)

    async def close(self) -> None:
        """Let go of every store."""
        if self._stores.kept is not None:
            await self._stores.kept.close()
        for client in (self._main, self._out, self._broker):
            await asyncio.to_thread(client.close)
        self.live.close()

    async def look(self) -> Held:
        """Take in what is new; returns what holds messages by now. Raises Unreachable."""
        self.behind = False
        starts = {arm.name: await begin(self._stores, arm) for arm in self._consumers if arm.dead_letters}
        await self._ledger()
        for arm in self._publishers:
            for kind in arm.kinds:
                await self._new_intents(arm, kind)
        outboxes = {arm.name: await self._stores.outbox(arm) for arm in self._publishers}
        await self._new_records()
        holdings = {arm.name: await self._holdings(arm, starts.get(arm.name)) for arm in self._consumers}
        await self._new_applications()
        await self._new_outputs()
        await self._details()
        if not self.behind and time.monotonic() >= self._count_due:
            await self.count_rows()
        answers = {
            (arm.name, kind.name): self.client.answers(arm, kind) for arm in self._publishers for kind in arm.kinds
        }
        truncated = {topic for (topic, _), first in self._heads.items() if first > 0}
        return Held(outboxes, holdings, answers, truncated)

    async def _ledger(self) -> None:
        with reaching("the client ledger"):
            more = await asyncio.to_thread(self.client.read, _LEDGER_BYTES)
        self.behind = self.behind or more
        for arm in self._publishers:
            for kind in arm.kinds:
                answers = self.client.answers(arm, kind)
                if answers.touched:
                    self.live.take_answers(arm.name, kind.name, answers.touched)
                    answers.touched.clear()

    async def _new_intents(self, arm: PublisherArm, kind: Kind) -> None:
        cursor, server, database = self._intents[arm.name, kind.name], self._settings.postgres, arm.database(kind)
        now, snapshot = time.time(), await self._snapshot(server, database)
        limit = cursor.overlap + _ROWS
        rows = await self._fetch(server, database, "intents_after", cursor.floor, limit)
        fresh = cursor.take([row[0] for row in rows], now, *snapshot)
        self._may_be_behind(rows, limit)
        for message_id, key, digest, run in rows:
            if message_id in fresh:
                self.live.take_intent(arm.name, kind.name, message_id.bytes, key, digest, run)

    async def _new_records(self) -> None:
        with reaching("Kafka"):
            if time.monotonic() >= self._heads_due:
                self._heads = await asyncio.to_thread(self._broker.firsts, self._topics)
                self._heads_due = time.monotonic() + _LOOK_AT_HEADS_S
            self.live.heads = self._heads
            ends = await asyncio.to_thread(self._broker.ends, self._topics)
            news = self._main.read_to(ends, self._heads, _RECORDS)
            while records := await asyncio.to_thread(_some, news):
                for record in records:
                    self.live.take_record(self._arm_of(record), record, time.time())
            self.behind = self.behind or self._main.is_before(ends)

    def _arm_of(self, record: Record) -> str:
        topic = record.at.topic
        named = (arm.name for arm in self._publishers if topic in [arm.topic(kind) for kind in arm.kinds])
        return next(named, DEFAULT_PUBLISHER)

    async def _holdings(self, arm: ConsumerArm, start: Start | None) -> Holdings:
        """As `holding.finish`, by clients that are kept; the topics of the arm are read only where something lies."""
        kafka = self._settings.kafka
        with reaching("Kafka"):
            groups = [arm.group, *([arm.lane_group] if arm.retries else [])]
            offsets = await asyncio.to_thread(self._broker.committed, groups)
            own = [topic for topic in (*arm.retry_topics, arm.redelivery_topic) if topic]
            lane = offsets[arm.lane_group if arm.retries else arm.group]
            ends = await asyncio.to_thread(self._broker.ends, own)
            lies = any(lane.get(place, 0) < end for place, end in ends.items())
            sent_on = await asyncio.to_thread(waiting_before, kafka, arm) if lies else set[Coordinates]()
        if start is None:
            return Holdings(offsets[arm.group])
        letters = await self._stores.letters(arm)
        moving = settle_letters(letters, start)
        emails = await self._stores.emails(arm) if arm.dedups else {}
        return Holdings(offsets[arm.group], letters, emails, start.redrives.queued | moving | sent_on)

    async def _new_applications(self) -> None:
        payments = self._settings.postgres, "payments"
        for arm in self._consumers:
            if "record" not in arm.effects:
                continue
            table, waiting = self._records[arm.name], self._pending[arm.name]
            cursor, now, snapshot = table.cursor, time.time(), await self._snapshot(*payments)
            limit = cursor.overlap + _ROWS
            rows = await self._fetch(*payments, "records_after", cursor.floor, limit, arm=arm)
            fresh = cursor.take([row[0] for row in rows], now, *snapshot)
            self._may_be_behind(rows, limit)
            for seq, status, *rest in rows:
                if seq in fresh:
                    waiting[seq] = application(rest)
                    if status == "applied":
                        self._take(table, seq, arm.name, "record", waiting.pop(seq))
            if waiting:
                for (seq,) in await self._fetch(*payments, "applied_among", list(waiting), arm=arm):
                    self._take(table, seq, arm.name, "record", waiting.pop(seq))
        await self._new_calls()

    async def _new_calls(self) -> None:
        provider = self._settings.ledger, "provider"
        cursor, now, snapshot = self._calls.cursor, time.time(), await self._snapshot(*provider)
        limit = cursor.overlap + _ROWS
        rows = await self._fetch(*provider, "applications_after", cursor.floor, limit)
        fresh = cursor.take([row[0] for row in rows], now, *snapshot)
        self._may_be_behind(rows, limit)
        effects = {arm.name: arm.effects for arm in self._consumers}
        for seq, account, effect, *rest, amount_cents, currency, customer_id in rows:
            if seq in fresh and effect in effects.get(account, ()):
                kept = (amount_cents, currency, customer_id) if effect in _WITH_MONEY else (customer_id,)
                self._take(self._calls, seq, account, effect, application([*rest, *kept]))

    def _take(self, table: _Table, number: int, arm: str, effect: str, found: Application) -> None:
        self.live.take_application(arm, effect, found, time.time())
        table.remember(number, arm, effect, found)

    async def _new_outputs(self) -> None:
        for arm in self._consumers:
            if not arm.output_topic:
                continue
            with reaching("Kafka"):
                ends = await asyncio.to_thread(self._broker.ends, [arm.output_topic], stable=True)
                news = self._out.read_to(ends, {}, _RECORDS)
                while records := await asyncio.to_thread(_some, news):
                    for record in records:
                        self.live.take_application(arm.name, "output", _output(record), time.time())
                self.behind = self.behind or self._out.is_before(ends)

    async def _details(self) -> None:
        """For which of its records a message was applied, where that is promised."""
        arms = {arm.name: arm for arm in self._consumers}
        for (name, effect), keys in self.live.lacking().items():
            if effect == "output":
                continue  # its records are kept by the audit itself
            applied: dict[Key, list[Coordinates]] = {key: [] for key in keys}
            async for found in self._stores.applications_among(arms[name], effect, keys):
                applied[found.key].append(found.at)
            for key, places in applied.items():
                self.live.take_records_applied(name, effect, key, places)

    async def count_rows(self) -> None:
        """Where a store has fewer rows up to the cursor's floor than were taken in, something was taken away.

        If that is among what was taken in lately, it is taken back; else all is read again. Rows above the floor are
        counted when it has passed them.
        """
        began = time.monotonic()
        postgres, provider = self._settings.postgres, (self._settings.ledger, "provider")
        in_place = await self._is_in_place(self._calls, *provider, "applications")
        for arm in self._consumers:
            in_place &= await self._is_in_place(self._records[arm.name], postgres, "payments", "records", arm)
        for publisher in self._publishers:
            for kind in publisher.kinds:
                made = self._intents[publisher.name, kind.name]
                in_place &= not await self._removed(made, postgres, publisher.database(kind), "intents")
        self._counts_s.append(time.monotonic() - began)
        self._count_due = time.monotonic() + pause_s(self._counts_s)
        if not in_place:
            await self.read_anew()

    async def read_anew(self) -> None:
        """Let go of what was read: the next looks read all again."""
        await asyncio.to_thread(self._main.close)
        await asyncio.to_thread(self._out.close)
        self.live.close()
        self._begin_again()

    async def _is_in_place(
        self, table: _Table, server: str, database: str, name: str, arm: ConsumerArm | None = None
    ) -> bool:
        """Whether each row is there, or is known and was taken back."""
        cursor = table.cursor
        removed = await self._removed(cursor, server, database, name, arm)
        if not removed:
            return True
        asked = [number for number in table.lately if number <= cursor.floor]
        there = {number for (number,) in await self._fetch(server, database, f"{name}_there", asked, arm=arm)}
        missing = [number for number in asked if number not in there]
        if len(missing) < removed or not all(self.live.take_back(*table.lately.pop(number)) for number in missing):
            return False  # they count as removed until all is read again, whatever fails before that
        cursor.removed(len(missing))
        return True

    async def _removed(
        self, cursor: Cursor[Any], server: str, database: str, name: str, arm: ConsumerArm | None = None
    ) -> int:
        """How many rows there are fewer than were taken in, up to the cursor's floor."""
        ((count,),) = await self._fetch(server, database, f"{name}_up_to", cursor.floor, arm=arm)
        return max(0, cursor.passed - int(count))

    def _may_be_behind(self, rows: Collection[Any], limit: int) -> None:
        self.behind = self.behind or len(rows) >= limit

    async def _snapshot(self, server: str, database: str) -> tuple[int, int]:
        ((xmin, xmax),) = await self._fetch(server, database, "snapshot_now")
        return xmin, xmax

    async def _fetch(
        self, server: str, database: str, statement: str, *arguments: Any, arm: ConsumerArm | None = None
    ) -> list[Any]:
        query = SQL[statement].replace("{schema}", arm.schema) if arm else SQL[statement]
        assert self._stores.kept is not None  # noqa: S101
        return await self._stores.kept.fetch(server, database, query, *arguments)


def pause_s(counts_s: Collection[float]) -> float:
    """How long to wait until rows are counted again, by how long the last counts took.

    By the shortest: a machine that stood still for a second does not make the table a large one.
    """
    return max(_COUNT_S, _COUNT_SHARE * min(counts_s))


def _some(records: Iterator[Record]) -> list[Record]:
    found = []
    for record in records:
        found.append(record)
        if len(found) >= _SLICE:
            break
    return found


def _output(record: Record) -> Application:
    origin = origin_of(record.headers) or record.at
    return Application(key_of_record(origin, record.headers), True, origin, "", facts(()))
