"""An error injected into an arm is a failed try of the messages in hand: the policy decides, and the arm goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka.structs import ConsumerRecord

from services.broker.producer import Record
from services.domain.arms import CONSUMER_ARMS
from services.domain.circuit import Circuit
from services.domain.failure_policy import Reason
from services.domain.forwarding import Forwarding
from services.domain.messages import ORDERS, Coordinates, Message, digest
from services.domain.orders import Order
from services.failpoints import FAILPOINTS, InjectedError
from services.failpoints.grammar import FailpointError, parse
from services.failpoints.names import ErrorKind
from services.payments.arms.at_least_once import AtLeastOnce
from services.payments.arms.at_most_once import AtMostOnce
from services.payments.arms.base import Arm, Tools
from services.payments.arms.effectively_once import EffectivelyOnce
from services.payments.dispatch import Dispatch, Source
from services.payments.emails import EmailSender
from services.payments.observer import Observer
from services.payments.patience import Patience, failure_of
from services.payments.trail import Trails
from services.payments.unapplied import Letter, Unapplied
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer

READ, CHARGED, DONE = "process.after_read", "process.after_charge_before_record", "process.after_record_before_commit"
RESERVED, CLAIMED = "process.after_reserve_before_charge", "process.after_email_claimed_before_sent"
RETRIED, BURIED = (f"process.after_{word}_produced_before_commit" for word in ("retry", "dead_letter"))


class Once:
    """Failpoints of which one fails at its first pass."""

    def __init__(self, name: str, kind: ErrorKind) -> None:
        self.name, self.kind = name, kind

    async def hit(self, name: str) -> None:
        if name == self.name:
            self.name = ""
            raise InjectedError(name, self.kind)


class Outside:
    """A ledger and a provider that note what was done."""

    def __init__(self) -> None:
        self.charged: list[UUID] = []
        self.recorded: list[UUID] = []
        self.emailed: list[UUID] = []
        self.settled: list[str] = []
        self.letters = 0
        self.circuit = Circuit()
        self.claimed: list[dict[str, Any]] = []

    async def charge(self, message: Message, **_: Any) -> None:
        self.charged.append(message.id)

    async def email(self, message_id: UUID, *_: Any, **__: Any) -> None:
        self.emailed.append(message_id)

    async def insert_records(self, messages: Sequence[Message]) -> None:
        self.recorded += [message.id for message in messages]

    try_to_insert_records = insert_records

    async def insert_dead_letters(self, filed: Sequence[Any]) -> list[str]:
        self.letters += len(filed)
        return [one.letter.reason for one in filed]

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        if name == "complete":
            self.recorded += arguments[0]
            return [{"records": len(arguments[0])}]
        if name == "settle_emails":
            self.settled += arguments[1]
        return self.claimed if name == "claim_emails" else []


class Producer:
    """A broker that confirms everything."""

    def __init__(self) -> None:
        self.sent: list[Record] = []

    async def send(self, records: Sequence[Record]) -> list[Any]:
        self.sent += records
        return []


def message(offset: int) -> Message:
    order = Order("o", "c", 1, "EUR")
    at = Coordinates("orders.v1", 0, offset)
    return Message(uuid4(), ORDERS, "c", order, digest(ORDERS.type, b""), ("record", "charge", "email"), "", at)


def tools(arm: str, outside: Outside, failpoint: str, kind: ErrorKind, folder: Path) -> Tools:
    log, metrics = Log("arm", "life", str(folder / "log")), Metrics("arm", "life")
    return Tools(
        CONSUMER_ARMS[arm], Settings(), uuid4(), log, metrics, Once(failpoint, kind), outside, outside,  # type: ignore[arg-type]
        Patience(arm, log, metrics), Trails(Tracer("arm", "life"), CONSUMER_ARMS[arm]),
        Observer(metrics, CONSUMER_ARMS[arm]),
    )  # fmt: skip


ARMS: dict[str, type[Any]] = {
    "at_least_once": AtLeastOnce,
    "effectively_once": EffectivelyOnce,
    "at_most_once": AtMostOnce,
}


@pytest.mark.parametrize(
    ("kind", "reason", "retryable"),
    [
        ("timeout", "timeout", True),
        ("connection", "connection", True),
        ("database", "database", True),
        ("invalid", "invalid", False),
        ("http_400", "refused", False),
        ("http_429", "rate_limited", True),
        ("http_500", "provider_error", True),
        ("http_503", "provider_error", True),
    ],
)
def test_each_kind_is_what_the_policy_takes_it_for(kind: ErrorKind, reason: Reason, retryable: bool) -> None:
    failure = failure_of(InjectedError(READ, kind))
    assert (failure.reason, failure.retryable) == (reason, retryable)


@pytest.mark.parametrize(
    ("arm", "failpoint", "charged", "recorded"),
    [
        ("at_least_once", READ, False, False),
        ("at_least_once", CHARGED, True, False),
        ("at_least_once", DONE, True, True),
        ("effectively_once", READ, False, False),
        ("effectively_once", RESERVED, False, False),
        ("effectively_once", CHARGED, True, False),
        ("effectively_once", DONE, True, True),
    ],
)
@pytest.mark.parametrize("kind", ["timeout", "http_400"])
async def test_what_was_in_hand_is_retried_or_dead_lettered_and_nothing_further_is_done_with_it(
    arm: str, failpoint: str, charged: bool, recorded: bool, kind: ErrorKind, tmp_path: Path
) -> None:
    outside, chunk = Outside(), [message(0), message(1)]
    under_test: Arm = ARMS[arm](tools(arm, outside, failpoint, kind, tmp_path))
    failed = await under_test.apply(chunk)
    ids = sorted(one.id for one in chunk)
    assert sorted(outside.charged) == (ids if charged else [])
    assert sorted(outside.recorded) == (ids if recorded else [])
    assert sorted(one.message.id for one in failed.deferred) == (ids if kind == "timeout" else [])
    assert all(one.attempts == 1 for one in failed.deferred)
    assert {(one.at, one.reason) for one in failed.letters} == (
        {(one.at, "refused") for one in chunk} if kind == "http_400" else set()
    )
    assert await under_test.apply(chunk) == Unapplied()  # the arm goes on


@pytest.mark.parametrize(("failpoint", "charged"), [(READ, False), (CHARGED, True)])
async def test_an_arm_that_does_not_retry_drops_it(failpoint: str, charged: bool, tmp_path: Path) -> None:
    outside, chunk = Outside(), [message(0)]
    failed = await AtMostOnce(tools("at_most_once", outside, failpoint, "timeout", tmp_path)).apply(chunk)
    assert failed == Unapplied()
    assert (bool(outside.charged), outside.recorded, outside.emailed) == (charged, [], [])
    assert "effect.dropped" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("failpoint", "topic"), [(RETRIED, "retry.1s"), (BURIED, "dlq")])
async def test_a_confirmation_that_did_not_come_has_it_sent_again(failpoint: str, topic: str, tmp_path: Path) -> None:
    outside, producer, one = Outside(), Producer(), message(0)
    dispatch = Dispatch(tools("at_least_once", outside, failpoint, "connection", tmp_path), producer)
    record = ConsumerRecord("orders.v1", 0, 0, 0, 0, b"c", b"{}", None, 1, 2, [])
    failure = failure_of(InjectedError(READ, "timeout"))
    failed = Unapplied.all_of([one], failure)
    if failpoint == BURIED:
        failed = Unapplied([Letter(one.at, one.id, "refused", "")])
    await dispatch.send_on({one.at: Source(record, Forwarding(origin=one.at))}, failed)
    assert [sent[0] for sent in producer.sent] == [f"payments.at_least_once.{topic}"] * 2
    assert outside.letters == (2 if failpoint == BURIED else 0)  # of one place: the table keeps one of them


@pytest.mark.parametrize(
    ("kind", "state"), [("connection", "pending"), ("timeout", "uncertain"), ("http_400", "refused")]
)
async def test_a_claimed_email_is_settled_as_its_call_would_have_ended(
    kind: ErrorKind, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.payments.emails.PAUSE_S", 0.0)
    outside = Outside()
    row = {"message_id": uuid4(), "customer_id": "c", "run": "", "topic": "orders.v1", "partition": 0, "offset": 1}
    row["traceparent"] = None
    outside.claimed = [row]
    await EmailSender(tools("effectively_once", outside, CLAIMED, kind, tmp_path))._send_batch()
    assert outside.settled == [state]
    assert outside.emailed == []
    assert outside.letters == (state == "refused")


def test_kinds_that_mean_nothing_at_a_place_are_refused_there() -> None:
    with pytest.raises(FailpointError, match=r"http_500.*timeout, connection, database"):
        parse(RETRIED, "error:http_500")


def test_every_failpoint_says_what_an_error_there_does() -> None:
    assert all(point.on_error for point in FAILPOINTS.values())
