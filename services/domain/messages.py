"""The envelope: how an intent becomes a Kafka record, and what a record may be.

CloudEvents 1.0, Kafka protocol binding, binary content mode (the attributes are headers, the value is the data),
with W3C Trace Context in `traceparent` and `tracestate`, and two extensions of the lab's own.
"""

import builtins
import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from services.domain.effects import Effect, parse_effects
from services.domain.orders import Order, Refund

Payload = Order | Refund


class Kind(msgspec.Struct, frozen=True):
    """One kind of business event: its API path, its database, its topic, its type and its payload."""

    name: str  # process and database
    path: str
    topic: str
    partitions: int
    type: str  # ce_type, with the version at its end
    payload: "builtins.type[Payload]"

    @property
    def source(self) -> str:
        """CloudEvents `source`."""
        return f"/{self.name}"


ORDERS: Final = Kind("orders", "/orders", "orders.v1", 6, "lab.order.placed.v1", Order)
REFUNDS: Final = Kind("refunds", "/refunds", "refunds.v1", 2, "lab.refund.requested.v1", Refund)
KINDS: Final = (ORDERS, REFUNDS)
KIND_OF_TYPE: Final = {kind.type: kind for kind in KINDS}
_KIND_OF_HEADER: Final = {kind.type.encode(): kind for kind in KINDS}
_DECODERS: Final[dict[str, msgspec.json.Decoder[Payload]]] = {
    kind.type: msgspec.json.Decoder(kind.payload) for kind in KINDS
}

# What is the same in every record of a kind: made once, because headers are most of what a record costs to send.
_FIXED_HEADERS: Final = {
    kind.type: (
        ("ce_specversion", b"1.0"),
        ("ce_type", kind.type.encode()),
        ("ce_source", kind.source.encode()),
        ("content-type", b"application/json"),
    )
    for kind in KINDS
}

EFFECTS_HEADER: Final = "lab-effects"  # on requests and records: which effects this message wants
RUN_HEADER: Final = "lab-run"  # on requests and records: the run it belongs to
INJECTED_HEADER: Final = "lab-injected"  # on records that no publisher sent: the kind of data fault
RUN_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")

Headers = Sequence[tuple[str, bytes]]
RawHeaders = Sequence[tuple[str, bytes | None]]  # as they lie on the wire: a header's value may be null


class Coordinates(msgspec.Struct, frozen=True, order=True):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Message(msgspec.Struct, frozen=True):
    """A decoded record."""

    id: UUID
    kind: Kind
    key: str
    payload: Payload
    digest: bytes  # SHA-256 over type and value bytes: the same id with another digest is a conflict
    effects: tuple[Effect, ...]
    run: str
    at: Coordinates  # where the arm first met it: of a record that was sent on, its origin
    traceparent: str = ""
    via: str = ""  # how it came, if not on its topic: retry, redrive, replay
    attempts: int = 0  # calls of the provider so far, in vain


class Undecodable(ValueError):
    """A record that no arm can apply: `reason` is a closed word, the text says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def digest(type_: str, value: bytes) -> bytes:
    """SHA-256 over the type and the value bytes, the payload's identity."""
    return hashlib.sha256(type_.encode() + b"\0" + value).digest()


def record_headers(
    *,
    message_id: UUID,
    kind: Kind,
    time: datetime,
    extra: Iterable[tuple[str, str]] = (),
) -> list[tuple[str, bytes]]:
    """Headers of the record of an outbox row; `extra` holds trace context, effects and run."""
    return [
        *_FIXED_HEADERS[kind.type],
        ("ce_id", str(message_id).encode()),
        ("ce_time", time.astimezone(UTC).isoformat().encode()),
        *[(name, value.encode()) for name, value in extra],
    ]


def message_id_of(headers: RawHeaders) -> UUID | None:
    """The message id that the headers carry, if they carry one at all (an auditor's view: no more is judged)."""
    for name, value in headers:
        if name == "ce_id" and value is not None:
            return _id_of(value)
    return None


def _id_of(text: bytes) -> UUID | None:
    try:
        return msgspec.convert(text.decode(), UUID)  # less than half the time that UUID() takes
    except (ValueError, msgspec.ValidationError):
        return None


def time_of(headers: RawHeaders) -> float | None:
    """When the intent was made (`ce_time`), Unix seconds; None where the headers do not say."""
    for name, value in headers:
        if name == "ce_time" and value is not None:
            try:
                return datetime.fromisoformat(value.decode()).timestamp()
            except ValueError:
                return None
    return None


def parse_run(text: str) -> str:
    """Check a run id, the value of the `lab-run` header. Raises ValueError that says what would do."""
    if not RUN_PATTERN.fullmatch(text):
        raise ValueError(f"{RUN_HEADER} {text[:80]!r} does not match {RUN_PATTERN.pattern}")
    return text


def decode(
    key: bytes | None, value: bytes | None, headers: RawHeaders, at: Coordinates, *, via: str = "", attempts: int = 0
) -> Message:
    """Decode a record once, strictly.

    Raises Undecodable with reason `no_message_id`, `unknown_type`, `undecodable` or `invalid`.
    """
    fields = {name: data for name, data in reversed(headers) if data is not None}  # the first of a name counts
    message_id = _id_of(fields.get("ce_id", b""))
    if message_id is None:
        raise Undecodable("no_message_id", f"ce_id is {fields.get('ce_id', b'')[:80]!r}")
    kind = _KIND_OF_HEADER.get(fields.get("ce_type", b""))
    if kind is None:
        raise Undecodable("unknown_type", f"ce_type is {_text(fields.get('ce_type', b''))[:80]!r}")
    if key is None or value is None:
        raise Undecodable("undecodable", "the key or the value is null")
    try:
        payload = _DECODERS[kind.type].decode(value)
        text_key = key.decode()
        effects, run = _wanted(fields.get(EFFECTS_HEADER, b"record"), fields.get(RUN_HEADER, b""))
    except msgspec.ValidationError as error:
        raise Undecodable("invalid", str(error)[:300]) from None
    except ValueError as error:  # cut JSON, bytes that are not UTF-8, effects or runs that cannot be
        raise Undecodable("undecodable", str(error)[:300]) from None
    return Message(
        id=message_id,
        kind=kind,
        key=text_key,
        payload=payload,
        digest=digest(kind.type, value),
        effects=effects,
        run=run,
        at=at,
        traceparent=_text(fields.get("traceparent", b"")),
        via=via,
        attempts=attempts,
    )


@lru_cache(maxsize=64)  # once a record, and there are few at a time
def _wanted(effects: bytes, run: bytes) -> tuple[tuple[Effect, ...], str]:
    return parse_effects(_text(effects)), parse_run(_text(run))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
