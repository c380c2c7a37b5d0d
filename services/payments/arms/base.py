"""What every arm has: its ledger, the provider, its failpoints and the place where its effects are counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from services.domain.arms import ConsumerArm
from services.domain.messages import Message
from services.failpoints import Failpoints, InjectedError
from services.payments.ledger import Ledger
from services.payments.patience import CallFailed, Patience, failure_of
from services.payments.third_party import Provider
from services.payments.trail import CURRENT, Trails
from services.payments.unapplied import Deferred, Letter, Unapplied
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics


class Arm(Protocol):
    """One way to turn messages into effects."""

    async def apply(self, messages: Sequence[Message]) -> Unapplied:
        """Apply a chunk of one partition; returns what could not be applied. Safe to be called again with it."""

    async def run_beside(self) -> None:
        """Work that does not belong to a chunk, until it is cancelled."""


class Tools(msgspec.Struct, frozen=True):
    """What an arm works with."""

    arm: ConsumerArm
    settings: Settings
    life: UUID
    log: Log
    metrics: Metrics
    failpoints: Failpoints
    ledger: Ledger
    provider: Provider
    patience: Patience
    trails: Trails

    def count(self, effect: str, outcome: str, amount: int = 1) -> None:
        """Count effects as this process sees them: once a chunk and outcome."""
        if amount:
            self.metrics.add("delivery.effects", amount, arm=self.arm.name, effect=effect, outcome=outcome)

    async def passing(self, failpoint: str, messages: Sequence[Message]) -> Unapplied:
        """Pass a failpoint with these messages in hand; an error injected there is a failed try of each."""
        try:
            await self.failpoints.hit(failpoint)
        except InjectedError as error:
            return Unapplied.all_of(messages, failure_of(error))
        return Unapplied()

    async def each(
        self, effect: str, messages: Sequence[Message], call: Callable[[Message], Awaitable[Any]]
    ) -> Unapplied:
        """Make one call for each message, side by side; returns those that failed: never again, or later.

        An error that ends the process waits until all calls have ended: none is left behind in flight.
        """

        trail = CURRENT.get()

        async def one(message: Message) -> Letter | Deferred | None:
            start_ns, failed = time.time_ns(), ""
            try:
                await call(message)
            except CallFailed as error:
                failed = error.failure.reason
                if error.failure.retryable:
                    return Deferred(message, error.failure, message.attempts + error.counts)
                return Letter(message.at, message.id, "refused", f"{effect}: {error}")
            finally:
                if trail is not None:
                    trail.called(effect, message, start_ns, failed)
            return None

        results = await asyncio.gather(*(one(message) for message in messages), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        failed = Unapplied(
            [result for result in results if isinstance(result, Letter)],
            [result for result in results if isinstance(result, Deferred)],
        )
        self.count(effect, "applied", len(messages) - len(failed))
        self.count(effect, "refused", len(failed.letters))
        self.count(effect, "failed", len(failed.deferred))
        return failed


def wanting(effect: str, messages: Sequence[Message]) -> list[Message]:
    """The messages that want this effect."""
    return [message for message in messages if effect in message.effects]


def without(failed: Unapplied, messages: Sequence[Message]) -> list[Message]:
    """The messages that did not fail."""
    gone = failed.places()
    return [message for message in messages if message.at not in gone]
