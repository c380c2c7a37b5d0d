"""W3C Trace Context (level 1): what a request brings is continued, what it does not bring is begun."""

import re
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}")
# The sampled flag is the lowest bit of the last digit: one look at one byte tells.
SAMPLED_DIGITS: Final = frozenset("13579bdf")
SAMPLED_BYTES: Final = frozenset(b"13579bdf")
_RANDOM_BITS: Final = 56  # of a trace id, at its end: what ratio samplers look at


class TraceContext(msgspec.Struct, frozen=True):
    """The two headers, as they are handed on. `tracestate` may be empty; `parent`: the caller's traceparent, if any."""

    traceparent: str
    tracestate: str = ""
    parent: str = ""

    @property
    def sampled(self) -> bool:
        return self.traceparent[-1] in SAMPLED_DIGITS


def continue_trace(
    traceparent: str, tracestate: str, *, ratio: float = 0.0, grant: Callable[[], bool] = lambda: True
) -> TraceContext:  # fmt: skip
    """The context of a new span: of the caller's trace (same id and flags) if it names one rightly, else of a new one,
    of which this share is sampled, as far as each of them is granted.

    A faulty `traceparent` is as good as none, and `tracestate` goes with it, as the recommendation asks.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not _valid(*found.groups()):
        trace_id = secrets.token_hex(16)
        drawn = int(trace_id, 16) % 2**_RANDOM_BITS < ratio * 2**_RANDOM_BITS
        return TraceContext(f"00-{trace_id}-{secrets.token_hex(8)}-{'01' if drawn and grant() else '00'}")
    state = tracestate if _TRACESTATE.fullmatch(tracestate) else ""
    return TraceContext(f"00-{found[2]}-{secrets.token_hex(8)}-{found[4]}", state, traceparent)


def parts_of(traceparent: str) -> tuple[str, str] | None:
    """Trace id and span id, None where the header is not one."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return (found[2], found[3]) if found is not None and _valid(*found.groups()) else None


def _valid(version: str, trace_id: str, parent_id: str, _flags: str, rest: str | None) -> bool:
    # Version 00 has exactly four fields; a later one may have more, ff is forbidden.
    return version != "ff" and (version != "00" or rest is None) and int(trace_id, 16) != 0 and int(parent_id, 16) != 0
