"""What every arm has: its ledger, the provider, its failpoints and the place where its effects are counted."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from services.domain.arms import ConsumerArm
from services.domain.failure_policy import NO_ANSWER, Failure
from services.domain.messages import Message
from services.failpoints import Failpoints, InjectedError
from services.payments.ledger import FiledLetter, Ledger
from services.payments.observer import Observer
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
    observer: Observer

    def count(self, effect: str, outcome: str, amount: int = 1) -> None:
        """Count effects as this process sees them: once a chunk and outcome."""
        if amount:
            self.metrics.add("delivery.effects", amount, arm=self.arm.name, effect=effect, outcome=outcome)

    async def park(self, filed: Sequence[FiledLetter]) -> None:
        """Set letters down; what was parked already is no other letter."""
        for reason, amount in Counter(await self.ledger.insert_dead_letters(filed)).items():
            self.metrics.add("delivery.dead_letters", amount, arm=self.arm.name, reason=reason)

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
        """Make one call for each message, side by side; returns those that failed: never again, or later. A call that
        gives something true found its effect done before.

        An error that ends the process waits until all calls have ended: none is left behind in flight.
        """

        trail = CURRENT.get()
        tally: Counter[str] = Counter()

        async def one(message: Message) -> Letter | Deferred | None:
            start_ns, failed, outcome = time.time_ns(), "", "uncertain"  # cancelled, or worse
            try:
                outcome = "replayed" if await call(message) else "applied"
            except CallFailed as error:
                failed, outcome = error.failure.reason, outcome_of(error.failure)
                if error.failure.retryable:
                    return Deferred(message, error.failure, message.attempts + error.counts)
                reason = "uncertain" if failed == "uncertain" else "refused"
                return Letter(message.at, message.id, reason, f"{effect}: {error}")
            finally:
                tally[outcome] += 1
                if trail is not None:
                    trail.called(effect, message, start_ns, failed)
            return None

        try:
            results = await asyncio.gather(*(one(message) for message in messages), return_exceptions=True)
        finally:
            for outcome, amount in tally.items():
                self.count(effect, outcome, amount)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return Unapplied(
            [result for result in results if isinstance(result, Letter)],
            [result for result in results if isinstance(result, Deferred)],
        )


def outcome_of(failure: Failure) -> str:
    """What a failed call means for its effect: refused for ever, perhaps done, or surely not done."""
    return "refused" if not failure.retryable else "uncertain" if failure.reason in NO_ANSWER else "failed"


def wanting(effect: str, messages: Sequence[Message]) -> list[Message]:
    """The messages that want this effect."""
    return [message for message in messages if effect in message.effects]


def without(failed: Unapplied, messages: Sequence[Message]) -> list[Message]:
    """The messages that did not fail."""
    gone = failed.places()
    return [message for message in messages if message.at not in gone]
