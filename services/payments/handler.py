"""From records to their effects: decode once, let the arm apply, send on what was not applied, say so."""

import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.structs import ConsumerRecord

from services.broker.delivery import Chunk
from services.domain.forwarding import forwarding_of
from services.domain.messages import KINDS, Coordinates, Message, Undecodable, decode, message_id_of
from services.payments.arms.base import Arm, Tools
from services.payments.dispatch import Dispatch, Source
from services.payments.observer import InHand
from services.payments.unapplied import Letter, Unapplied

_MAIN: Final = frozenset(kind.topic for kind in KINDS)


class Handler:
    """Handles the records of one arm. When `handle` returns, every one of them has its destination."""

    def __init__(self, tools: Tools, arm: Arm, dispatch: Dispatch) -> None:
        self._tools = tools
        self._arm = arm
        self._dispatch = dispatch

    async def handle_chunk(self, chunk: Chunk) -> None:
        """Handle a chunk of Faust's."""
        await self.handle(chunk.records)

    async def handle(self, records: Sequence[ConsumerRecord]) -> None:
        """Handle consecutive records of one partition. Raises what ends the process: they are then delivered again."""
        with self._tools.observer.in_hand(records) as in_hand:
            await self._handle(records, in_hand)

    async def _handle(self, records: Sequence[ConsumerRecord], in_hand: InHand) -> None:
        tools = self._tools
        where = _where(records)
        plain = where["topic"] in _MAIN  # what was retried, redriven or replayed is anything but plainly applied
        group = tools.arm.group if plain or not tools.arm.retries else tools.arm.lane_group
        trail = tools.trails.begin(group)
        tools.log.event("offset.received", arm=tools.arm.name, **where)
        tools.metrics.add(
            "messaging.client.consumed.messages", len(records), arm=tools.arm.name, topic=where["topic"]
        )  # fmt: skip
        taken = Taken(records, now_ms=int(time.time() * 1000))
        trail.take(taken.sources)
        await self._dispatch.send_round(taken.early)
        failed = await self._arm.apply(taken.messages) if taken.messages else Unapplied()
        buried: set[Coordinates] = set()
        if failed := failed + Unapplied(taken.letters):
            buried = await self._dispatch.send_on(taken.sources, failed)
        tools.observer.redriven(taken.vias, buried, failed.places())
        ids = trail.finish(taken.messages, special=not plain)
        in_hand.done(trail.told)
        tools.log.event("offset.applied", arm=tools.arm.name, **where, **ids)


class Taken:
    """Decoded records: messages, letters about what is none, and for each its source, by its origin.

    `early`: asked to wait for longer than their tier lasts.
    """

    def __init__(self, records: Sequence[ConsumerRecord], *, now_ms: int) -> None:
        self.early: list[Source] = []
        self.messages: list[Message] = []
        self.letters: list[Letter] = []
        self.sources: dict[Coordinates, Source] = {}
        for record in records:
            self._take(record, now_ms)

    @property
    def vias(self) -> dict[Coordinates, str]:
        """How each record came that did not come on its topic."""
        return {at: source.life.via for at, source in self.sources.items() if source.life.via}

    def _take(self, record: ConsumerRecord, now_ms: int) -> None:
        at = Coordinates(record.topic, record.partition, record.offset)
        try:
            life = forwarding_of(record.headers, at)
            if life.due_ms > now_ms:
                self.early.append(Source(record, life))
                return
            self.sources[life.origin] = Source(record, life)
            at = life.origin
            self.messages.append(
                decode(record.key, record.value, record.headers, at, via=life.via, attempts=life.attempts)
            )  # fmt: skip
        except Undecodable as error:
            self.letters.append(Letter(at, message_id_of(record.headers), error.reason, error.detail))


def _where(records: Sequence[ConsumerRecord]) -> dict[str, Any]:
    first, last = records[0], records[-1]
    return {
        "topic": first.topic,
        "partition": first.partition,
        "first_offset": first.offset,
        "last_offset": last.offset,
        "count": len(records),
    }
