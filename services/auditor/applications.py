"""How often an arm applied an effect, from where the outside world keeps it: a table, the provider, an output topic."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Protocol

import msgspec

from services.auditor.facts import against_records
from services.auditor.history import Applied, Key, Published, origin_of
from services.auditor.stores import Application, Stores, reaching
from services.broker.reader import Offsets, bounds, records_between
from services.domain.arms import ConsumerArm
from services.domain.messages import RUN_HEADER, Coordinates


class Applications(Protocol):
    """One effect of one arm."""

    async def read(self) -> Applied:
        """Everything there is."""

    async def look_again(self, first: Applied, keys: Collection[Key]) -> Applied:
        """Newer counts of these messages."""


class Known(msgspec.Struct, frozen=True):
    """What the reading of effects needs to know from before."""

    published: Published
    messages: Collection[Key]  # whom an effect that names no run may belong to
    lives: Mapping[str, str]  # whose process a life is of
    firsts: Mapping[tuple[str, int], int] = {}  # the first offset that is still there, of each partition

    def dropped(self, key: Key, at: Coordinates) -> bool:
        """Whether the record that an application was for may have been one that the broker has dropped."""
        return not self.published.copies[key] and at.offset < self.firsts.get((at.topic, at.partition), 0)


def applications(stores: Stores, arm: ConsumerArm, effect: str, known: Known) -> Applications:
    """The reader of an arm's effect."""
    if effect == "output":
        return _InTopic(stores, arm, known)
    return _InStore(stores, arm, effect, known)


def wrong(arm: str, effect: str, known: Known, found: Application) -> str:
    """What is wrong with an application; nothing of one of a message that is not known."""
    if fields := against_records(effect, known.published.facts[found.key], found.facts):
        return f"not as its record asked: {fields}"
    return made_by_another(arm, known.lives, found.life)


def made_by_another(arm: str, lives: Mapping[str, str], life: str) -> str:
    """Says whose process it was, if it was another arm's."""
    owner = lives.get(life, arm)
    return f"made by a process of the arm {owner}" if owner != arm else ""


class _InStore:
    def __init__(self, stores: Stores, arm: ConsumerArm, effect: str, known: Known) -> None:
        self._stores, self._arm, self._effect, self._known = stores, arm, effect, known
        self._several = known.published.copies.repeated() if arm.per_record else ()

    async def read(self) -> Applied:
        known = self._known.messages
        return await self._take(
            found
            async for found in self._stores.applications(self._arm, self._effect)
            if found.ours or found.key in known
        )

    async def look_again(self, first: Applied, keys: Collection[Key]) -> Applied:
        return await self._take(self._stores.applications_among(self._arm, self._effect, keys))

    async def _take(self, stream: AsyncIterator[Application]) -> Applied:
        taken = Applied({}, {}, {})
        async for found in stream:
            if self._known.dropped(found.key, found.at):
                continue
            if why := wrong(self._arm.name, self._effect, self._known, found):
                taken.wrong.setdefault(found.key, why)
                continue
            taken.of[found.key] = taken.of.get(found.key, 0) + 1
            if found.key in self._several:
                taken.at[found.at] = taken.at.get(found.at, 0) + 1
        return taken


class _InTopic:
    """Counted by the record that each output came from, as its readers see them: committed transactions only."""

    def __init__(self, stores: Stores, arm: ConsumerArm, known: Known) -> None:
        self._kafka, self._run, self._topic = stores.settings.kafka, stores.run, arm.output_topic
        self._published, self._known = known.published, known
        self._ends: Offsets = {}

    async def read(self) -> Applied:
        with reaching("Kafka"):
            return self._by_message(await asyncio.to_thread(self._news))

    async def look_again(self, first: Applied, keys: Collection[Key]) -> Applied:
        with reaching("Kafka"):
            news = self._by_message(await asyncio.to_thread(self._news))
        several = [at for key in keys for at in self._published.copies[key]]
        return Applied(
            Counter({key: count for key in keys if (count := first.of.get(key, 0) + news.of.get(key, 0))}),
            Counter({at: count for at in several if (count := first.at.get(at, 0) + news.at.get(at, 0))}),
        )

    def _news(self) -> Counter[Coordinates]:
        """How often each record was put out since the last look; what names none is known by its own place."""
        starts, self._ends = self._ends, bounds(self._kafka, [self._topic], stable=True).ends
        found = Counter[Coordinates]()
        for record in records_between(self._kafka, starts, self._ends, stable=True):
            if self._run in (None, dict(record.headers).get(RUN_HEADER, b"").decode(errors="replace")):
                found[origin_of(record.headers) or record.at] += 1
        return found

    def _by_message(self, origins: Mapping[Coordinates, int]) -> Applied:
        of, places, several = Counter[Key](), self._published.places(), self._published.copies.repeated()
        for at, count in origins.items():
            if not self._known.dropped(places.get(at, at), at):
                of[places.get(at, at)] += count
        return Applied(of, {at: count for at, count in origins.items() if places.get(at) in several})
