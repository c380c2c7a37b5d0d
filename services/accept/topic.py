"""Publishing from a request's handler, as the dual writes do."""

import asyncio
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from services.accept.intents import NewIntent
from services.broker.producer import BatchProducer
from services.broker.publication import publication
from services.broker.sends import Sends
from services.http.problem import unavailable

CONFIRMATION_S: Final = 2.0  # below the 4 s after which Postgres ends a transaction that does nothing


class Topic:
    """The topic of one producer."""

    def __init__(self, producer: BatchProducer, name: str, sends: Sends) -> None:
        self._producer = producer
        self._sends = sends
        self._name = name

    async def publish(self, message_id: UUID, new: NewIntent) -> None:
        """Publish and wait for the broker's confirmation.

        Raises Problem `unavailable` after 2 s without one; the record may still reach the topic.
        """
        key, now = new.payload.customer_id.encode(), datetime.now(UTC)
        record = publication(self._name, message_id, key, new.kind.type, new.value, new.headers(), now)
        sending = self._sends.begin([record]) if new.trace.sampled else None
        try:
            failures = await asyncio.wait_for(self._producer.send([record]), CONFIRMATION_S)
        except TimeoutError:
            self._sends.end(sending, {0: "timeout"})
            raise unavailable("the broker did not confirm in time") from None
        self._sends.end(sending, {failure.index: failure.reason for failure in failures})
        if failures:
            raise unavailable(f"the broker did not confirm: {failures[0].reason}")
