"""One audit: every store read once, upstream to downstream, each later than the one before; then a second look.

Reads are not atomic. In this order a message that moves on while the audit runs is seen where it was, or where it went,
or in both: it may be called waiting when it has just been applied, but not lost. What can go round (dead letters) is
read first and last, and what still seems lost is looked for again in all places.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence, Set
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from services.auditor.bulk import PART, Bulk
from services.auditor.evidence import Case, causes_of, evidence_of, left_out, rows_of
from services.auditor.explaining import explain, trace
from services.auditor.history import Copy, Holdings, Key, Outbox, Published, PublishLook, copy_of
from services.auditor.holding import Start, begin, finish
from services.auditor.ledger import ClientLedger, Line
from services.auditor.outside import Applications, applications
from services.auditor.sifting import accept_cases, process_cases, publish_cases
from services.auditor.stores import Application, Stores, Unreachable, reaching
from services.auditor.workplace import workplace
from services.broker.reader import Bounds, Offsets, Partition, TopicReader, bounds
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.domain.audit import AuditDocument
from services.settings import Settings

__all__ = ["Unreachable", "audit"]

Say = Callable[[str], None]

_CALL_BYTES: Final = 300  # of the client ledger: the lines of one call
_DEFAULT: Final = PUBLISHER_ARMS[DEFAULT_PUBLISHER]  # whose topics the consumer arms read


async def audit(
    settings: Settings,
    run: str | None = None,
    *,
    ledger: Path | None = None,
    arms: Collection[ConsumerArm] = tuple(CONSUMER_ARMS.values()),
    publishers: Collection[PublisherArm] = (_DEFAULT,),
    say: Say = lambda _: None,
) -> AuditDocument:
    """Audit one run, or all. `ledger` is the client ledger's folder, else that of the lab; `say` hears the progress.

    What does not fit into the memory lies in a folder of the lab's home until the audit is done.

    Raises Unreachable when a store cannot be read, or there is no room for what is read.
    """
    home, stores = Path(settings.home), Stores(settings, run)
    folder = home / "ledger" if ledger is None else ledger
    parts = 1 + await _many(stores, folder, {_DEFAULT, *publishers}) // PART
    with workplace(home) as place, closing(Bulk(place, run, parts=parts)) as bulk:
        return await _Audit(stores, folder, publishers, bulk, say).carry_out(arms)


async def _many(stores: Stores, ledger: Path, publishers: Collection[PublisherArm]) -> int:
    """About how many messages there are, where most of them are."""
    intents = [await stores.many_intents(arm, kind) for arm in publishers for kind in arm.kinds]
    with reaching("Kafka"):
        topics = [topic for arm in publishers for topic in topics_of(arm)]
        limits = await asyncio.to_thread(bounds, stores.settings.kafka, topics)
    records = sum(end - limits.firsts[partition] for partition, end in limits.ends.items())
    calls = await asyncio.to_thread(_bytes, ledger) // _CALL_BYTES
    return max(sum(intents), records, calls)


def _bytes(ledger: Path) -> int:
    with reaching("the client ledger"):
        return sum(file.stat().st_size for file in ledger.glob("*.jsonl"))


class _Audit:
    """The reads in their order; what each hop needs is let go of as soon as the hop is judged."""

    def __init__(
        self, stores: Stores, ledger: Path, publishers: Collection[PublisherArm], bulk: Bulk, say: Say
    ) -> None:  # fmt: skip
        self._stores, self._bulk, self._say = stores, bulk, say
        self._client = ClientLedger(ledger, stores.run, take=self._take_line)
        self._publishers = publishers
        self._topic_of = {(a.name, kind.name): a.topic(kind) for a in publishers for kind in a.kinds}
        self._kafka = stores.settings.kafka
        self._truncated: set[str] = set()
        self._firsts: dict[Partition, int] = {}
        self._out_of_scope = 0
        self._undecodable = 0

    async def carry_out(self, arms: Collection[ConsumerArm]) -> AuditDocument:
        begun, at = time.monotonic(), datetime.now(UTC)
        accept = await self._accept()
        starts = [await begin(self._stores, arm) for arm in arms]
        first = await self._look(_DEFAULT)
        lives = await self._stores.lives(arms)
        process = [
            case
            for arm, start in zip(arms, starts, strict=True)
            for case in await self._process(arm, start, lives)
        ]  # fmt: skip
        second = await self._look_again(_DEFAULT, first)
        newer = second.published.places()
        for case in process:
            case.judgement.excuse(second.published.wanting(case.judgement.row.effect))
            case.judgement.excuse(newer)
        publish = await self._published(_DEFAULT, first, second) if _DEFAULT in self._publishers else []
        for publisher in self._publishers:
            if publisher is not _DEFAULT:
                first = await self._look(publisher)
                publish += await self._published(publisher, first, await self._look_again(publisher, first))
        cases = [*accept, *publish, *process]
        for case in cases:
            case.judgement.settle()
        rows, evidence = rows_of(cases), list(evidence_of(cases))
        await trace(self._stores, evidence, self._publishers)
        self._say("why")
        await explain(self._stores, self._client, evidence, arms, self._publishers)
        return AuditDocument(
            at=at,
            closes=not any(row.unexplained for row in rows),
            rows=rows,
            dead_letter_causes=causes_of(cases),
            evidence=evidence,
            evidence_left_out=left_out(rows, evidence),
            run=self._stores.run,
            out_of_scope=self._out_of_scope,
            undecodable=self._undecodable,
            ledger_lines_skipped=self._client.skipped,
            truncated=sorted(self._truncated),
            took_s=round(time.monotonic() - begun, 3),
        )

    async def _accept(self) -> list[Case]:
        """Ledger, then intents; then the ledger's news, which explain intents that are newer than the first read."""
        await self._read_ledger()
        judged = list[tuple[str, Case]]()
        for arm in self._publishers:
            for kind in arm.kinds:
                self._say(f"the intents of {arm.producer(kind)}")
                topic = arm.topic(kind)
                async for intents in self._stores.intents(arm, kind):
                    self._bulk.take_intents(topic, intents)
                # a line that was cut may have been the one that is missed
                runs = set[bytes]() if self._client.skipped else self._client.runs
                judged += [(topic, case) for case in accept_cases(self._bulk, arm, topic, runs)]
        await self._read_ledger()
        for topic, case in judged:
            judgement = case.judgement
            answers = self._bulk.answers(topic, judgement.unexpected)
            judgement.forgive(answers.keys())
            refused = judgement.unexpected - judgement.wrong.keys()
            judgement.excuse([key for key in refused if answers.outcome(key) != "refused"])
            self._out_of_scope -= sum(judgement.applied[key] for key in judgement.wrong)
        self._out_of_scope += sum(
            self._bulk.uncalled(arm.topic(kind)) for arm in self._publishers for kind in arm.kinds
        )
        return [case for _, case in judged]

    async def _read_ledger(self) -> None:
        self._say("the client ledger")
        with reaching("the client ledger"):
            await asyncio.to_thread(self._client.read)

    def _take_line(self, line: Line) -> None:
        if (topic := self._topic_of.get((line.arm, line.kind))) is None:
            return
        if line.phase == "call":
            self._bulk.take_call(topic, line.key)
        elif line.phase == "answer":
            self._bulk.take_answer(topic, line.key, line.outcome)

    async def _look(self, arm: PublisherArm) -> tuple[Outbox, Offsets]:
        """The outbox, then the topics to where they end by then."""
        outbox, limits = await self._begin_look(arm)
        async for copy in self._copies(limits.firsts, limits.ends):
            if copy.key is not copy.at or self._stores.run in (None, copy.run):
                self._undecodable += copy.key is copy.at
                self._bulk.take_record(copy)
        self._bulk.drop_records_of_others(topics_of(arm))
        return outbox, limits.ends

    async def _look_again(self, arm: PublisherArm, first: tuple[Outbox, Offsets]) -> PublishLook:
        """The outbox, then the topics from where they ended at the first look."""
        outbox, limits = await self._begin_look(arm)
        news = [copy async for copy in self._copies(first[1], limits.ends)]
        promised = self._bulk.promised([copy.key for copy in news], topics_of(arm)) if news else {}
        published = Published(self._stores.run, promised)
        for copy in news:
            published.take(copy)
        self._undecodable += published.undecodable
        return PublishLook(outbox, published)

    async def _begin_look(self, arm: PublisherArm) -> tuple[Outbox, Bounds]:
        self._say(f"the outboxes of {arm.name}")
        outbox = await self._stores.outbox(arm)
        with reaching("Kafka"):
            limits = await asyncio.to_thread(bounds, self._kafka, topics_of(arm))
        self._firsts |= limits.firsts
        self._truncated.update(f"{topic}/{number}" for (topic, number), offset in limits.firsts.items() if offset > 0)
        return outbox, limits

    async def _copies(self, starts: Offsets, ends: Offsets) -> AsyncIterator[Copy]:
        many, seen = sum(end - starts.get(partition, 0) for partition, end in ends.items()), 0
        if not many:
            return
        with reaching("Kafka"):
            reader = TopicReader(self._kafka, starts, ends)
            try:
                while records := await asyncio.to_thread(reader.read):
                    for record in records:
                        yield copy_of(record.at, record.headers, record.value)
                    seen += len(records)
                    self._say(f"the topics, {seen} of {many} records")
            finally:
                await asyncio.to_thread(reader.close)

    async def _process(self, arm: ConsumerArm, start: Start, lives: Mapping[str, str]) -> list[Case]:
        """What the arm holds, then what it did; and both again for what was seen in neither."""
        self._say(f"the arm {arm.name}")
        holdings = await finish(self._stores, arm, start)
        self._bulk.set_committed(holdings.committed, self._firsts)
        topics, cases = topics_of(_DEFAULT), list[Case]()
        for effect in arm.effects:
            self._say(f"the arm {arm.name}, {effect}")
            self._bulk.begin_effect()
            reader = applications(self._stores, arm, effect, self._bulk, topics)
            await reader.read()
            self._bulk.drop_applications_of_others(topics)
            again = _Again(self._stores, arm, reader)
            cases += await process_cases(self._bulk, arm, effect, topics, holdings, lives, again.look)
        return cases

    async def _published(
        self, arm: PublisherArm, first: tuple[Outbox, Offsets], second: PublishLook
    ) -> list[Case]:  # fmt: skip
        cases, topics = list[Case](), topics_of(arm)
        for kind in arm.kinds:
            topic = arm.topic(kind)
            gone = any(partition.startswith(f"{topic}/") for partition in self._truncated)
            found = publish_cases(self._bulk, arm.name, topic, topics, first[0], second, truncated=gone)
            for case in found:
                unexpected = case.judgement.unexpected
                case.judgement.excuse(await self._stores.traceparents(arm, kind, unexpected))
            cases += found
        return cases


class _Again:
    """The second look at an arm, for what the first saw nowhere: what it holds is read once, what it did each time."""

    def __init__(self, stores: Stores, arm: ConsumerArm, reader: Applications) -> None:
        self._stores, self._arm, self._reader = stores, arm, reader
        self._holdings: Holdings | None = None

    async def look(self, messages: Set[Key]) -> tuple[Holdings, Sequence[Application]]:
        """First what it holds, then what it did for these messages."""
        if self._holdings is None:
            self._holdings = await finish(self._stores, self._arm, await begin(self._stores, self._arm))
        return self._holdings, await self._reader.again(messages)


def topics_of(arm: PublisherArm) -> list[str]:
    """The topics that a publisher arm publishes to."""
    return [arm.topic(kind) for kind in arm.kinds]
