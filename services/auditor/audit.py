"""One audit: every store read once, upstream to downstream, each later than the one before; then a second look.

Reads are not atomic. In this order a message that moves on while the audit runs is seen where it was, or where it went,
or in both: it may be called waiting when it has just been applied, but not lost. What can go round (dead letters) is
read first and last, and what still seems lost is looked for again in all places.
"""

import asyncio
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from services.auditor.applications import Known, applications
from services.auditor.evidence import Case, Describe, causes_of, evidence_of, left_out, name_of, rows_of
from services.auditor.explaining import explain, trace
from services.auditor.history import Key, ProcessLook, Published, PublishLook
from services.auditor.holding import Start, begin, finish
from services.auditor.judge import (
    judge_accept,
    judge_process,
    judge_publish,
    letter_vanished,
    seem_lost,
    without_a_line,
)
from services.auditor.ledger import ClientLedger
from services.auditor.stores import Stores, Unreachable, reaching
from services.broker.reader import Bounds, Offsets, Partition, TopicReader, bounds
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.domain.audit import AuditDocument, AuditRow
from services.domain.messages import Coordinates, Kind
from services.settings import Settings

__all__ = ["Unreachable", "audit"]

Say = Callable[[str], None]

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

    Raises Unreachable when a store cannot be read.
    """
    folder = Path(settings.home) / "ledger" if ledger is None else ledger
    return await _Audit(Stores(settings, run), ClientLedger(folder, run), publishers, say).carry_out(arms)


class _Audit:
    """The reads in their order; what each hop needs is let go of as soon as the hop is judged."""

    def __init__(self, stores: Stores, client: ClientLedger, publishers: Collection[PublisherArm], say: Say) -> None:
        self._stores = stores
        self._client = client
        self._publishers = publishers
        self._say = say
        self._kafka = stores.settings.kafka
        self._promised: dict[str, dict[Key, bytes]] = {}  # by database: messages with an intent, and what it says
        self._truncated: set[str] = set()
        self._firsts: dict[Partition, int] = {}
        self._out_of_scope = 0
        self._undecodable = 0

    async def carry_out(self, arms: Collection[ConsumerArm]) -> AuditDocument:
        begun, at = time.monotonic(), datetime.now(UTC)
        accept = await self._accept()
        starts = [await begin(self._stores, arm) for arm in arms]
        first, limits = await self._look(_DEFAULT, {})
        lives = await self._stores.lives(arms)
        process = [
            case
            for arm, start in zip(arms, starts, strict=True)
            for case in await self._process(arm, first.published, start, lives)
        ]
        second, _ = await self._look(_DEFAULT, limits.ends)
        newer = second.published.places()
        for case in process:
            case.judgement.excuse(second.published.wanting(case.judgement.row.effect))
            case.judgement.excuse(newer)
        publish = await self._published(_DEFAULT, (first, second)) if _DEFAULT in self._publishers else []
        del first, second
        for publisher in self._publishers:
            if publisher is not _DEFAULT:
                publish += await self._published(publisher, await self._look_twice(publisher))
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
        judged = []
        for arm in self._publishers:
            for kind in arm.kinds:
                self._say(f"the intents of {arm.producer(kind)}")
                intents, answers = await self._stores.intents(arm, kind), self._client.answers(arm, kind)
                self._promised[arm.database(kind)] = intents.promised
                # a line that was cut may have been the one that is missed
                runs = set[bytes]() if self._client.skipped else self._client.runs
                unasked = without_a_line(answers, intents, runs)
                row = AuditRow(hop="accept", arm=arm.name, effect="intent")
                judged.append((answers, intents.by_key, judge_accept(row, answers, intents, unasked)))
        await self._read_ledger()
        for answers, made, judgement in judged:
            judgement.forgive(answers.keys())
            refused = judgement.unexpected - judgement.wrong.keys()
            judgement.excuse([key for key in refused if answers.outcome(key) != "refused"])
            unknown = made.keys() - answers.keys() - judgement.wrong.keys()
            self._out_of_scope += sum(len(made[key]) for key in unknown)
        return [
            Case(judgement, _of_key({key: made[key] for key in judgement.applied})) for _, made, judgement in judged
        ]

    async def _read_ledger(self) -> None:
        self._say("the client ledger")
        with reaching("the client ledger"):
            await asyncio.to_thread(self._client.read)

    async def _look_twice(self, arm: PublisherArm) -> tuple[PublishLook, PublishLook]:
        first, limits = await self._look(arm, {})
        second, _ = await self._look(arm, limits.ends)
        return first, second

    async def _look(self, arm: PublisherArm, starts: Offsets) -> tuple[PublishLook, Bounds]:
        """The outbox, then the topics from `starts` to where they end by then."""
        self._say(f"the outboxes of {arm.name}")
        outbox = await self._stores.outbox(arm)
        with reaching("Kafka"):
            limits = await asyncio.to_thread(bounds, self._kafka, [arm.topic(kind) for kind in arm.kinds])
            published = await self._topics(arm, starts, limits.ends)
        self._firsts |= limits.firsts
        self._truncated.update(f"{topic}/{number}" for (topic, number), offset in limits.firsts.items() if offset > 0)
        self._undecodable += published.undecodable
        return PublishLook(outbox, published), limits

    async def _topics(self, arm: PublisherArm, starts: Offsets, ends: Offsets) -> Published:
        published = Published(self._stores.run, ChainMap(*(self._promised_of(arm, kind) for kind in arm.kinds)))
        many, seen = sum(end - starts.get(partition, 0) for partition, end in ends.items()), 0
        if not many:
            return published
        reader = TopicReader(self._kafka, starts, ends)
        try:
            while records := await asyncio.to_thread(reader.read):
                for record in records:
                    published.add(record.at, record.headers, record.value)
                seen += len(records)
                self._say(f"the topics, {seen} of {many} records")
        finally:
            await asyncio.to_thread(reader.close)
        return published

    async def _process(
        self, arm: ConsumerArm, published: Published, start: Start, lives: Mapping[str, str]
    ) -> list[Case]:  # fmt: skip
        """What the arm holds, then what it did; and both again for what was seen in neither."""
        self._say(f"the arm {arm.name}")
        holdings = await finish(self._stores, arm, start)
        known = Known(published, self._known(published), lives, self._firsts)
        cases = []
        for effect in arm.effects:
            self._say(f"the arm {arm.name}, {effect}")
            reader = applications(self._stores, arm, effect, known)
            first = second = ProcessLook(holdings, await reader.read())
            suspects = seem_lost(effect, arm, published, first)
            if suspects:
                again = await finish(self._stores, arm, await begin(self._stores, arm))
                second = ProcessLook(again, await reader.look_again(first.applied, suspects))
            row = AuditRow(hop="process", arm=arm.name, effect=effect)
            judgement = judge_process(row, arm, published, (first, second), suspects)
            cases.append(Case(judgement, _of_process(published, second, effect)))
        return cases

    def _known(self, published: Published) -> Collection[Key]:
        """Whom an effect that names no run may belong to, when only one run is audited."""
        if self._stores.run is None:
            return ()
        return set(published.copies.keys()).union(*self._promised.values())

    def _promised_of(self, arm: PublisherArm, kind: Kind) -> dict[Key, bytes]:
        return self._promised.get(arm.database(kind), {})

    async def _published(self, arm: PublisherArm, looks: tuple[PublishLook, PublishLook]) -> list[Case]:
        cases = []
        for kind in arm.kinds:
            topic, ids = arm.topic(kind), self._promised_of(arm, kind).keys()
            gone = any(partition.startswith(f"{topic}/") for partition in self._truncated)
            row = AuditRow(hop="publish", arm=arm.name, effect="publication")
            judgement = judge_publish(row, topic, ids, looks, truncated=gone)
            judgement.excuse(await self._stores.traceparents(arm, kind, judgement.unexpected))
            cases.append(Case(judgement, _of_publish(looks)))
        return cases


def _of_key(made: Mapping[str, Sequence[bytes]]) -> Describe:
    def describe(key: str) -> dict[str, Any]:
        ids = [name_of(message_id) for message_id in made[key]]
        many = f"intents {', '.join(map(str, ids))}" if len(ids) > 1 else None
        return {"message_id": ids[0] if ids else None, "at": [], "key": key, "reason": many}

    return describe


def _of_publish(looks: tuple[PublishLook, PublishLook]) -> Describe:
    def describe(key: Key) -> dict[str, Any]:
        at = [str(copy) for look in looks for copy in look.published.copies[key]]
        return {"message_id": name_of(key), "at": at, "reason": looks[0].outbox.set_aside.get(key)}

    return describe


def _of_process(published: Published, look: ProcessLook, effect: str) -> Describe:
    holdings = look.holdings

    def describe(key: Key) -> dict[str, Any]:
        copies = published.copies[key]
        reason = holdings.letter(key, copies) or (holdings.emails.get(key) if effect == "email" else None)
        reason = reason or letter_vanished(holdings, copies) or None
        at = copies or ([key] if isinstance(key, Coordinates) else [])  # an output that names no record that we know
        return {"message_id": name_of(key), "at": [str(copy) for copy in at], "reason": reason}

    return describe
