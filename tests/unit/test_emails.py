"""Emails and the circuit: an outage that emails alone have seen ends by itself, and costs no email but the trials."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.domain.arms import CONSUMER_ARMS
from services.domain.circuit import OPEN_AFTER, Circuit, Permit, Wait
from services.domain.failure_policy import Failure, of_http
from services.failpoints import InjectedError
from services.payments.arms.base import Tools
from services.payments.emails import EmailSender
from services.payments.observer import Observer
from services.payments.patience import CallFailed, Patience
from services.payments.third_party import Provider
from services.payments.trail import Trails
from services.settings import Settings
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.tracing import Tracer

NOBODY = CallFailed(Failure("connection", True, "no connection"))
SILENCE = CallFailed(Failure("timeout", True, "no answer in time"))
BATCH = 8


class Rows:
    """The table of emails."""

    def __init__(self, count: int) -> None:
        self.states = {uuid4(): "pending" for _ in range(count)}
        self.away = False

    async def fetch(self, name: str, *arguments: Any) -> list[dict[str, Any]]:
        if self.away:
            raise ConnectionError
        if name == "claim_emails":
            ids = [id_ for id_, state in self.states.items() if state == "pending"][: arguments[1]]
            self.states.update(dict.fromkeys(ids, "claimed"))
            return [_row(id_) for id_ in ids]
        assert name == "settle_emails"
        self.states.update(zip(arguments[0], arguments[1], strict=True))
        return []

    async def insert_dead_letters(self, filed: Sequence[Any]) -> list[str]:
        return [one.letter.reason for one in filed]

    def count(self, state: str) -> int:
        return list(self.states.values()).count(state)


def _row(id_: UUID) -> dict[str, Any]:
    place = {"topic": "orders.v1", "partition": 0, "offset": 1}
    return {"message_id": id_, "customer_id": "c", "run": "", "traceparent": None, **place}


class Line:
    """What calls meet: an error, or an answer."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    async def call(self, *_: Any) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return type("Answer", (), {"headers": {}})()


class Passing:
    """Failpoints, of which the next one may fail."""

    error: Exception | None = None

    async def hit(self, name: str) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


class Bench:
    def __init__(self, folder: Path, emails: int) -> None:
        log, metrics, arm = Log("arm", "life", str(folder / "log")), Metrics("arm", "life"), "effectively_once"
        self.rows, self.line, self.passing = Rows(emails), Line(), Passing()
        settings = Settings(provider_concurrency=BATCH)
        provider = Provider(settings, arm, uuid4())
        provider._call = self.line.call  # type: ignore[method-assign, assignment]
        self.circuit = provider.circuit
        tools = Tools(
            CONSUMER_ARMS[arm], settings, uuid4(), log, metrics, self.passing, self.rows, provider,  # type: ignore[arg-type]
            Patience(arm, log, metrics), Trails(Tracer("arm", "life"), CONSUMER_ARMS[arm]),
            Observer(metrics, CONSUMER_ARMS[arm]),
        )  # fmt: skip
        self.sender = EmailSender(tools)

    async def send(self) -> bool:
        return await self.sender._send_batch()

    def open(self) -> None:
        """The circuit is open, and its pause is over."""
        for _ in range(OPEN_AFTER):
            self.circuit.failed(Permit(trial=False), 0.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.payments.emails.PAUSE_S", 0.0)


async def test_an_outage_that_only_emails_have_seen_ends_and_every_email_is_sent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3 * BATCH)
    bench.line.error = NOBODY
    await bench.send()
    assert bench.circuit.state == "open"
    assert bench.rows.count("pending") == 3 * BATCH

    bench.line.error = None
    bench.circuit._until_s = 0.0  # its pause is over
    while await bench.send():
        pass
    assert bench.rows.count("sent") == 3 * BATCH
    assert bench.line.calls == 4 * BATCH


async def test_a_trial_is_one_email(tmp_path: Path) -> None:
    bench = Bench(tmp_path, BATCH)
    bench.open()
    bench.line.error = SILENCE
    assert await bench.send()
    assert (bench.rows.count("uncertain"), bench.rows.count("pending")) == (1, BATCH - 1)
    assert isinstance(bench.circuit.ask(0.0), Wait), "it failed"
    assert not await bench.send()
    assert bench.line.calls == 1, "nothing is claimed and nobody called while the circuit is open"


@pytest.mark.parametrize(
    ("error", "state", "closes"),
    [
        (NOBODY, "pending", False),
        (CallFailed(of_http(429)), "pending", True),
        (SILENCE, "uncertain", False),
        (CallFailed(of_http(500)), "uncertain", False),
        (CallFailed(of_http(400)), "refused", True),
        (None, "sent", True),
    ],
)
async def test_the_email_of_a_trial_is_sent_again_only_if_it_surely_was_not(
    tmp_path: Path, error: Exception | None, state: str, closes: bool
) -> None:
    bench = Bench(tmp_path, 1)
    bench.open()
    bench.line.error = error
    await bench.send()
    assert bench.rows.count(state) == 1
    assert bench.circuit.state == ("closed" if closes else "open")


async def test_what_the_provider_asks_for_is_waited_and_nothing_claimed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, now = Bench(tmp_path, BATCH), 1000.0
    monkeypatch.setattr("services.payments.emails.time.monotonic", lambda: now)
    bench.line.error = CallFailed(of_http(429, retry_after_s=7))
    await bench.send()
    bench.line.error = None
    now += 6.9
    assert not await bench.send()
    assert (bench.rows.count("pending"), bench.line.calls) == (BATCH, BATCH)
    now += 0.2
    await bench.send()
    assert bench.rows.count("sent") == BATCH


async def test_without_an_email_to_send_the_trial_is_left_to_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 0)
    bench.open()
    assert not await bench.send()
    assert _next(bench.circuit) == Permit(trial=True)


async def test_a_trial_that_made_no_call_is_left_to_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1)
    bench.open()
    bench.passing.error = InjectedError("process.after_email_claimed_before_sent", "connection")
    await bench.send()
    assert bench.rows.count("pending") == 1
    assert _next(bench.circuit) == Permit(trial=True)

    bench.circuit.left(Permit(trial=True), 0.0)
    bench.rows.away = True
    with pytest.raises(ConnectionError):
        await bench.send()
    assert _next(bench.circuit) == Permit(trial=True)
    assert bench.line.calls == 0


def _next(circuit: Circuit) -> Permit | Wait:
    return circuit.ask(float("inf"))
