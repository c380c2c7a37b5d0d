"""The life of one message over all hops and arms, in the order of time, from every store and log that names it."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from services.auditor.history import key_of_record, origin_of
from services.auditor.journal import Journal, part_of, read_journal
from services.auditor.ledger import ClientLedger
from services.auditor.stores import SQL, Connections, reaching
from services.broker.reader import Record, bounds, records_between
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.domain.audit import Window
from services.domain.messages import Coordinates
from services.settings import Settings
from services.stack.parts import PARTS

_BEFORE_S: Final = 60.0  # of faults, before the message was made
_AFTER_S: Final = 2.0
_QUIET: Final = frozenset({"offset.received", "offset.committed", "process.started"})


class Moment(msgspec.Struct, frozen=True, order=True):
    """One thing that happened to the message."""

    at: float  # Unix seconds
    hop: str
    who: str  # a process, an arm, the client
    what: str


class Life(msgspec.Struct, kw_only=True):
    """The answer of `lab explain --json`."""

    message_id: str
    kind: str | None  # null: there is no intent
    publisher: str | None
    run: str | None
    key: str | None  # its Idempotency-Key
    trace_id: str | None
    timeline: list[Moment]
    faults: list[Window]  # that overlap it


async def life_of(settings: Settings, message_id: UUID) -> Life:
    """Everything about the message. Raises Unreachable when a store cannot be read, LookupError when none knows it."""
    return await _Search(settings, message_id).carry_out()


class _Search:
    def __init__(self, settings: Settings, message_id: UUID) -> None:
        self._settings, self._id = settings, message_id
        self._connections = Connections()
        self._moments: list[Moment] = []
        self._life = Life(
            message_id=str(message_id), kind=None, publisher=None, run=None, key=None, trace_id=None, timeline=[],
            faults=[],
        )  # fmt: skip

    async def carry_out(self) -> Life:
        try:
            await self._intent()
            with reaching("Kafka"):
                records = await asyncio.to_thread(self._records)
            places = [record.at for record in records if record.at.topic in _MAIN]
            for arm in CONSUMER_ARMS.values():
                await self._effects(arm)
        finally:
            await self._connections.close()
        if not self._moments:
            raise LookupError(f"no store knows a message {self._id}")
        self._logs(await asyncio.to_thread(read_journal, Path(self._settings.home), PARTS), places)
        self._life.timeline = sorted(self._moments)
        return self._life

    def _add(self, at: float | None, hop: str, who: str, what: str) -> None:
        if at is not None:
            self._moments.append(Moment(at, hop, who, what))

    async def _intent(self) -> None:
        for arm in PUBLISHER_ARMS.values():
            for kind in arm.kinds:
                database = arm.database(kind)
                for made, key, run, trace, business_id, effects in await self._rows(database, "explain_intent"):
                    life = self._life
                    life.kind, life.publisher, life.run, life.key = kind.name, arm.name, run, key
                    life.trace_id = trace.split("-")[1] if trace.count("-") == 3 else None
                    what = f"intent {business_id} committed, for {', '.join(effects)}"
                    self._add(made, "accept", arm.producer(kind), what)
                    self._calls(key, arm)
                if arm.outbox != "none":
                    for at, what in await self._rows(database, "explain_outbox"):
                        self._add(at, "publish", arm.name, what)

    def _calls(self, key: str, arm: PublisherArm) -> None:
        for line in ClientLedger(Path(self._settings.home) / "ledger").lines(key, arm.name):
            outcome = line.outcome if line.phase == "answer" else ""
            self._add(line.at, "accept", "the client", f"{line.phase} {outcome}".strip())

    def _records(self) -> list[Record]:
        """Every record of the message, on any topic: each topic is read from its beginning."""
        kafka, found = self._settings.kafka, list[Record]()
        there = bounds(kafka, _TOPICS)
        for record in records_between(kafka, there.firsts, there.ends):
            if key_of_record(record.at, record.headers) == self._id.bytes:
                found.append(record)
                hop, who = _TOPICS[record.at.topic]
                origin = origin_of(record.headers)
                fields = dict(record.headers)
                more = [f"of {origin}"] if origin else []
                more += [
                    f"{name.removeprefix('lab-')} {fields[name].decode(errors='replace')}"
                    for name in _TOLD
                    if name in fields
                ]
                self._add(record.time, hop, who, " ".join([f"record {record.at}", *more]))
        return found

    async def _effects(self, arm: ConsumerArm) -> None:
        name, schema = arm.name, {"schema": arm.schema}
        for statement in ("explain_record", "explain_letter", "explain_letter_log"):
            for at, what in await self._rows("payments", statement, **schema):
                self._add(at, "process", name, what)
        if arm.dedups:
            for statement in ("explain_inbox", "explain_dedup", "explain_email"):
                for at, what in await self._rows("payments", statement, **schema):
                    self._add(at, "process", name, what)
        provider = SQL["explain_calls"]
        for at, what in await self._connections.fetch(self._settings.ledger, "provider", provider, str(self._id), name):
            self._add(at, "process", name, what)

    async def _rows(self, database: str, statement: str, **names: str) -> list[Any]:
        query = SQL[statement]
        for name, value in names.items():
            query = query.replace(f"{{{name}}}", value)
        return await self._connections.fetch(self._settings.postgres, database, query, self._id)

    def _logs(self, journal: Journal, places: Sequence[Coordinates]) -> None:
        for said in journal.about(str(self._id)):
            if said.event not in _QUIET:
                detail = " ".join(f"{name}={value}" for name, value in said.fields.items() if name in _WORDS)
                self._add(said.at, _hop_of(said.process), said.process, f"{said.event} {detail}".strip())
        for at in places:
            for arm in CONSUMER_ARMS.values():
                if found := journal.passed(f"arm.{arm.name}", at):
                    self._add(found.at, "process", found.process, f"offset {at} passed: {found.position} committed")
        first, last = min(m.at for m in self._moments), max(m.at for m in self._moments)
        for fault in journal.overlapping(first - _AFTER_S, last + _AFTER_S):
            self._life.faults.append(Window(fault.fault, fault.target, fault.started, fault.ended))
            if fault.fault != "arm" and fault.started >= first - _BEFORE_S:
                place = fault.details.get("failpoint", "")
                self._add(fault.started, "fault", fault.target, f"{fault.fault} {place}".strip())


def _hop_of(process: str) -> str:
    part = part_of(process)
    if part.startswith(("arm.", "retry.")) or part == "provider":
        return "process"
    return "accept" if part.startswith(("orders", "refunds")) else "publish"


def _topics() -> Iterator[tuple[str, tuple[str, str]]]:
    for publisher in PUBLISHER_ARMS.values():
        yield from ((publisher.topic(kind), ("publish", publisher.name)) for kind in publisher.kinds)
    for arm in CONSUMER_ARMS.values():
        own: Iterable[str] = (*arm.retry_topics, arm.redelivery_topic, arm.dead_letter_topic, arm.output_topic)
        yield from ((topic, ("process", arm.name)) for topic in own if topic)


_TOPICS: Final = dict(_topics())
_MAIN: Final = frozenset(topic for topic, (hop, _) in _TOPICS.items() if hop == "publish")
_TOLD: Final = ("lab-via", "lab-attempts", "lab-reason", "lab-injected")
_WORDS: Final = frozenset({"at", "effect", "reason", "detail", "tier", "attempts", "decision", "claimed_by", "outcome"})
