"""Emails of `effectively_once`: at most once each, from rows. Claimed (committed) before the call; what happened to a
claim whose caller died cannot be known: the row says `uncertain`, and nothing sends it again."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from services.domain.circuit import Permit, Wait
from services.domain.failure_policy import GIVE_UP_AFTER_S, Failure
from services.domain.messages import Coordinates
from services.failpoints import InjectedError
from services.payments.ledger import FiledLetter
from services.payments.patience import CallFailed, failure_of
from services.payments.trail import call_attributes
from services.payments.unapplied import Letter
from services.telemetry.tracing import context_of, log_fields, new_context

if TYPE_CHECKING:
    from services.payments.arms.base import Tools

IDLE_S: Final = 0.5
SWEEP_EVERY_S: Final = 5.0
CLAIM_LASTS: Final = 5  # call time-outs: far longer than a live claimant takes
PAUSE_S: Final = 1.0  # after a refusal that came before anything happened, unless it asks for longer (Retry-After)


class EmailSender:
    """One loop a process; replicas share the rows by SKIP LOCKED."""

    def __init__(self, tools: "Tools") -> None:
        self._tools = tools
        self._wake = asyncio.Event()
        self._swept = 0.0
        self._quiet_until = 0.0  # nothing is claimed before
        self._batch = max(1, tools.settings.provider_concurrency)  # what is claimed is called at once
        self._claim_lasts_s = CLAIM_LASTS * tools.settings.provider_timeout_s

    def wake(self) -> None:
        """There may be rows to send."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled. What is claimed by then is still sent and settled, so that nobody has to wonder."""
        while True:
            self._wake.clear()
            await self._sweep()
            batch = asyncio.create_task(self._send_batch(), name="emails")
            try:
                more = await asyncio.shield(batch)
            except asyncio.CancelledError:
                await batch
                raise
            if more:
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE_S)

    async def _send_batch(self) -> bool:
        """Claim and send, if the circuit lets a call pass; whether there may be more to send at once.

        This asks for itself: where no charge is due nobody else would find out that the provider is back. A trial is
        one email, because one that fails there without an answer is uncertain for ever.
        """
        tools, circuit = self._tools, self._tools.provider.circuit
        if time.monotonic() < self._quiet_until:
            return False
        permit = circuit.ask(time.monotonic())
        if isinstance(permit, Wait):
            return False  # nothing is claimed that cannot be sent at once
        most = 1 if permit.trial else self._batch
        with self._left_on_error(permit):
            rows = await tools.ledger.fetch("claim_emails", tools.life, most)
        if not rows:
            circuit.left(permit, time.monotonic())
            return False
        with tools.observer.causing():
            await self._send_claimed(rows, permit)
        return len(rows) == most

    @contextlib.contextmanager
    def _left_on_error(self, permit: Permit) -> Iterator[None]:
        """No call is made after an error in here, so a trial has ended: others wait for its end."""
        try:
            yield
        except BaseException:
            self._tools.provider.circuit.left(permit, time.monotonic())
            raise

    async def _send_claimed(self, rows: list[Any], permit: Permit) -> None:
        tools = self._tools
        try:
            with self._left_on_error(permit):
                await tools.failpoints.hit("process.after_email_claimed_before_sent")
            states = await asyncio.gather(*(self._send(row, permit) for row in rows))
        except InjectedError as error:
            states = [self._failed(failure_of(error))] * len(rows)
        refused = [row for row, state in zip(rows, states, strict=True) if state == "refused"]
        await tools.park([_letter(row) for row in refused])
        await tools.ledger.fetch("settle_emails", [row["message_id"] for row in rows], states, tools.life)
        for state, outcome in (("sent", "applied"), ("refused", "refused")):
            tools.count("email", outcome, states.count(state))
        for row, state in zip(rows, states, strict=True):
            if state == "uncertain":
                self._uncertain(row, tools.life)

    async def _send(self, row: Any, permit: Permit) -> str:
        """One call, never repeated: the state that the row gets."""
        at = Coordinates(row["topic"], row["partition"], row["offset"])
        start_ns, state, failed = time.time_ns(), "sent", ""
        try:
            await self._tools.provider.email(row["message_id"], row["customer_id"], at, permit=permit)
        except CallFailed as error:
            state, failed = self._failed(error.failure), error.failure.reason
        self._trace(row, start_ns, state, failed)
        return state

    def _failed(self, failure: Failure) -> str:
        """The state of a row after its call failed. Whose rows are led back claims nothing for a while."""
        state = _state_after(failure)
        if state == "pending":
            pause_s = max(PAUSE_S, min(failure.retry_after_s, GIVE_UP_AFTER_S))
            self._quiet_until = max(self._quiet_until, time.monotonic() + pause_s)
        return state

    def _trace(self, row: Any, start_ns: int, state: str, failed: str) -> None:
        """The span of a call: of one that failed in a trace of its own, if its message has none."""
        tracer, parent = self._tools.trails.tracer, context_of(row["traceparent"] or "")
        if parent is None and (not failed or not tracer.grant()):
            return
        outcome = {"delivery.outcome": "applied" if state == "sent" else state}
        reason = {"delivery.reason": failed} if failed else {}
        tracer.span(
            "call", new_context(parent), parent=parent, start_ns=start_ns, end_ns=time.time_ns(), error=failed,
            attributes={**call_attributes("email", self._tools.arm.name, row["message_id"]), **outcome, **reason},
        )  # fmt: skip

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept < SWEEP_EVERY_S:
            return
        self._swept = time.monotonic()
        for row in await self._tools.ledger.fetch("sweep_emails", self._claim_lasts_s):
            self._uncertain(row, row["claimed_by"])

    def _uncertain(self, row: Any, claimed_by: object) -> None:
        self._tools.count("email", "uncertain", 1)
        self._tools.log.event(
            "email.uncertain", "warning", arm=self._tools.arm.name, **{"message.id": str(row["message_id"])},
            claimed_by=str(claimed_by), **log_fields(context_of(row["traceparent"] or "")),
        )  # fmt: skip


def _letter(row: Any) -> FiledLetter:
    at = Coordinates(row["topic"], row["partition"], row["offset"])
    letter = Letter(at, row["message_id"], "refused", "email: the provider refuses it for ever")
    now_ms = int(time.time() * 1000)
    return FiledLetter(letter=letter, run=row["run"], first_failure_ms=now_ms, last_failure_ms=now_ms)


def _state_after(failure: Failure) -> str:
    """A refusal that surely came before anything happened leads back; anything else is not known."""
    if failure.reason in ("connection", "rate_limited"):
        return "pending"
    return "uncertain" if failure.retryable else "refused"
