"""When nothing waits any more: outboxes empty, every group at the end of its topics, no email left to send.

A part that does not answer counts as something that waits: nothing is known of what it holds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import msgspec
from confluent_kafka import KafkaException

from services.broker.reader import Bounds, Offsets, bounds, committed
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import KINDS
from services.storage.postgres import AWAY, connect

_LOOKS: Final = 2  # in a row
_BETWEEN_LOOKS_S: Final = 1.0
_STATEMENT_S: Final = 5.0
_OUTBOX: Final = "SELECT count(*) FROM outbox"
_EMAILS: Final = "SELECT count(*) FROM {table} WHERE state IN ('pending', 'claimed')"


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
    postgres: str, kafka: str, timeout_s: float, on_look: Callable[[list[Waiting]], None]
) -> list[Waiting]:  # fmt: skip
    """Look once a second until nothing waits in two looks in a row; returns what waits when the time is over.

    A broker that does not answer can hold a look up for 10 s. Whether the load has ended is the caller's to know.
    """
    deadline = time.monotonic() + timeout_s
    quiet = 0
    while True:
        found = await look(postgres, kafka)
        on_look(found)
        quiet = 0 if found else quiet + 1
        if quiet == _LOOKS:
            return []
        if time.monotonic() + _BETWEEN_LOOKS_S > deadline:
            return found or [Waiting("a second look", why="the first found nothing")]
        await asyncio.sleep(_BETWEEN_LOOKS_S)


async def look(postgres: str, kafka: str) -> list[Waiting]:
    """What waits now, read along the way that messages take, so that none slips by between two reads."""
    outboxes = [waiting async for waiting in _outboxes(postgres)]
    groups = await asyncio.to_thread(lambda: list(_groups(kafka)))
    emails = [waiting async for waiting in _emails(postgres)]
    return outboxes + groups + emails


async def _outboxes(postgres: str) -> AsyncIterator[Waiting]:
    for kind in KINDS:
        if found := await _count(postgres, kind.name, "outbox", _OUTBOX, f"the outbox of {kind.name}"):
            yield found


async def _emails(postgres: str) -> AsyncIterator[Waiting]:
    for arm in CONSUMER_ARMS.values():
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


def _groups(kafka: str) -> Iterator[Waiting]:
    try:
        # the ends first: what is appended between the two reads is for the next look
        ends = bounds(kafka, [topic.name for topic in MAIN_TOPICS])
        for arm in CONSUMER_ARMS.values():
            yield from behind(f"arm.{arm.name}", ends, committed(kafka, arm.group))
    except KafkaException as error:
        yield Waiting("kafka", why=error.args[0].str())


def behind(arm: str, topics: Bounds, offsets: Offsets) -> Iterator[Waiting]:
    """How many records each topic has that a group has not committed; without a commit it starts at the log's start."""
    missing: dict[str, int] = {}
    for (topic, number), end in topics.ends.items():
        position = max(offsets.get((topic, number), 0), topics.firsts[topic, number])
        missing[topic] = missing.get(topic, 0) + max(0, end - position)
    for topic, messages in missing.items():
        if messages:
            yield Waiting(f"{arm} on {topic}", messages)
