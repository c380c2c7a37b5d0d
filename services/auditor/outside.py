"""Takes in how often an arm applied an effect, from where the world keeps it: a table, the provider, a topic."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from services.auditor.bulk import Bulk
from services.auditor.history import Key, origin_of
from services.auditor.stores import Application, Stores, reaching
from services.broker.reader import Offsets, bounds, records_between
from services.domain.arms import ConsumerArm
from services.domain.messages import RUN_HEADER


class Applications(Protocol):
    """One effect of one arm."""

    async def read(self) -> None:
        """Take in everything there is."""

    async def again(self, messages: Collection[Key]) -> Sequence[Application]:
        """What there is by now of these messages."""


def applications(
    stores: Stores, arm: ConsumerArm, effect: str, bulk: Bulk, topics: Collection[str]
) -> Applications:  # fmt: skip
    """The reader of an arm's effect; `topics`: those that the arm reads."""
    if effect == "output":
        return _InTopic(stores, arm, bulk, topics)
    return _InStore(stores, arm, effect, bulk)


class _InStore:
    def __init__(self, stores: Stores, arm: ConsumerArm, effect: str, bulk: Bulk) -> None:
        self._stores, self._arm, self._effect, self._bulk = stores, arm, effect, bulk

    async def read(self) -> None:
        async for found in self._stores.applications(self._arm, self._effect):
            self._bulk.take_application(found)

    async def again(self, messages: Collection[Key]) -> Sequence[Application]:
        return [found async for found in self._stores.applications_among(self._arm, self._effect, messages)]


class _InTopic:
    """Counted by the record that each output came from, as its readers see them: committed transactions only."""

    def __init__(self, stores: Stores, arm: ConsumerArm, bulk: Bulk, topics: Collection[str]) -> None:
        self._kafka, self._run, self._topic = stores.settings.kafka, stores.run, arm.output_topic
        self._bulk, self._topics = bulk, topics
        self._ends: Offsets = {}

    async def read(self) -> None:
        with reaching("Kafka"):
            await asyncio.to_thread(self._news)
        self._bulk.trace_outputs(self._topics)

    async def again(self, messages: Collection[Key]) -> Sequence[Application]:
        await self.read()
        return self._bulk.applications(messages)

    def _news(self) -> None:
        """The record of each output since the last look; what names none is known by its own place."""
        there = bounds(self._kafka, [self._topic], stable=True)
        starts, self._ends = self._ends or there.firsts, there.ends
        for record in records_between(self._kafka, starts, self._ends, stable=True):
            if self._run in (None, dict(record.headers).get(RUN_HEADER, b"").decode(errors="replace")):
                self._bulk.take_output(origin_of(record.headers) or record.at)
