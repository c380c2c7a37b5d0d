"""One audit: every store read once, upstream to downstream, each later than the one before; then a second look.

Reads are not atomic. In this order a message that moves on while the audit runs is seen where it was, or where it went,
or in both: it may be called waiting when it has just been applied, but not lost. What can go round (dead letters) is
read first and last, and what still seems lost is looked for again in all places.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from services.auditor.applications import applications
from services.auditor.evidence import Case, Describe, causes_of, evidence_of, left_out, name_of, rows_of, trace_id
from services.auditor.history import Key, ProcessLook, Published, PublishLook, key_of
from services.auditor.holding import Start, begin, finish
from services.auditor.judge import judge_accept, judge_process, judge_publish, seem_lost
from services.auditor.ledger import ClientLedger
from services.auditor.stores import Stores, Unreachable, reaching
from services.broker.reader import Bounds, Offsets, TopicReader, bounds
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm
from services.domain.audit import AuditDocument, AuditRow, Evidence
from services.domain.messages import KINDS, Coordinates, Kind
from services.settings import Settings

__all__ = ["Unreachable", "audit"]

Say = Callable[[str], None]

_OUTBOX: Final = PUBLISHER_ARMS["outbox"].name
_TOPICS: Final = tuple(kind.topic for kind in KINDS)


async def audit(
    settings: Settings,
    run: str | None = None,
    *,
    ledger: Path | None = None,
    arms: Collection[ConsumerArm] = tuple(CONSUMER_ARMS.values()),
    say: Say = lambda _: None,
) -> AuditDocument:
    """Audit one run, or all. `ledger` is the client ledger's folder, else that of the lab; `say` hears the progress.

    Raises Unreachable when a store cannot be read.
    """
    folder = Path(settings.home) / "ledger" if ledger is None else ledger
    return await _Audit(Stores(settings, run), ClientLedger(folder, run), say).carry_out(arms)


class _Audit:
    """The reads in their order; what each hop needs is let go of as soon as the hop is judged."""

    def __init__(self, stores: Stores, client: ClientLedger, say: Say) -> None:
        self._stores = stores
        self._client = client
        self._say = say
        self._kafka = stores.settings.kafka
        self._ids: dict[str, set[Key]] = {}  # by kind: messages with an intent
        self._out_of_scope = 0

    async def carry_out(self, arms: Collection[ConsumerArm]) -> AuditDocument:
        begun, at = time.monotonic(), datetime.now(UTC)
        accept = await self._accept()
        starts = [await begin(self._stores, arm) for arm in arms]
        first, limits = await self._look({})
        process = [
            case
            for arm, start in zip(arms, starts, strict=True)
            for case in await self._process(arm, first.published, start)
        ]
        second, _ = await self._look(limits.ends)
        newer = second.published.places()
        for case in process:
            case.judgement.excuse(second.published.wanting(case.judgement.row.effect))
            case.judgement.excuse(newer)
        truncated = {f"{topic}/{number}" for (topic, number), offset in limits.firsts.items() if offset > 0}
        publish = [await self._publish(kind, (first, second), truncated) for kind in KINDS]
        cases = [*accept, *publish, *process]
        for case in cases:
            case.judgement.settle()
        rows, evidence = rows_of(cases), list(evidence_of(cases))
        await self._trace(evidence)
        return AuditDocument(
            at=at,
            closes=not any(row.unexplained for row in rows),
            rows=rows,
            dead_letter_causes=causes_of(cases),
            evidence=evidence,
            evidence_left_out=left_out(rows, evidence),
            run=self._stores.run,
            out_of_scope=self._out_of_scope,
            undecodable=first.published.undecodable,
            ledger_lines_skipped=self._client.skipped,
            truncated=sorted(truncated),
            took_s=round(time.monotonic() - begun, 3),
        )

    async def _accept(self) -> list[Case]:
        """Ledger, then intents; then the ledger's news, which explain intents that are newer than the first read."""
        await self._read_ledger()
        judged = []
        for kind in KINDS:
            self._say(f"the intents of {kind.name}")
            intents = await self._stores.intents(kind)
            self._ids[kind.name] = intents.ids
            answers = self._client.answers[kind.name]
            judgement = judge_accept(AuditRow(hop="accept", arm=_OUTBOX, effect="intent"), answers, intents)
            judged.append((kind.name, intents.by_key, judgement))
        await self._read_ledger()
        for name, made, judgement in judged:
            answers = self._client.answers[name]
            judgement.excuse({key for key in judgement.unexpected if answers.outcome(key) != "refused"})
            self._out_of_scope += sum(len(made[key]) for key in made.keys() - answers.keys())
        return [
            Case(judgement, _of_key({key: made[key] for key in judgement.applied})) for _, made, judgement in judged
        ]

    async def _read_ledger(self) -> None:
        self._say("the client ledger")
        with reaching("the client ledger"):
            await asyncio.to_thread(self._client.read)

    async def _look(self, starts: Offsets) -> tuple[PublishLook, Bounds]:
        """The outbox, then the topics from `starts` to where they end by then."""
        self._say("the outboxes")
        outbox = await self._stores.outbox()
        with reaching("Kafka"):
            limits = await asyncio.to_thread(bounds, self._kafka, _TOPICS)
            published = await self._topics(starts, limits.ends)
        return PublishLook(outbox, published), limits

    async def _topics(self, starts: Offsets, ends: Offsets) -> Published:
        published = Published(self._stores.run)
        many, seen = sum(end - starts.get(partition, 0) for partition, end in ends.items()), 0
        reader = TopicReader(self._kafka, starts, ends)
        try:
            while records := await asyncio.to_thread(reader.read):
                for record in records:
                    published.add(record.at, record.headers)
                seen += len(records)
                self._say(f"the topics, {seen} of {many} records")
        finally:
            await asyncio.to_thread(reader.close)
        return published

    async def _process(self, arm: ConsumerArm, published: Published, start: Start) -> list[Case]:
        """What the arm holds, then what it did; and both again for what was seen in neither."""
        self._say(f"the arm {arm.name}")
        holdings, known = await finish(self._stores, arm, start), self._known(published)
        cases = []
        for effect in arm.effects:
            self._say(f"the arm {arm.name}, {effect}")
            reader = applications(self._stores, arm, effect, published, known)
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
        return set(published.copies.keys()).union(*self._ids.values())

    async def _publish(self, kind: Kind, looks: tuple[PublishLook, PublishLook], truncated: Collection[str]) -> Case:
        gone = any(partition.startswith(f"{kind.topic}/") for partition in truncated)
        row = AuditRow(hop="publish", arm=_OUTBOX, effect="publication")
        judgement = judge_publish(row, kind.topic, self._ids[kind.name], looks, truncated=gone)
        judgement.excuse(await self._stores.traceparents(kind, judgement.unexpected))
        return Case(judgement, _of_publish(looks))

    async def _trace(self, evidence: Collection[Evidence]) -> None:
        """Say of each listed message which trace made it."""
        keys = {key_of(item.message_id) for item in evidence if item.message_id}
        traces = [await self._stores.traceparents(kind, keys) for kind in KINDS]
        found = {name_of(key): trace_id(text) for trace in traces for key, text in trace.items()}
        for item in evidence:
            item.trace_id = found.get(item.message_id)


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
        at = copies or ([key] if isinstance(key, Coordinates) else [])  # an output that names no record that we know
        return {"message_id": name_of(key), "at": [str(copy) for copy in at], "reason": reason}

    return describe
