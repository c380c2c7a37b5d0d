"""What `effectively_once` charges of a chunk, given what the inbox has met: nothing twice, and nothing left out."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from services.domain.arms import CONSUMER_ARMS
from services.domain.failure_policy import of_http
from services.domain.messages import ORDERS, Coordinates, Message, digest
from services.domain.orders import Order
from services.failpoints import Failpoints
from services.payments.arms.base import Tools
from services.payments.arms.effectively_once import FULL_BATCH, EffectivelyOnce
from services.payments.observer import Observer
from services.payments.patience import CallFailed, Patience
from services.payments.trail import Trails
from services.settings import Settings
from services.stack.provision import SERVICES
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer


class Inbox:
    """Answers `reserve` with what was met before, by place; notes what was completed."""

    def __init__(self) -> None:
        self.met: dict[int, dict[str, Any]] = {}
        self.completed: list[UUID] = []
        self.resent: list[UUID] = []

    async def fetch(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        if name == "complete":
            self.completed += arguments[0]
            return [{"records": len(arguments[0])}]
        if name == "resend_emails":
            self.resent += arguments[0]
            return []
        return [{"place": place, **row} for place, row in self.met.items()]


class Provider:
    """Notes charges, knows some keys."""

    def __init__(self) -> None:
        self.charged_ids: list[UUID] = []
        self.known: set[str] = set()
        self.answers: int | None = None  # an HTTP status, instead of a charge

    async def charge(self, message: Message, *, key: str, not_after: datetime) -> None:
        assert key == str(message.id)
        assert not_after > datetime.now(UTC)
        if self.answers is not None:
            raise CallFailed(of_http(self.answers))
        self.charged_ids.append(message.id)

    async def charged(self, key: str) -> bool:
        return key in self.known


def message(id_: UUID, offset: int) -> Message:
    order = Order("o", "c", 1, "EUR")
    at = Coordinates("orders.v1", 0, offset)
    return Message(id_, ORDERS, "c", order, digest(ORDERS.type, b""), ("record", "charge"), "", at)


def met(decision: str, at: Coordinates, first_attempt: datetime | None = None) -> dict[str, Any]:
    return {
        "decision": decision,
        "first_topic": at.topic,
        "first_partition": at.partition,
        "first_offset": at.offset,
        "first_digest": b"other",
        "first_attempt": first_attempt or datetime.now(UTC),
    }


class Window:
    """The default partition of an inbox in which this many ids are too old."""

    def __init__(self, old: int) -> None:
        self.old = old

    async def fetch(self, name: str, *_: Any) -> list[dict[str, int]]:
        deleted = min(self.old, FULL_BATCH) if name == "keep_window" else 0
        self.old -= deleted
        return [{"made": 0, "dropped": 0, "deleted": deleted}]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def arm(inbox: Inbox, provider: Provider, tmp_path: Path) -> EffectivelyOnce:
    return EffectivelyOnce(equipped(inbox, provider, tmp_path))


def equipped(ledger: Any, provider: Any, folder: Path) -> Tools:
    log, metrics, life = Log("arm", "life", str(folder / "log")), Metrics("arm", "life"), uuid4()
    return Tools(
        CONSUMER_ARMS["effectively_once"], Settings(), life, log, metrics,
        Failpoints("arm", "", "", allowed=False), ledger, provider, Patience("effectively_once", log, metrics),
        Trails(Tracer("arm", "life"), CONSUMER_ARMS["effectively_once"]),
        Observer(metrics, CONSUMER_ARMS["effectively_once"]),
    )  # fmt: skip


@pytest.mark.parametrize("decision", ["duplicate", "conflict"])
async def test_a_repeat_within_the_chunk_takes_nothing_from_the_first_one(
    arm: EffectivelyOnce, inbox: Inbox, provider: Provider, decision: str
) -> None:
    first = message(uuid4(), 0)
    repeat = message(first.id, 1)
    inbox.met = {2: met(decision, first.at)}
    letters = (await arm.apply([first, repeat])).letters
    assert provider.charged_ids == inbox.completed == [first.id]
    assert [letter.at for letter in letters] == ([repeat.at] if decision == "conflict" else [])


@pytest.mark.parametrize(("status", "reason"), [(412, "uncertain"), (422, "refused"), (400, "refused")])
async def test_a_charge_that_came_too_late_is_uncertain_and_one_that_is_refused_is_refused(
    arm: EffectivelyOnce, inbox: Inbox, provider: Provider, status: int, reason: str
) -> None:
    provider.answers = status
    (letter,) = (await arm.apply([message(uuid4(), 0)])).letters
    assert letter.reason == reason
    assert not inbox.completed


@pytest.mark.parametrize(("decision", "charges"), [("duplicate", 0), ("conflict", 0), ("resumed", 1)])
async def test_a_message_met_before_is_charged_only_where_it_was_reserved_and_not_done(
    arm: EffectivelyOnce, inbox: Inbox, provider: Provider, decision: str, charges: int
) -> None:
    again = message(uuid4(), 7)
    inbox.met = {1: met(decision, again.at)}
    await arm.apply([again])
    assert len(provider.charged_ids) == len(inbox.completed) == charges


@pytest.mark.parametrize("known", [True, False])
async def test_beyond_the_key_s_lifetime_a_charge_is_looked_up_and_never_made(
    arm: EffectivelyOnce, inbox: Inbox, provider: Provider, known: bool
) -> None:
    late = message(uuid4(), 7)
    if known:
        provider.known.add(str(late.id))
    inbox.met = {1: met("resumed", late.at, datetime.now(UTC) - timedelta(days=2))}
    letters = (await arm.apply([late])).letters
    assert provider.charged_ids == []
    assert inbox.completed == ([late.id] if known else [])
    assert [letter.reason for letter in letters] == ([] if known else ["uncertain"])


async def test_ids_that_are_too_old_are_deleted_batch_by_batch_without_a_pause_while_a_batch_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = asyncio.Event()

    async def pause(_: float) -> None:
        paused.set()
        await asyncio.Future()

    monkeypatch.setattr("services.payments.arms.effectively_once.asyncio.sleep", pause)
    window = Window(5 * FULL_BATCH + 1)
    keeping = asyncio.create_task(EffectivelyOnce(equipped(window, Provider(), tmp_path))._keep_window())
    async with asyncio.timeout(30):
        await paused.wait()
    keeping.cancel()
    assert window.old == 0


def test_a_full_batch_is_what_the_statement_deletes_at_most() -> None:
    assert f"LIMIT {FULL_BATCH})" in (SERVICES / "payments/schema/effectively_once.sql").read_text()


@pytest.mark.parametrize(
    ("via", "decision", "resent"),
    [("redrive", "duplicate", 1), ("retry", "duplicate", 1), ("redrive", "conflict", 0), ("", "duplicate", 0)],
)
async def test_a_redrive_of_what_the_inbox_knows_as_done_has_its_refused_email_sent_again(
    arm: EffectivelyOnce, inbox: Inbox, provider: Provider, via: str, decision: str, resent: int
) -> None:
    again = msgspec.structs.replace(message(uuid4(), 7), via=via, effects=("record", "charge", "email"))
    inbox.met = {1: met(decision, again.at)}
    await arm.apply([again])
    assert inbox.resent == [again.id] * resent
    assert provider.charged_ids == []
