"""The two loops of the probe: one look a second at the broker and one at Postgres; an outage of one blinds no other."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import msgspec

from services.bootstrap import Process
from services.broker.topics import MAIN_TOPICS, TOPICS
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.probe.board import Board, BrokerSaid, PostgresSaid
from services.probe.broker import AWAY as BROKER_AWAY
from services.probe.broker import Broker
from services.probe.databases import Databases, outboxes_of
from services.probe.lag import Offsets, lags
from services.settings import Settings
from services.storage.postgres import AWAY

EVERY_S: Final = 1.0
_LOG: Final = logging.getLogger("probe")
_MAIN: Final = tuple(topic.name for topic in MAIN_TOPICS)


class Watched(msgspec.Struct, frozen=True):
    """The arms of this lab."""

    publishers: Sequence[PublisherArm]
    consumers: Sequence[ConsumerArm]

    @classmethod
    def of(cls, settings: Settings) -> "Watched":
        """The arms that the settings name; no consumer arm named: all of them."""
        consumers = settings.consumers.split(",") if settings.consumers else list(CONSUMER_ARMS)
        return cls(
            [arm for arm in PUBLISHER_ARMS.values() if arm.name in settings.publishers.split(",")],
            [arm for arm in CONSUMER_ARMS.values() if arm.name in consumers],
        )

    def topics(self) -> Iterator[tuple[str, str, str]]:
        """(place, arm, topic) of every topic that their messages go through."""
        for publisher in self.publishers:
            yield from (("main", publisher.name, publisher.topic(kind)) for kind in publisher.kinds)
        for arm in self.consumers:
            yield from (("retry", arm.name, topic) for topic in arm.retry_topics)
            own = (
                ("redelivery", arm.redelivery_topic),
                ("dead_letters", arm.dead_letter_topic),
                ("output", arm.output_topic),
            )
            yield from ((place, arm.name, topic) for place, topic in own if topic)


async def watch_broker(process: Process, watched: Watched, board: Board) -> None:
    """Look once a second, until cancelled. A look blocks, so it is a thread's; it is bounded by its time-outs.

    Clients that failed are made anew: they were seen to go on failing for minutes after the broker was back.
    """
    topics = list(watched.topics())
    names = {topic for _, _, topic in topics} | set(_MAIN)
    partitions = {topic.name: topic.partitions for topic in TOPICS if topic.name in names}
    broker: Broker | None = None
    try:
        async for _ in _every(EVERY_S):
            broker = broker or Broker(process.settings.kafka, partitions)
            try:
                board.broker_said(await asyncio.to_thread(_look_at_broker, broker, topics, watched.consumers))
            except BROKER_AWAY as error:
                if board.broker_said(None):
                    _LOG.warning("the broker does not answer, its figures are absent: %r", error)
                gone, broker = broker, None
                await asyncio.to_thread(gone.close)
    finally:
        if broker is not None:
            broker.close()


def _look_at_broker(broker: Broker, topics: Sequence[tuple[str, str, str]], arms: Sequence[ConsumerArm]) -> BrokerSaid:
    there = broker.topics()  # the ends first: what is appended meanwhile is for the next look
    committed = broker.committed([arm.group for arm in arms] + [arm.lane_group for arm in arms if arm.retries])
    behind = {arm.name: list(lags(there, _MAIN, committed[arm.group])) for arm in arms}
    wanted = [lag.place for arm in behind.values() for lag in arm if lag.messages]
    sums = {arm.name: _summed([committed[arm.group], committed.get(arm.lane_group, {})]) for arm in arms}
    return BrokerSaid(
        {(place, arm, topic): there.end_of(topic) for place, arm, topic in topics},
        {(arm, topic): offset for arm, by_topic in sums.items() for topic, offset in by_topic.items()},
        behind,
        dict(broker.times(wanted)),
    )


def _summed(groups: Sequence[Offsets]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for offsets in groups:
        for (topic, _), offset in offsets.items():
            sums[topic] = sums.get(topic, 0) + offset
    return sums


async def watch_postgres(process: Process, watched: Watched, board: Board) -> None:
    """Look once a second, until cancelled. A database that does not answer leaves the others' figures."""
    databases = Databases(process.settings.postgres, process.settings.process)
    try:
        async for _ in _every(EVERY_S):
            said, whole = await _look_at_postgres(databases, watched)
            board.postgres_said(said, whole=whole)
    finally:
        await databases.close()


async def _look_at_postgres(databases: Databases, watched: Watched) -> tuple[PostgresSaid, bool]:
    outboxes, slots, letters = {}, {}, {}
    wanted = outboxes_of(watched.publishers, watched.consumers)
    missing = len(wanted)
    for arm, database, kept in wanted:
        with contextlib.suppress(*AWAY):
            outboxes[arm, database] = await databases.outbox(database, kept)
            if kept == "snapshot":
                slots[arm] = await databases.slot_bytes(database)
            missing -= 1
    try:
        letters = dict(await databases.letters(watched.consumers))
    except AWAY:
        missing += 1
    return PostgresSaid(outboxes, letters, slots), missing == 0


async def _every(interval_s: float) -> AsyncIterator[None]:
    """Once an interval, without catching up on what was missed."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        yield
        await asyncio.sleep(max(0.0, began + interval_s - loop.time()))
