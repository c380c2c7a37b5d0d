"""A request becomes an intent or a problem that names the field; nothing else, whatever the bytes."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.accept.intents import NewIntent, Reader
from services.domain import messages
from services.domain.messages import KINDS, ORDERS, REFUNDS, Coordinates
from services.domain.orders import CURRENCIES
from services.http.problem import PROBLEM_TYPES, Problem

ORDER = {"order_id": "o-1", "customer_id": "c-1", "amount_cents": 1999, "currency": "EUR"}
REFUND = {**ORDER, "reason": "damaged"}
KEY = {"Idempotency-Key": "key 1"}

WRONG = [
    *(("amount_cents", value) for value in (-1, 0, 10**9 + 1, 10**30, 10**400, "1", 1.5, 1.0, None, True, [], {})),
    *(("currency", value) for value in ("XXX1", "", "eur", 7, None, "E" * 10_000)),
    *(("customer_id", value) for value in ("", None, 5, "x" * 10_000, "a b", "a\n", "ä", [[[]]])),
    *(("order_id", value) for value in (7, "\u0000", "x" * 65, "../etc", None)),
    *(("reason", value) for value in ("", 5, None, "x" * 201, "a\u0000b", "a\nb")),
    ("unknown_field", 1),
]


def read(body: bytes, headers: dict[str, str] | None = None, kind: messages.Kind = REFUNDS) -> NewIntent:
    return Reader(kind).read({"Idempotency-Key": "key 1"} if headers is None else headers, body)


def refused(body: bytes, headers: dict[str, str] | None = None) -> Problem:
    with pytest.raises(Problem) as caught:
        read(body, headers)
    return caught.value


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:20])
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    problem = refused(json.dumps({**REFUND, field: value}).encode())
    assert (problem.status, problem.field) == (400, field)
    assert field in problem.detail


@pytest.mark.parametrize("field", REFUND)
def test_a_missing_field_is_named(field: str) -> None:
    problem = refused(json.dumps({k: v for k, v in REFUND.items() if k != field}).encode())
    assert (problem.status, problem.field) == (400, field)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"order_id":"\xff"}', b"{}{}", b'{"order_id":"\\ud800"}'],
)
def test_what_is_no_object_of_json_is_a_fault_of_the_body(body: bytes) -> None:
    problem = refused(body)
    assert problem.status == 400
    assert problem.document().errors


@pytest.mark.parametrize("body", [b'{"a":' * 5000, b"[" * 60_000, b'{"order_id":' * 5000])
def test_deep_nesting_is_refused(body: bytes) -> None:
    assert refused(body).status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Idempotency-Key", value) for value in ("", "k" * 256, "a\tb", "ä", "a\u0000")),
        *(("lab-effects", value) for value in ("", "charge", "record,sms", "record;email")),
        *(("lab-run", value) for value in ("a b", "x" * 65, "ä", "run\n")),
    ],
)
def test_a_wrong_header_is_named(name: str, value: str) -> None:
    problem = refused(json.dumps(REFUND).encode(), {**KEY, name: value})
    assert (problem.status, problem.field) == (400, name)
    assert name in problem.detail


def test_a_missing_key_is_named() -> None:
    assert refused(json.dumps(REFUND).encode(), {}).field == "Idempotency-Key"


def test_without_headers_all_effects_are_asked_for_and_no_run() -> None:
    new = read(json.dumps(REFUND).encode())
    assert (new.effects, new.run) == (("record", "charge", "email"), "")


def test_the_same_payload_written_otherwise_is_the_same_request() -> None:
    one, other = read(json.dumps(REFUND).encode()), read(json.dumps(REFUND, indent=4, sort_keys=True).encode())
    assert one.request_digest == other.request_digest
    assert one.value == other.value


def test_the_same_payload_with_other_effects_is_another_request() -> None:
    body = json.dumps(REFUND).encode()
    one, other = read(body), read(body, {**KEY, "lab-effects": "record"})
    assert one.request_digest != other.request_digest
    assert one.digest == other.digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
VALID = st.fixed_dictionaries(
    {
        "order_id": st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        "customer_id": st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        "amount_cents": st.integers(1, 10**9),
        "currency": st.sampled_from(sorted(CURRENCIES)),
    }
)
NEARLY = st.builds(lambda valid, wrong: {**valid, **wrong}, VALID, st.dictionaries(st.sampled_from([*REFUND]), JSON))
BODIES = st.binary() | (JSON | NEARLY).map(lambda value: json.dumps(value).encode()) | st.text().map(str.encode)


@settings(deadline=None)
@given(body=BODIES, kind=st.sampled_from(KINDS))
@example(body=json.dumps({**ORDER, "amount_cents": 10**30}).encode(), kind=ORDERS)
def test_any_body_is_an_intent_or_a_problem_that_names_something(body: bytes, kind: messages.Kind) -> None:
    try:
        new = read(body, kind=kind)
    except Problem as problem:
        (fault,) = problem.document().errors
        seen = (problem.status, len(fault.detail) <= 300)
    else:
        seen = (400, "\0" not in new.headers() + repr(new.payload))
    assert seen == (400, True)


@settings(deadline=None)
@given(payload=VALID, effects=st.sampled_from(["record", "email,record", "record,charge,email"]))
def test_what_is_accepted_arrives_as_the_message_that_was_sent(payload: dict[str, Any], effects: str) -> None:
    new = read(json.dumps(payload).encode(), {**KEY, "lab-effects": effects, "lab-run": "r-1"}, ORDERS)
    extra = json.loads(new.headers()).items()
    headers = messages.record_headers(message_id=uuid4(), kind=ORDERS, time=datetime.now(UTC), extra=extra)
    message = messages.decode(new.payload.customer_id.encode(), new.value, headers, Coordinates("orders.v1", 0, 0))
    assert (message.payload, message.digest, message.effects) == (new.payload, new.digest, new.effects)
    assert (message.run, message.traceparent) == ("r-1", new.trace.traceparent)


def test_every_problem_has_a_status_of_its_kind() -> None:
    for type_ in PROBLEM_TYPES:
        document = Problem(type_, "x").document()
        assert 400 <= document.status <= 503
        assert document.title
