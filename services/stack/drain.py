"""When nothing waits any more: outboxes and retry tiers empty, every group at the end of its topics, emails sent.

A part that does not answer counts as something that waits: nothing is known of what it holds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final

import msgspec
from confluent_kafka import KafkaException

from services.broker.reader import Bounds, Offsets, bounds, committed, records_between
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.storage.pending import PENDING
from services.storage.postgres import AWAY, connect

_LOOKS: Final = 2  # in a row
_BETWEEN_LOOKS_S: Final = 1.0
_STATEMENT_S: Final = 5.0
_COUNTED: Final = 10_000  # records at most that are read to be counted; of more, how far apart the offsets are will do
_OUTBOX: Final = {kept: f"SELECT count(*) FROM outbox WHERE {pending}" for kept, pending in PENDING.items()}  # noqa: S608
_EMAILS: Final = "SELECT count(*) FROM {table} WHERE state IN ('pending', 'claimed')"


class Arms(msgspec.Struct, frozen=True):
    """Whose places are looked into."""

    publishers: Sequence[PublisherArm] = tuple(PUBLISHER_ARMS.values())
    consumers: Sequence[ConsumerArm] = tuple(CONSUMER_ARMS.values())


ALL_ARMS: Final = Arms()


class Waiting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What waits in one place: messages, or a place that does not answer, with the reason."""

    place: str
    messages: int | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.messages is None:
            return f"{self.place} ({self.why})"
        where, on, topic = self.place.partition(" on ")
        return f"{where}: {self.messages} message{'s' * (self.messages != 1)}{on}{topic}"


async def drain(
    postgres: str, kafka: str, timeout_s: float, on_look: Callable[[list[Waiting]], None], arms: Arms = ALL_ARMS
) -> list[Waiting]:  # fmt: skip
    """Look once a second until nothing waits in two looks in a row; returns what waits when the time is over.

    A broker that does not answer can hold a look up for 10 s. Whether the load has ended is the caller's to know.
    """
    deadline = time.monotonic() + timeout_s
    quiet = 0
    while True:
        next_look = time.monotonic() + _BETWEEN_LOOKS_S
        found = await look(postgres, kafka, arms)
        on_look(found)
        quiet = 0 if found else quiet + 1
        if quiet == _LOOKS:
            return []
        if max(next_look, time.monotonic()) > deadline:
            return found or [Waiting("a second look", why="the first found nothing")]
        await asyncio.sleep(next_look - time.monotonic())  # not at all after a look that took longer


async def look(postgres: str, kafka: str, arms: Arms = ALL_ARMS) -> list[Waiting]:
    """What waits now, read along the way that messages take, so that none slips by between two reads."""
    outboxes = [waiting async for waiting in _outboxes(postgres, arms)]
    groups = await asyncio.to_thread(lambda: list(_groups(kafka, arms)))
    emails = [waiting async for waiting in _emails(postgres, arms)]
    return outboxes + groups + emails


async def _outboxes(postgres: str, arms: Arms) -> AsyncIterator[Waiting]:
    for arm in arms.publishers:
        for kind in arm.kinds if arm.outbox != "none" else ():
            place = f"the outbox of {arm.producer(kind)}"
            if found := await _count(postgres, arm.database(kind), "outbox", _OUTBOX[arm.outbox], place):
                yield found
    if any(arm.dead_letters for arm in arms.consumers):
        query = _OUTBOX["until_confirmed"]
        if found := await _count(postgres, "payments", "outbox", query, "the outbox of payments (redriven letters)"):
            yield found


async def _emails(postgres: str, arms: Arms) -> AsyncIterator[Waiting]:
    for arm in arms.consumers:
        table = f"{arm.schema}.emails"
        query = _EMAILS.format(table=table)
        if found := await _count(postgres, "payments", table, query, f"the emails of arm.{arm.name}"):
            yield found


async def _count(postgres: str, database: str, table: str, query: str, place: str) -> Waiting | None:
    """The rows that a query counts; None where there are none, or no such table."""
    try:
        connection = await connect(postgres, database, name="drain")
        try:
            there = await connection.fetchval("SELECT to_regclass($1)", table, timeout=_STATEMENT_S)
            count = await connection.fetchval(query, timeout=_STATEMENT_S) if there else 0
        finally:
            await connection.close(timeout=_STATEMENT_S)
    except AWAY as error:
        return Waiting(place, why=str(error) or type(error).__name__)
    return Waiting(place, count) if count else None


def _groups(kafka: str, arms: Arms) -> Iterator[Waiting]:
    try:
        # the ends first: what is appended between the two reads is for the next look
        ends = bounds(kafka, [topic.name for topic in MAIN_TOPICS])
        for arm in arms.consumers:
            yield from behind(f"arm.{arm.name}", ends, committed(kafka, arm.group))
        for arm in arms.consumers:
            yield from _sent_on(kafka, arm)
    except KafkaException as error:
        yield Waiting("kafka", why=error.args[0].str())


def _sent_on(kafka: str, arm: ConsumerArm) -> Iterator[Waiting]:
    """Records in the arm's retry tiers and its redelivery topic. Markers of transactions and aborted records lie there,
    too, and nobody commits those: so what is behind is read."""
    topics = [topic for topic in (*arm.retry_topics, arm.redelivery_topic) if topic]
    if not topics:
        return
    reader, group = (f"retry.{arm.name}", arm.lane_group) if arm.retries else (f"arm.{arm.name}", arm.group)
    # the offsets first: what moves from one of these topics to another meanwhile is seen in at least one of them
    offsets = committed(kafka, group)
    stable, last = bounds(kafka, topics, stable=True), bounds(kafka, topics)
    for waiting in behind(reader, last, offsets):
        topic = waiting.place.rpartition(" ")[2]
        messages = waiting.messages or 0
        if messages <= _COUNTED:
            undecided = sum(end - stable.ends[place] for place, end in last.ends.items() if place[0] == topic)
            messages = undecided + _records(kafka, topic, stable, offsets)
        if messages:
            yield Waiting(waiting.place, messages)


def _records(kafka: str, topic: str, stable: Bounds, offsets: Offsets) -> int:
    """How many committed records of the topic lie before the group."""
    ends = {place: end for place, end in stable.ends.items() if place[0] == topic}
    starts = {place: max(offsets.get(place, 0), stable.firsts[place]) for place in ends}
    return sum(1 for _ in records_between(kafka, starts, ends, stable=True))


def behind(arm: str, topics: Bounds, offsets: Offsets) -> Iterator[Waiting]:
    """How many records each topic has that a group has not committed; without a commit it starts at the log's start."""
    missing: dict[str, int] = {}
    for (topic, number), end in topics.ends.items():
        position = max(offsets.get((topic, number), 0), topics.firsts[topic, number])
        missing[topic] = missing.get(topic, 0) + max(0, end - position)
    for topic, messages in missing.items():
        if messages:
            yield Waiting(f"{arm} on {topic}", messages)
