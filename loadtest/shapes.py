"""The shapes of a load: when each request of a phase is due. Pure arithmetic."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

import msgspec

Shape = Literal["steady", "ramp", "spike", "burst"]
Rate = Annotated[float, msgspec.Meta(ge=0, le=100_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]

_MOVING: Final = ("ramp", "spike")


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One phase of a load. `rate` and `to_rate` in requests a second; a steady phase of rate 0 is a pause.

    steady: evenly spaced. ramp: from `rate` to `to_rate`. spike: up to `to_rate` in the middle and down again.
    burst: every `every_s` all requests of that time at once.
    """

    shape: Shape = "steady"
    rate: Rate
    duration_s: Seconds
    to_rate: Rate | None = None
    every_s: Seconds | None = None

    @property
    def planned(self) -> int:
        """How many requests it has."""
        rest = 0.0 if self.to_rate is None else (self.to_rate - self.rate) / 2
        return round((self.rate + rest) * self.duration_s)

    def contradiction(self) -> str:
        """What cannot be meant, or nothing."""
        if self.shape in _MOVING and self.to_rate is None:
            return f"a {self.shape} needs to_rate"
        if self.shape not in _MOVING and self.to_rate is not None:
            return f"to_rate says where a ramp or a spike goes; this phase is {self.shape}"
        if self.shape == "burst" and (self.every_s is None or self.every_s > self.duration_s):
            return "a burst needs every_s, at most as long as the phase"
        if self.shape != "burst" and self.every_s is not None:
            return f"every_s is the time between bursts; this phase is {self.shape}"
        if self.shape != "steady" and self.planned == 0:
            return f"this {self.shape} sends nothing: only a steady phase may be a pause"
        return ""

    def times(self) -> Iterator[float]:
        """When each request is due, in seconds from the phase's begin."""
        for index in range(self.planned):
            yield min(self._time(index), self.duration_s)

    def _time(self, index: int) -> float:
        if self.shape == "burst":
            assert self.every_s is not None  # noqa: S101  # a contradiction otherwise
            return math.floor(index / (self.rate * self.every_s)) * self.every_s
        if self.to_rate is None:
            return index / self.rate
        if self.shape == "ramp":
            return _until(index, self.rate, self.to_rate, self.duration_s)
        half_s, half = self.duration_s / 2, self.planned / 2
        if index < half:
            return _until(index, self.rate, self.to_rate, half_s)
        return self.duration_s - _until(self.planned - index, self.rate, self.to_rate, half_s)


def _until(count: float, rate: float, to_rate: float, duration_s: float) -> float:
    """When `count` requests have been sent at a rate that moves linearly: rate*t + slope*t^2/2 = count."""
    slope = (to_rate - rate) / duration_s
    if slope == 0:
        return count / rate
    return (-rate + math.sqrt(max(0.0, rate * rate + 2 * slope * count))) / slope


def times(phases: Sequence[Phase]) -> Iterator[float]:
    """When each request is due, in seconds from the load's begin."""
    begun_s = 0.0
    for phase in phases:
        for at_s in phase.times():
            yield begun_s + at_s
        begun_s += phase.duration_s
