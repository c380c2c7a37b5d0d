"""What an application must have in common with the record that asked for it. A few bytes a field, so that millions fit.

Pure. A record is compared with its intent by the digest over its type and value, an effect with its record field by
field, as far as the outside world keeps the field.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID
from zlib import crc32

import msgspec

from services.domain.messages import digest

FIELDS: Final = ("amount_cents", "currency", "customer_id", "business_id", "type", "run")
# Of each effect the fields that its store keeps: a slice of FIELDS.
KEPT: Final = {"record": slice(0, 6), "charge": slice(0, 3), "email": slice(2, 3)}
_WIDTH: Final = 4  # bytes a field: of two values that differ, one pair in four billion looks the same
_RUN: Final = slice(5 * _WIDTH, 6 * _WIDTH)
_DIGEST: Final = 8  # bytes of the digest


class _Value(msgspec.Struct):
    order_id: str
    customer_id: str
    amount_cents: int
    currency: str


_DECODE: Final = msgspec.json.Decoder(_Value).decode


def facts(values: Iterable[object]) -> bytes:
    """The values, in the order of FIELDS, as so many bytes each."""
    return b"".join([crc32(str(value).encode()).to_bytes(_WIDTH, "big") for value in values])


def columns(effect: str) -> tuple[int, int]:
    """Where in a record's facts those lie that the effect's store keeps: the first byte and the last, from 1."""
    kept = KEPT.get(effect, slice(0, 0))
    return kept.start * _WIDTH + 1, kept.stop * _WIDTH


def of_record(value: bytes | None, type_: str, run: str) -> bytes:
    """The facts of a record: its fields, if it can be read, then its digest."""
    seen = digest(type_, value or b"")[:_DIGEST]
    try:
        body = _DECODE(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return seen
    return facts((body.amount_cents, body.currency, body.customer_id, body.order_id, type_, run)) + seen


def promise(whole_digest: bytes, run: str) -> bytes:
    """What an intent says of its record."""
    return whole_digest[:_DIGEST] + facts((run,))


def run_of_promise(promised: bytes) -> bytes:
    """The facts of an intent's run."""
    return promised[_DIGEST:]


def against_promise(promised: bytes, record: bytes) -> str:
    """In what a record differs from its intent: run, payload; empty when in nothing."""
    if promised[:_DIGEST] != record[-_DIGEST:]:
        return "payload"
    run = record[:-_DIGEST][_RUN]
    return "run" if run and run != run_of_promise(promised) else ""


def against_records(effect: str, records: Sequence[bytes], found: bytes) -> str:
    """In which fields an application differs from each of its message's records; empty when from one in nothing.

    `found` holds the effect's fields. A record that cannot be read asks for nothing that could be compared.
    """
    kept = KEPT.get(effect, slice(0, 0))
    part = slice(kept.start * _WIDTH, kept.stop * _WIDTH)
    differing = ""
    for record in records:
        fields = record[:-_DIGEST]
        if not fields or fields[part] == found:
            return ""
        asked = fields[part]
        pairs = zip(FIELDS[kept], range(0, len(asked), _WIDTH), strict=True)
        differing = ", ".join(name for name, at in pairs if asked[at : at + _WIDTH] != found[at : at + _WIDTH])
    return differing


def owners(applied: Iterable[tuple[str, str, int]]) -> dict[str, str]:
    """By life (of a process of the lab: a UUID) the arm of which most of its applications are.

    `applied`: life, arm, and how many. A life that did as much for two arms belongs to neither.
    """
    by_life: dict[str, Counter[str]] = {}
    for life, arm, many in applied:
        by_life.setdefault(life, Counter())[arm] += many
    found = {}
    for life, arms in by_life.items():
        (arm, most), *others = arms.most_common(2)
        if _is_life(life) and not (others and others[0][1] == most):
            found[life] = arm
    return found


def _is_life(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False
