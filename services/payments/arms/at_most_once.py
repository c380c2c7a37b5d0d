"""Arm `at_most_once`: the offset first, then the effects.

    1. commit        the chunk's position, confirmed under the generation in which the chunk was fetched
    2. charge        one call, without Idempotency-Key
    3. record        all of the chunk in one statement, one try
    4. email         one call

What fails after 1 is dropped: its offset is passed, so nothing brings it back. Whatever ends the process between 1 and
4 loses the rest of the chunk. A second try could do twice what was done and not answered: there is none.
"""

import asyncio
from collections.abc import Sequence

from services.broker.delivery import Chunk, DeliveryApp
from services.broker.lanes import Handle
from services.domain.messages import Message
from services.failpoints import InjectedError
from services.payments.arms.base import Tools, wanting, without
from services.payments.patience import failure_of
from services.payments.trail import mark, step
from services.payments.unapplied import Deferred, Unapplied
from services.storage.postgres import AWAY, in_doubt


def committed_first(app: DeliveryApp, tools: Tools, handle: Handle) -> Handle:
    """Step 1, before anything else is done with a chunk. One that was taken away meanwhile is left to its new owner."""

    async def commit_then_handle(chunk: Chunk) -> None:
        if await app.consumer.commit_first(chunk):
            try:
                await tools.failpoints.hit("process.after_commit_before_effect")
            except InjectedError as error:
                _tell_dropped(tools, chunk, error)
            else:
                await handle(chunk)

    return commit_then_handle


def _tell_dropped(tools: Tools, chunk: Chunk, error: InjectedError) -> None:
    """A chunk that failed before it was decoded: what was in it, nobody knows."""
    for record in chunk.records:
        at = f"{record.topic}/{record.partition}/{record.offset}"
        tools.log.event(
            "effect.dropped",
            "warning",
            arm=tools.arm.name,
            effect="record",
            at=at,
            detail=str(error),
            **{"message.id": ""},
        )


class AtMostOnce:
    """Duplicated 0 per record; lost whatever fails, and what a crash finds behind the commit."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def apply(self, messages: Sequence[Message]) -> Unapplied:
        """Apply all effects of a chunk, each tried once. What fails is said and dropped, with what follows from it."""
        tools, provider = self._tools, self._tools.provider
        good = self._drop("record", await tools.passing("process.after_read", messages), messages)
        charging = wanting("charge", good)
        good = self._drop("charge", await tools.each("charge", charging, provider.charge), good)
        if charging:
            unanswered = await tools.passing("process.after_charge_before_record", wanting("charge", good))
            good = self._drop("record", unanswered, good)
        good = self._drop("record", await self._insert_records(good), good)
        emailing = wanting("email", good)
        self._drop("email", await tools.each("email", emailing, self._email), emailing)
        return Unapplied()

    async def run_beside(self) -> None:
        """Nothing: everything happens within the chunk."""
        await asyncio.Event().wait()

    async def _email(self, message: Message) -> None:
        await self._tools.provider.email(message.id, message.payload.customer_id, message.at)

    async def _insert_records(self, messages: Sequence[Message]) -> Unapplied:
        try:
            with step("record", messages):
                await self._tools.ledger.try_to_insert_records(messages)
        except AWAY as error:
            failure = failure_of(error)
            if not in_doubt(error):  # else the ledger has counted it
                self._tools.count("record", "failed", len(messages))
            return Unapplied(deferred=[Deferred(message, failure, 1) for message in messages])
        self._tools.count("record", "applied", len(messages))
        return Unapplied()

    def _drop(self, effect: str, failed: Unapplied, messages: Sequence[Message]) -> list[Message]:
        """Say what was dropped; returns the messages that go on."""
        dropped = [(letter.at, letter.message_id, letter.detail) for letter in failed.letters]
        dropped += [(one.message.at, one.message.id, one.failure.detail) for one in failed.deferred]
        for at, message_id, detail in dropped:
            self._tools.log.event(
                "effect.dropped", "warning", arm=self._tools.arm.name, effect=effect, at=str(at), detail=detail[:300],
                **{"message.id": str(message_id)}, **mark(at, "dropped", reason=detail[:100]),
            )  # fmt: skip
        return without(failed, messages)
