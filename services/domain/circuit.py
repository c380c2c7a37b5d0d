"""A circuit breaker as a pure state machine: whether the provider may be called now. The caller brings the clock.

An outage is the provider's, not the message's: while the circuit is open nobody calls, and the one call that tries
whether the provider is back uses no attempt of its message. So an outage ends no message in the dead letters.
"""

from typing import Final, Literal

import msgspec

State = Literal["closed", "open", "half_open"]

OPEN_AFTER: Final = 5  # failures in a row
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 10.0


class Permit(msgspec.Struct, frozen=True):
    """A call may be made; `trial`: it is the one that tries whether the provider is back."""

    trial: bool


class Wait(msgspec.Struct, frozen=True):
    """Nobody calls for `delay_s`; then ask again."""

    delay_s: float


class Circuit:
    """Closed: all call. Open: none, for a growing pause. Half open: one trial is out, the others wait for it."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self._failures = 0  # in a row
        self._pause_s = FIRST_PAUSE_S
        self._until_s = 0.0

    def ask(self, now_s: float) -> Permit | Wait:
        """Whether a call may be made now. A trial that is permitted must end in `succeeded`, `failed` or `left`."""
        if self.state == "closed":
            return Permit(trial=False)
        if self.state == "open" and now_s >= self._until_s:
            self.state = "half_open"
            return Permit(trial=True)
        return Wait(max(self._until_s - now_s, 0.05) if self.state == "open" else 0.05)

    def succeeded(self, permit: Permit) -> None:
        """The provider answered, if only to refuse. An answer from before the circuit opened does not close it."""
        if permit.trial or self.state == "closed":
            self.state, self._failures, self._pause_s = "closed", 0, FIRST_PAUSE_S

    def failed(self, permit: Permit, now_s: float) -> None:
        """No answer, or one that says that the provider is not well (5xx)."""
        if permit.trial:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._open(now_s)
        elif self.state == "closed":
            self._failures += 1
            if self._failures >= OPEN_AFTER:
                self._open(now_s)

    def left(self, permit: Permit, now_s: float) -> None:
        """The call was cancelled: of a trial nothing is known, so the next one may try at once."""
        if permit.trial:
            self.state, self._until_s = "open", now_s

    def _open(self, now_s: float) -> None:
        self.state, self._failures, self._until_s = "open", 0, now_s + self._pause_s
