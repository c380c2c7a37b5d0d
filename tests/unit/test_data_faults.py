"""Bad records are bad in the one way that their kind says, and each is marked."""

import random
import time
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from loadtest.data_faults import MAKERS, Raw, make, uuid7
from services.domain.messages import (
    INJECTED_HEADER,
    ORDERS,
    REFUNDS,
    RUN_HEADER,
    Coordinates,
    Kind,
    Message,
    Undecodable,
    decode,
    message_id_of,
    record_headers,
)
from services.failpoints.names import DATA_FAULTS

ORDER = {"order_id": "o-1", "customer_id": "c-1", "amount_cents": 10**9, "currency": "EUR"}
REFUND = {**ORDER, "reason": "damaged"}
NOW_MS = int(time.time() * 1000)
ID = UUID("019c0000-0000-7000-8000-000000000001")
AT = Coordinates("orders.v1", 2, 9)


def earlier(kind: Kind = ORDERS) -> Raw:
    extra = [("traceparent", "00-1-2-01"), ("lab-effects", "record,charge"), (RUN_HEADER, "run-1")]
    headers = record_headers(message_id=ID, kind=kind, time=datetime.fromtimestamp(NOW_MS / 1000, UTC), extra=extra)
    return Raw(2, b"c-1", msgspec.json.encode(ORDER if kind is ORDERS else REFUND), headers)


def bad(kind: str, of: Kind = ORDERS, seed: int = 1) -> Raw:
    return make(kind, earlier(of), random.Random(seed), NOW_MS)


def read(record: Raw) -> Message:
    return decode(record.key, record.value, record.headers, AT)


def test_the_kinds_are_the_closed_list() -> None:
    assert list(MAKERS) == list(DATA_FAULTS)


@pytest.mark.parametrize("kind", MAKERS)
def test_each_is_marked_with_its_kind_stays_on_its_partition_and_in_its_run(kind: str) -> None:
    record = bad(kind)
    headers = dict(record.headers)
    assert headers[INJECTED_HEADER] == kind.encode()
    assert headers[RUN_HEADER] == b"run-1"
    assert (record.partition, record.key) == (2, b"c-1")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_seed_makes_the_same_record(kind: str) -> None:
    assert bad(kind, seed=7) == bad(kind, seed=7)
    if kind not in ("duplicate", "conflict"):
        assert bad(kind, seed=7) != bad(kind, seed=8)


def test_poison_is_no_event() -> None:
    record = bad("poison")
    assert message_id_of(record.headers) is None
    with pytest.raises(Undecodable):
        read(record)
    with pytest.raises(UnicodeDecodeError):
        (record.value or b"").decode()


@pytest.mark.parametrize("of", [ORDERS, REFUNDS])
def test_an_unknown_version_is_another_message_of_a_type_that_nobody_knows(of: Kind) -> None:
    record = bad("unknown_version", of)
    assert message_id_of(record.headers) not in (None, ID)
    with pytest.raises(Undecodable, match=r"unknown_type.*v99"):
        read(record)


@pytest.mark.parametrize("of", [ORDERS, REFUNDS])
def test_a_conflict_has_the_id_and_another_valid_payload(of: Kind) -> None:
    first, second = read(earlier(of)), read(bad("conflict", of))
    assert (second.id, second.payload.order_id) == (first.id, first.payload.order_id)
    assert second.digest != first.digest
    assert second.payload.amount_cents != first.payload.amount_cents


def test_a_duplicate_differs_by_its_mark_alone() -> None:
    record = bad("duplicate")
    assert Raw(record.partition, record.key, record.value, record.headers[:-1]) == earlier()


@pytest.mark.parametrize("of", [ORDERS, REFUNDS])
def test_one_older_than_the_window_is_a_valid_message_with_an_old_id(of: Kind) -> None:
    message = read(bad("older_than_window", of))
    age_ms = NOW_MS - (message.id.int >> 80)
    assert age_ms == 30 * 86_400_000
    assert message.id.version == 7
    assert message.payload.order_id not in ("o-1", "")


def test_a_uuid7_carries_its_time_and_is_one() -> None:
    made = uuid7(NOW_MS, random.Random(1))
    assert (made.version, made.variant, made.int >> 80) == (7, "specified in RFC 4122", NOW_MS)
