"""W3C Trace Context (level 1): what a request brings is continued, what it does not bring is begun."""

import re
import secrets
from typing import Final

import msgspec

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}")
_NOT_SAMPLED: Final = "00"


class TraceContext(msgspec.Struct, frozen=True):
    """The two headers, as they are handed on. `tracestate` may be empty."""

    traceparent: str
    tracestate: str = ""


def continue_trace(traceparent: str, tracestate: str) -> TraceContext:
    """The context of a new span: of the caller's trace (same id and flags) if it names one rightly, else of a new one.

    A faulty `traceparent` is as good as none, and `tracestate` goes with it, as the recommendation asks.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not _valid(*found.groups()):
        return TraceContext(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_NOT_SAMPLED}")
    state = tracestate if _TRACESTATE.fullmatch(tracestate) else ""
    return TraceContext(f"00-{found[2]}-{secrets.token_hex(8)}-{found[4]}", state)


def _valid(version: str, trace_id: str, parent_id: str, _flags: str, rest: str | None) -> bool:
    # Version 00 has exactly four fields; a later one may have more, ff is forbidden.
    return version != "ff" and (version != "00" or rest is None) and int(trace_id, 16) != 0 and int(parent_id, 16) != 0
