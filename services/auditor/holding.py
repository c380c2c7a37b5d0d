"""What an arm holds: read along the way that a record takes through its places, each later than the one before.

A letter may go round (parked, redriven, carried, sent on, parked again), so letters are read first and last: what was
parked when the audit began and is redriven when it ends was on its way, and waits.
"""

import asyncio
from itertools import chain

import msgspec

from services.auditor.history import Holdings, Letter, Letters, Redrives, origin_of
from services.auditor.stores import Stores, reaching
from services.broker.reader import bounds, committed, records_between
from services.domain.arms import ConsumerArm
from services.domain.messages import Coordinates


class Start(msgspec.Struct, frozen=True):
    """The places that are read before all others."""

    letters: Letters
    redrives: Redrives


async def begin(stores: Stores, arm: ConsumerArm) -> Start:
    """The letters, then what the relay has yet to carry of them."""
    return Start(await stores.letters(arm), await stores.redrives(arm))


async def finish(stores: Stores, arm: ConsumerArm, start: Start) -> Holdings:
    """Committed offsets, then the records that were sent on, then letters and emails."""
    with reaching("Kafka"):
        offsets = await asyncio.to_thread(committed, stores.settings.kafka, arm.group)
        forwarded = await asyncio.to_thread(waiting_before, stores.settings.kafka, arm)
        logged = await asyncio.to_thread(_dead_lettered, stores.settings.kafka, arm)
    letters = await stores.letters(arm)
    moving = settle_letters(letters, start)
    sent_on = start.redrives.queued | moving | forwarded
    return Holdings(offsets, letters, await stores.emails(arm), sent_on, logged - letters.at.keys())


def settle_letters(letters: Letters, start: Start) -> set[Coordinates]:
    """Park again what the relay has refused; returns what was redriven since the start, and so is on its way."""
    moving = {at for at, letter in letters.at.items() if letter.state == "redriven" and _was_parked(start, at)}
    for at, reason in start.redrives.refused.items():
        if at in letters.at and letters.at[at].state == "redriven":
            letters.at[at] = Letter("parked", reason)
    return moving


def _was_parked(start: Start, at: Coordinates) -> bool:
    letter = start.letters.at.get(at)
    return letter is not None and letter.state == "parked"


def _dead_lettered(kafka: str, arm: ConsumerArm) -> set[Coordinates]:
    """The origins of the records on the arm's dead-letter topic, which is the log of what the table is the state of."""
    if not arm.dead_letter_topic:
        return set()
    there = bounds(kafka, [arm.dead_letter_topic])
    return {origin_of(record.headers) or record.at for record in records_between(kafka, there.firsts, there.ends)}


def waiting_before(kafka: str, arm: ConsumerArm) -> set[Coordinates]:
    """The origins of the records that lie before the arm in its retry tiers and its redelivery topic."""
    topics = [topic for topic in (*arm.retry_topics, arm.redelivery_topic) if topic]
    if not topics:
        return set()
    # offsets first: what moves on from one of these topics to another is then seen in at least one of them
    offsets = committed(kafka, arm.lane_group if arm.retries else arm.group)
    stable, last = bounds(kafka, topics, stable=True), bounds(kafka, topics)
    starts = {place: max(offsets.get(place, 0), first) for place, first in last.firsts.items()}
    # an open transaction may yet be committed: until then its records wait
    undecided = {place: max(starts[place], end) for place, end in stable.ends.items()}
    waiting = chain(
        records_between(kafka, starts, stable.ends, stable=True), records_between(kafka, undecided, last.ends)
    )  # fmt: skip
    return {origin_of(record.headers) or record.at for record in waiting}
