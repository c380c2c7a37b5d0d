"""What a record carries that was sent on: to a retry tier, to the dead letters, or back to its arm. Header names, pure.

The original headers stay as they are; these are added, and replaced at the next station.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from services.domain.messages import Coordinates, RawHeaders, Undecodable

Via = Literal["", "retry", "redrive", "replay"]

ORIGIN: Final = "lab-origin"  # topic/partition/offset of the record as the arm first met it
ATTEMPTS: Final = "lab-attempts"  # how often the provider was called for it, in vain
DUE: Final = "lab-due"  # not before: Unix time, milliseconds
FIRST_FAILURE: Final = "lab-first-failure"  # Unix time, milliseconds
LAST_FAILURE: Final = "lab-last-failure"
REASON: Final = "lab-reason"  # of the last failure
VIA: Final = "lab-via"  # how it came here: retry, redrive, replay
OPERATION: Final = "lab-operation"  # the id of the redrive or replay
SPAN: Final = "lab-span"  # traceparent of the attempt before, where it has a span
_OURS: Final = frozenset({ORIGIN, ATTEMPTS, DUE, FIRST_FAILURE, LAST_FAILURE, REASON, VIA, OPERATION, SPAN})


class Forwarding(msgspec.Struct, frozen=True, kw_only=True):
    """The life of a record up to this station. Times are Unix milliseconds."""

    origin: Coordinates
    via: Via = ""
    attempts: int = 0
    due_ms: int = 0
    first_failure_ms: int = 0
    last_failure_ms: int = 0
    reason: str = ""
    operation: str = ""
    span: str = ""


def forwarding_of(headers: RawHeaders, at: Coordinates) -> Forwarding:
    """What the headers say; a record without them is at its origin.

    Raises Undecodable with reason `invalid` when they are there and cannot be read.
    """
    if ORIGIN not in dict(headers):  # the usual case, once a record
        return Forwarding(origin=at)
    fields = {name: data.decode("utf-8", "replace") for name, data in headers if name in _OURS and data is not None}
    if ORIGIN not in fields:
        return Forwarding(origin=at)
    try:
        topic, partition, offset = fields[ORIGIN].rsplit("/", 2)
        return msgspec.convert(
            {
                "origin": {"topic": topic, "partition": int(partition), "offset": int(offset)},
                "via": fields.get(VIA, ""),
                "attempts": int(fields.get(ATTEMPTS, "0")),
                "due_ms": int(fields.get(DUE, "0")),
                "first_failure_ms": int(fields.get(FIRST_FAILURE, "0")),
                "last_failure_ms": int(fields.get(LAST_FAILURE, "0")),
                "reason": fields.get(REASON, ""),
                "operation": fields.get(OPERATION, ""),
                "span": fields.get(SPAN, ""),
            },
            Forwarding,
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise Undecodable("invalid", f"the lab's own headers: {error}"[:300]) from None


def forwarded(headers: RawHeaders, station: Forwarding) -> list[tuple[str, bytes | None]]:
    """The original headers, with those of the next station in place of the last one's."""
    values: Mapping[str, str | int] = {
        ORIGIN: str(station.origin),
        VIA: station.via,
        ATTEMPTS: station.attempts,
        DUE: station.due_ms,
        FIRST_FAILURE: station.first_failure_ms,
        LAST_FAILURE: station.last_failure_ms,
        REASON: station.reason,
        OPERATION: station.operation,
        SPAN: station.span,
    }
    return [*original(headers), *((name, str(value).encode()) for name, value in values.items() if value)]


def original(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers as they were at the origin."""
    return [(name, value) for name, value in headers if name not in _OURS]
