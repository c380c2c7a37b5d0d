"""The envelope: what is written can be read, what cannot be read is Undecodable and nothing else."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.effects import EFFECTS
from services.domain.messages import (
    EFFECTS_HEADER,
    KIND_OF_TYPE,
    KINDS,
    ORDERS,
    REFUNDS,
    RUN_HEADER,
    Coordinates,
    Kind,
    Undecodable,
    decode,
    digest,
    message_id_of,
    record_headers,
)
from services.domain.orders import CURRENCIES, Order, Refund

AT = Coordinates("orders.v1", 3, 41)
REASONS = {"no_message_id", "unknown_type", "undecodable", "invalid"}

identifiers = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
amounts = st.integers(1, 10**9)
currencies = st.sampled_from(sorted(CURRENCIES))
reasons = st.text(st.characters(exclude_characters="\x7f", exclude_categories=("Cc", "Cs")), min_size=1, max_size=200)
payloads = st.one_of(
    st.tuples(st.just(ORDERS), st.builds(Order, identifiers, identifiers, amounts, currencies)),
    st.tuples(st.just(REFUNDS), st.builds(Refund, identifiers, identifiers, amounts, currencies, reasons)),
)
effects = st.sets(st.sampled_from(EFFECTS)).map(lambda some: ("record", *sorted(some - {"record"})))
runs = st.from_regex(r"[A-Za-z0-9._-]{0,64}", fullmatch=True)
times = st.datetimes(timezones=st.just(UTC))
names = st.sampled_from(["ce_id", "ce_type", "content-type", "traceparent", EFFECTS_HEADER, RUN_HEADER, "x"])


@given(payloads, st.uuids(), effects, runs, times)
def test_what_the_headers_say_is_read_back(
    what: tuple[Kind, Order | Refund], message_id: UUID, wanted: tuple[str, ...], run: str, time: datetime
) -> None:
    kind, payload = what
    extra = [(EFFECTS_HEADER, ",".join(wanted)), (RUN_HEADER, run), ("traceparent", "00-1-2-01")]
    headers = record_headers(message_id=message_id, kind=kind, time=time, extra=extra)
    value = msgspec.json.encode(payload)
    message = decode(payload.customer_id.encode(), value, headers, AT)
    assert (message.id, message.kind, message.payload, message.at) == (message_id, kind, payload, AT)
    assert (message.key, message.run, message.traceparent) == (payload.customer_id, run, "00-1-2-01")
    assert set(message.effects) == set(wanted)
    assert message.digest == digest(kind.type, value)
    assert message_id_of(headers) == message_id


@given(
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(names, st.none() | st.binary(max_size=40)), max_size=8),
)
def test_arbitrary_bytes_are_undecodable_and_nothing_else(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(key, value, headers, AT)
    assert caught.value.reason in REASONS
    caught.value.detail.encode()  # a text that can be stored: no lone surrogates
    assert (message_id_of(headers) is None) is (caught.value.reason == "no_message_id")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["order_id", "customer_id", "amount_cents", "currency", "reason"])


@given(
    st.sampled_from(sorted(KIND_OF_TYPE)),
    st.dictionaries(fields | st.text(max_size=8), json_values, max_size=6) | json_values,
    st.binary(max_size=8),
    st.binary(max_size=20),
    st.binary(max_size=20),
)
def test_a_good_envelope_around_any_json_decodes_or_is_undecodable(
    type_: str, value: object, key: bytes, run: bytes, wanted: bytes
) -> None:
    headers = [
        ("ce_id", b"01890000-0000-7000-8000-000000000000"),
        ("ce_type", type_.encode()),
        (RUN_HEADER, run),
        (EFFECTS_HEADER, wanted),
    ]
    try:
        text = decode(key, msgspec.json.encode(value), headers, AT).run
    except Undecodable as error:
        text = error.detail
    text.encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ce_id": None}, "no_message_id"),
        ({"ce_id": b"not-a-uuid"}, "no_message_id"),
        ({"ce_type": b"lab.order.placed.v9"}, "unknown_type"),
        ({"value": None}, "undecodable"),
        ({"key": None}, "undecodable"),
        ({"key": b"\xff"}, "undecodable"),
        ({"value": b'{"order_id": "cut'}, "undecodable"),
        ({"value": b'{"order_id": "\xff"}'}, "undecodable"),
        ({"value": b"[" * 100_000}, "invalid"),
        ({"value": b'{"order_id": "a", "customer_id": "c", "amount_cents": 0, "currency": "EUR"}'}, "invalid"),
        ({"value": b'{"order_id": "a", "customer_id": "c", "amount_cents": 1, "currency": "XXX"}'}, "invalid"),
        ({RUN_HEADER: b"a\0b"}, "undecodable"),
        ({EFFECTS_HEADER: b"charge"}, "undecodable"),
    ],
)
def test_each_defect_has_its_reason(change: dict[str, bytes | None], reason: str) -> None:
    value = b'{"order_id": "a", "customer_id": "c", "amount_cents": 1, "currency": "EUR"}'
    record: dict[str, bytes | None] = {
        "ce_id": b"01890000-0000-7000-8000-000000000000",
        "ce_type": ORDERS.type.encode(),
        "key": b"c",
        "value": value,
        **change,
    }
    key, body = record.pop("key"), record.pop("value")
    with pytest.raises(Undecodable) as caught:
        decode(key, body, list(record.items()), AT)
    assert caught.value.reason == reason


@given(st.sampled_from([kind.type for kind in KINDS]), st.binary(max_size=50), st.binary(max_size=50))
def test_digests_are_equal_exactly_for_the_same_bytes_of_the_same_type(type_: str, one: bytes, other: bytes) -> None:
    assert (digest(type_, one) == digest(type_, other)) is (one == other)
    assert digest(type_, one) != digest(type_ + "x", one)
