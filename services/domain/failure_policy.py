"""The failure policy: what is tried again and what is not, and after how long. Decisions only; no clock, no I/O.

Retryable: what may pass by itself. Everything else would fail in the same way for ever, so it is dead-lettered at once.
"""

from typing import Final, Literal

import msgspec

Reason = Literal[
    "timeout",
    "connection",  # none was made: surely nothing happened
    "connection_lost",  # it broke before the answer
    "busy",
    "rate_limited",
    "provider_error",
    "database",
    "refused",
    "uncertain",  # refused, because the time is over up to which a repeat would be known: was it done before?
    "invalid",
    "attempts",  # retryable, but tried as often as is allowed
]

# What says that the other side is not well, rather than that it minds this message: opens the circuit.
OUTAGE: Final = frozenset({"timeout", "connection", "connection_lost", "provider_error"})

# What says nothing about whether it was done.
NO_ANSWER: Final = OUTAGE - {"connection"}

# Request time-out, in progress (409 of the Idempotency-Key draft), too early, too many requests: RFC 9110, 8470, 6585.
RETRYABLE_STATUS: Final = {408: "timeout", 409: "busy", 425: "busy", 429: "rate_limited"}
TOO_LATE_STATUS: Final = 412  # Precondition Failed (RFC 9110): a key that is not known, after Lab-Not-After
# SQLSTATE classes: connection, transaction rollback (serialization, deadlock), resources, operator, system; 55P03 is a
# lock that was not available. Integrity (23) and data (22) errors would come again.
RETRYABLE_SQLSTATE: Final = ("08", "40", "53", "55P03", "57", "58", "25P03")

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
GIVE_UP_AFTER_S: Final = 600.0  # then the process ends with an error: the records stay uncommitted and come again


ATTEMPTS: Final = 6  # tries in which the provider was really called; then the dead letters


class Tier(msgspec.Struct, frozen=True):
    """A retry topic and how long a record waits in it."""

    name: str
    delay_s: float


TIERS: Final = (Tier("1s", 1.0), Tier("5s", 5.0), Tier("30s", 30.0))
JITTER: Final = 0.5  # the largest share that is taken off a delay


class Failure(msgspec.Struct, frozen=True):
    """One failed try. `retry_after_s`: what the other side asked for (RFC 9110, Retry-After)."""

    reason: Reason
    retryable: bool
    detail: str = ""
    retry_after_s: float = 0.0


class Retry(msgspec.Struct, frozen=True):
    """Try again after `delay_s`."""

    delay_s: float


class DeadLetter(msgspec.Struct, frozen=True):
    """Never try again; the message goes to the dead letters for `reason`."""

    reason: Reason


class GiveUp(msgspec.Struct, frozen=True):
    """Retryable, but for too long: nothing is decided about the message, the process ends."""

    reason: Reason


Decision = Retry | DeadLetter | GiveUp


def of_http(status: int, detail: str = "", retry_after_s: float = 0.0) -> Failure:
    """The failure of an HTTP answer that is no success (400 to 599)."""
    if status >= 500:
        return Failure("provider_error", True, detail, retry_after_s)
    if (reason := RETRYABLE_STATUS.get(status)) is not None:
        return Failure(reason, True, detail, retry_after_s)  # type: ignore[arg-type]  # the table's values are reasons
    return Failure("uncertain" if status == TOO_LATE_STATUS else "refused", False, detail)


def of_sqlstate(sqlstate: str, detail: str = "") -> Failure:
    """The failure of a statement that Postgres refused with this SQLSTATE."""
    return Failure("database", sqlstate.startswith(RETRYABLE_SQLSTATE), detail)


def decide(failure: Failure, *, attempt: int, elapsed_s: float, draw: float) -> Decision:
    """What follows the failed try number `attempt` (from 1), `elapsed_s` after the first one began.

    `draw`, 0 to 1, is the random choice of the jitter. Jitter is subtractive: a delay is never longer than announced,
    and never shorter than what the other side asked for.
    """
    if not failure.retryable:
        return DeadLetter(failure.reason)
    if elapsed_s >= GIVE_UP_AFTER_S:
        return GiveUp(failure.reason)
    grown = min(FIRST_DELAY_S * 2 ** min(attempt - 1, 16), LONGEST_DELAY_S)
    return Retry(max(grown * (1 - 0.5 * draw), min(failure.retry_after_s, GIVE_UP_AFTER_S)))


class Later(msgspec.Struct, frozen=True):
    """To the retry topic of `tier`, due after `delay_s`."""

    tier: Tier
    delay_s: float


def next_place(failure: Failure, *, attempts: int, draw: float) -> Later | DeadLetter:
    """Where a message goes after a failed attempt; `attempts`: how often the provider was called for it so far.

    It goes to the first tier that is at least as long as its delay. A delay longer than all of them (Retry-After)
    loops in the last one. `draw`, 0 to 1, is the choice of the jitter: subtractive, and never below Retry-After.
    """
    if not failure.retryable:
        return DeadLetter(failure.reason)
    if attempts >= ATTEMPTS:
        return DeadLetter("attempts")
    planned_s = TIERS[min(max(attempts, 1), len(TIERS)) - 1].delay_s
    delay_s = max(planned_s * (1 - JITTER * draw), failure.retry_after_s)
    return Later(next((tier for tier in TIERS if tier.delay_s >= delay_s), TIERS[-1]), delay_s)
