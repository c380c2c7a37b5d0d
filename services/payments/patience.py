"""Carries out the failure policy where the work stands: tries again, with a growing pause, what may pass by itself."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from services.domain.failure_policy import DeadLetter, Failure, GiveUp, decide, of_http, of_sqlstate
from services.failpoints import InjectedError
from services.payments.trail import CURRENT
from services.storage.postgres import AWAY
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics

Result = TypeVar("Result")


class CallFailed(Exception):
    """A call to the provider failed; `failure` says how, `counts` whether it was an attempt of its message."""

    def __init__(self, failure: Failure, *, counts: bool = True) -> None:
        super().__init__(f"{failure.reason}: {failure.detail}")
        self.failure = failure
        self.counts = counts


class NeverMore(Exception):
    """The policy says that this will never succeed: dead letters."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}: {failure.detail}")
        self.failure = failure


class Patience:
    """Tries of one arm. Work that was taken away meanwhile is cancelled by its lane."""

    def __init__(self, arm: str, log: Log, metrics: Metrics) -> None:
        self._arm = arm
        self._log = log
        self._metrics = metrics
        self._random = random.Random()  # noqa: S311  # jitter

    async def until_done(self, what: str, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Run the operation until it succeeds.

        Raises NeverMore when the policy dead-letters it, and the operation's own error when it was retried for too
        long: the process then ends, its records stay uncommitted and come again.
        """
        began = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            try:
                return await operation()
            except (CallFailed, InjectedError, *AWAY) as error:
                failure = failure_of(error)
                decision = decide(
                    failure, attempt=attempt, elapsed_s=time.monotonic() - began, draw=self._random.random()
                )
                if isinstance(decision, GiveUp):
                    raise
                if isinstance(decision, DeadLetter):
                    raise NeverMore(failure) from error
            self._metrics.add("delivery.retries", 1, arm=self._arm, tier="in_place", reason=failure.reason)
            if (trail := CURRENT.get()) is not None:
                trail.retried(what, attempt, failure.reason)
            self._log.event(
                "call.retried", "warning", what=what, attempt=attempt, reason=failure.reason,
                detail=failure.detail[:300], delay_s=round(decision.delay_s, 3),
            )  # fmt: skip
            await asyncio.sleep(decision.delay_s)


def failure_of(error: BaseException) -> Failure:
    """What the failure policy takes an error for."""
    if isinstance(error, CallFailed):
        return error.failure
    if isinstance(error, InjectedError):
        return _injected(error)
    if isinstance(error, asyncpg.PostgresError):
        return of_sqlstate(error.sqlstate or "", f"{type(error).__name__}: {error}")
    if isinstance(error, TimeoutError):
        return Failure("timeout", True, f"{type(error).__name__}: {error}")
    return Failure("connection", True, f"{type(error).__name__}: {error}")


def _injected(error: InjectedError) -> Failure:
    """What a call or statement that failed so would have been."""
    if (status := error.http_status) is not None:
        return of_http(status, str(error))
    return Failure(error.kind, error.kind != "invalid", str(error))  # type: ignore[arg-type]  # the other kinds are reasons
