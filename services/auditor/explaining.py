"""Evidence made whole: when and where each bad message was last seen, how often it was tried, what struck it, and why.

A few queries a row, for the listed messages only and after the verdict: nothing here changes it.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from services.auditor.evidence import trace_id
from services.auditor.history import Key, coordinates_of, key_of
from services.auditor.journal import Journal, read_journal
from services.auditor.ledger import ClientLedger, Tried
from services.auditor.stores import Seen, Stores, reaching
from services.auditor.why import Case, clock, why
from services.broker.reader import records_at
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.audit import Evidence, Window
from services.domain.messages import Coordinates

_FAULTS: Final = 10  # windows that are listed of one message
_AFTER_S: Final = 30.0  # a message's life on a hop, where nothing says when it ended
_LOOKED_UP: Final = 400  # records of the topics that are read again for their times


class _Known(NamedTuple):
    """What was looked up about the messages of one row."""

    parts: Sequence[str]
    made: Mapping[Key, float]
    seen: Mapping[Key, Sequence[Seen]] = {}
    tried: Mapping[Key, tuple[int, str]] = {}
    claimed: Mapping[Key, tuple[float, str]] = {}
    reasons: Mapping[Key, str] = {}


async def trace(stores: Stores, evidence: Collection[Evidence], publishers: Iterable[PublisherArm]) -> None:
    """Say of each listed message which trace made it."""
    keys, found = set(_keys(evidence)), dict[Key, str]()
    for arm in publishers:
        for kind in arm.kinds:
            found |= await stores.traceparents(arm, kind, keys)
    for item in evidence:
        item.trace_id = trace_id(found.get(_key(item), "")) if item.message_id else None


async def explain(
    stores: Stores,
    client: ClientLedger,
    evidence: Collection[Evidence],
    arms: Collection[ConsumerArm],
    publishers: Collection[PublisherArm],
) -> None:
    """Complete the evidence in place. Raises Unreachable when a store cannot be read."""
    if not evidence:
        return
    parts = [part for arm in arms for part in _working(arm)] + [part for arm in publishers for part in _publishing(arm)]
    journal = await asyncio.to_thread(read_journal, Path(stores.settings.home), parts)
    made = await _made(stores, publishers, evidence)
    consumers, producers = {arm.name: arm for arm in arms}, {arm.name: arm for arm in publishers}
    by_row: dict[tuple[str, str, str], list[Evidence]] = {}
    for item in evidence:
        by_row.setdefault((item.hop, item.arm, item.effect), []).append(item)
    for (hop, arm, effect), items in by_row.items():
        if hop == "accept":
            await _accept(client, arm, items, journal)
            continue
        if hop == "publish":
            known = await _publish(stores, producers[arm], items, made)
        else:
            known = await _process(stores, consumers[arm], effect, items, made)
        for item in items:
            _complete(item, known, journal)


def _working(arm: ConsumerArm) -> Sequence[str]:
    return f"arm.{arm.name}", f"retry.{arm.name}"


def _publishing(arm: PublisherArm) -> Sequence[str]:
    """The parts in which a publication may be lost or doubled."""
    if arm.outbox == "none":
        return [arm.producer(kind) for kind in arm.kinds]
    return ["relay" if arm.outbox == "until_confirmed" else arm.name]


def _keys(items: Iterable[Evidence]) -> list[Key]:
    return [key_of(item.message_id) for item in items if item.message_id]


def _key(item: Evidence) -> Key:
    return key_of(item.message_id or "")


def _places(item: Evidence) -> list[Coordinates]:
    return [at for text in item.at if (at := coordinates_of(text)) is not None]


async def _made(
    stores: Stores, publishers: Iterable[PublisherArm], evidence: Collection[Evidence]
) -> dict[Key, float]:  # fmt: skip
    made, keys = dict[Key, float](), set(_keys(evidence))
    for arm in publishers:
        for kind in arm.kinds:
            made |= await stores.made(arm, kind, keys)
    return made


async def _process(
    stores: Stores, arm: ConsumerArm, effect: str, items: Sequence[Evidence], made: Mapping[Key, float]
) -> _Known:
    keys = _keys(items)
    return _Known(
        _working(arm),
        made,
        await stores.seen(arm, effect, keys) if effect != "output" else {},
        await stores.tried(arm, keys),
        await stores.claimed(arm, keys) if effect == "email" else {},
    )


async def _publish(
    stores: Stores, arm: PublisherArm, items: Sequence[Evidence], made: Mapping[Key, float]
) -> _Known:  # fmt: skip
    places = [at for item in items for at in _places(item)][:_LOOKED_UP]
    with reaching("Kafka"):
        records = await asyncio.to_thread(records_at, stores.settings.kafka, places)
    seen = {_key(item): [Seen(records[at].time, at) for at in _places(item) if at in records] for item in items}
    reasons: dict[Key, str] = {}
    for kind in arm.kinds if arm.outbox == "cursor" else ():
        lost = _keys(item for item in items if item.state == "lost")
        for key, position in (await stores.positions(arm, kind, lost)).items():
            reasons[key] = f"its outbox row {position} lies below the cursor, which passed it before it was committed"
    return _Known(_publishing(arm), made, seen, reasons=reasons)


async def _accept(client: ClientLedger, arm: str, items: Sequence[Evidence], journal: Journal) -> None:
    with reaching("the client ledger"):
        tried = await asyncio.to_thread(client.tried, {item.key for item in items if item.key}, arm)
    for item in items:
        item.why = item.reason
        if calls := tried.get(item.key or ""):
            item.attempts = calls.attempts
            item.last_seen = f"attempt {calls.attempts} of the client at {clock(calls.last)}: {calls.outcome}"
            item.faults = _windows(journal, calls.first, calls.last)
            item.why = _accepted(item, calls)


def _accepted(item: Evidence, calls: Tried) -> str:
    said = f"{calls.attempts} attempts, the last one at {clock(calls.last)} {calls.outcome}"
    found = {
        "uncertain": "no intent: the client cannot know whether there is one",
        "lost": "but there is no intent",
        "unexpected": "but there is an intent",
    }
    return f"{said}, {found.get(item.state, item.reason or '')}".rstrip(", ")


def _complete(item: Evidence, known: _Known, journal: Journal) -> None:
    key = _key(item)
    made = known.made.get(key, _time_of(item.message_id))
    calls, detail = known.tried.get(key, (None, ""))
    case = Case(
        effect=item.effect,
        state=item.state,
        message_id=item.message_id,
        parts=known.parts,
        made=made,
        copies=_places(item),
        seen=sorted(known.seen.get(key, ())),
        reason=item.reason or known.reasons.get(key, ""),
        claimed=known.claimed.get(key),
    )
    told = f"{item.reason}: {detail}" if item.state == "dead_lettered" and detail else why(item.hop, case, journal)
    item.why = told[:400] or None
    item.attempts = calls if item.hop == "process" else None
    item.last_seen = _last_seen(case, journal)
    times = [*([made] if made else []), *(one.at for one in case.seen)]
    if times:
        last = max(times) if len(case.seen) > 1 else min(times) + _AFTER_S
        item.faults = _windows(journal, min(times), last)


def _last_seen(case: Case, journal: Journal) -> str | None:
    """The latest trace: an application or publication, a commit that passed it, its place on a topic, its intent."""
    if case.seen:
        last = case.seen[-1]
        by = journal.processes.get(last.life, "")
        return f"{last.where} at {clock(last.at)}{f' by {by}' if by else ''}"
    for at in reversed(case.copies):
        for part in case.parts:
            if found := journal.passed(part, at):
                return f"{at}, passed at {clock(found.at)} by {found.process}"
        return str(at)
    return f"its intent at {clock(case.made)}" if case.made else None


def _windows(journal: Journal, first: float, last: float) -> list[Window]:
    found = journal.overlapping(first, last)[:_FAULTS]
    return [Window(fault.fault, fault.target, fault.started, fault.ended) for fault in found]


def _time_of(message_id: str | None) -> float | None:
    """When a UUIDv7 was made (RFC 9562): Unix seconds; None for any other id."""
    if message_id is None:
        return None
    try:
        number = UUID(message_id)
    except ValueError:
        return None
    return (number.int >> 80) / 1000 if number.version == 7 else None
