"""Carries a plan out: each request at its time, whatever became of the earlier ones, and again until it is answered."""

import time
from collections.abc import Callable, Collection
from typing import Final

import gevent
from gevent.event import Event
from gevent.pool import Pool

from loadtest.ledger import Answer, Ledger, Outcome, sum_up, together
from loadtest.plan import Plan, Request, requests
from loadtest.totals import Totals
from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import KINDS

ATTEMPTS: Final = 8
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 2.0
_LAST_ANSWERS_S: Final = 60.0  # all attempts of the last request, each timing out
_STOP_S: Final = 3.0  # what is in flight when the load is stopped

Send = Callable[[Request, str, int], Answer]  # makes one attempt at a publisher arm, by its number


def delay_before_s(attempt: int) -> float:
    """The wait before the second and later attempts."""
    return float(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (attempt - 2)))


class Dispatcher:
    """One run of one plan: each request goes to every publisher arm of `arms` that takes its kind.

    At most `in_flight` requests are under way; what finds no place is not sent, and said so.
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, totals: Totals, send: Send, *, arms: Collection[str], in_flight: int
    ) -> None:
        self._plan, self._ledger, self._totals, self._send = plan, ledger, totals, send
        self._arms = {kind: [arm for arm in arms if kind in PUBLISHER_ARMS[arm].kinds] for kind in KINDS}
        self._pool = Pool(in_flight)
        self._stopping = Event()

    def stop(self) -> None:
        """Send nothing more; `run` returns within a few seconds."""
        self._stopping.set()

    def run(self) -> bool:
        """Go through the plan and wait for the answers. Returns whether the whole plan was gone through."""
        begun = time.monotonic()
        carried_out = all(self._dispatch(request, begun + request.at_s) for request in requests(self._plan))
        self._wait_for_answers()
        return carried_out

    def _dispatch(self, request: Request, due: float) -> bool:
        if self._stopping.wait(max(0.0, due - time.monotonic())):
            return False
        if self._pool.full():
            self._totals.not_sent()
            for arm in self._arms[request.kind]:
                self._ledger.not_sent(request.key, request.kind.name, "too many requests are in flight", arm)
        else:
            self._totals.sent()
            self._pool.spawn(self._carry, request, due)
        return True

    def _wait_for_answers(self) -> None:
        deadline = time.monotonic() + _LAST_ANSWERS_S
        while len(self._pool) and not self._stopping.is_set() and time.monotonic() < deadline:
            self._pool.join(timeout=0.2)
        self._pool.join(timeout=_STOP_S)
        self._pool.kill()  # their calls stay without an answer in the ledger: unknown

    def _carry(self, request: Request, due: float) -> None:
        carried = [_Carried(arm) for arm in self._arms[request.kind]]
        carriers = [gevent.spawn(self._carry_to, one, request) for one in carried]
        try:
            gevent.joinall(carriers)
        finally:  # also when it is killed in an attempt
            gevent.killall(carriers)
            outcome = together([sum_up(one.seen) for one in carried])
            self._totals.ended(
                outcome, replayed=any(one.replayed for one in carried), retried=any(one.retried for one in carried)
            )
        if outcome == "acknowledged" and request.fault == "none":
            self._totals.acknowledged_after(time.monotonic() - due)

    def _carry_to(self, carried: "_Carried", request: Request) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1 and self._stopping.wait(delay_before_s(attempt)):
                return
            carried.retried = attempt > 1
            outcome, carried.replayed = self._attempt(request, carried.arm, attempt)
            carried.seen.append(outcome)
            if outcome != "unknown":
                return

    def _attempt(self, request: Request, arm: str, attempt: int) -> tuple[Outcome, bool]:
        self._ledger.call(request.key, request.kind.name, attempt, arm)
        answer = self._send(request, arm, attempt)
        return self._ledger.answer(request.key, request.kind.name, attempt, answer, arm), answer.replayed


class _Carried:
    """What became so far of a request at one arm."""

    def __init__(self, arm: str) -> None:
        self.arm = arm
        self.seen: list[Outcome] = []
        self.replayed = False
        self.retried = False
