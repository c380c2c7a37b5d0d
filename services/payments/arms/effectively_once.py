"""Arm `effectively_once`: at least once, and every effect made safe to repeat.

    1. dedup         the chunk by message id, in pure code, sorted by id
    2. reserve       inbox row (digest, first attempt) and pending record, one transaction; met before:
                     duplicate -> nothing; resumed (reserved, not done) -> go on at 3; conflict -> dead letter;
                     not met, but older than the dedup window -> dead letter
    3. charge        by Idempotency-Key = message id, not after first attempt + the key's lifetime - margin
    4. complete      inbox done, record applied, email row pending, one transaction
    5. (the caller)  the offset becomes committable
    beside           emails, at most once from their rows (`services/payments/emails.py`); a redrive has one sent again
                     that was refused, because it surely was not sent

A message without a charge needs 2 alone.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from services.domain.dedup import split
from services.domain.messages import Coordinates, Message
from services.payments.arms.base import Tools, wanting, without
from services.payments.emails import EmailSender
from services.payments.ledger import descriptions, ids, places
from services.payments.trail import CURRENT, mark, step
from services.payments.unapplied import Letter, Unapplied
from services.telemetry.tracing import sampled, traceparent_of

FULL_BATCH: Final = 1000  # rows of the default partition that `keep_window` deletes at most in one transaction
FOR_EVER: Final = timedelta(days=36_500)
KEY_MARGIN_S: Final = 60.0  # clocks differ and calls take time; half of a shorter lifetime


class EffectivelyOnce:
    """Lost 0 and duplicated 0 for record and charge, per message id."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._emails = EmailSender(tools)
        lifetime_s = tools.settings.key_lifetime_s
        self._repeatable = timedelta(seconds=lifetime_s - min(KEY_MARGIN_S, lifetime_s / 2))
        if tools.settings.charge_after_key_lifetime:
            self._repeatable = FOR_EVER

    async def apply(self, messages: Sequence[Message]) -> Unapplied:
        """Apply all effects of a chunk that are not applied yet."""
        tools = self._tools
        unread = await tools.passing("process.after_read", messages)
        chunk = split(without(unread, messages))
        await self._span_emails(chunk.firsts)
        met = await self._reserve(chunk.firsts, chunk.repeats)
        refused = [_LETTERS[row["decision"]](m, row) for m, row in met if row["decision"] in _LETTERS]
        resumed = {m.id: row["first_attempt"] for m, row in met if row["decision"] == "resumed"}
        known = {m.at for m, _ in met}  # by place: a repeat within the chunk says nothing about the first one
        todo = [m for m in chunk.firsts if m.at not in known or m.id in resumed]
        tools.count("record", "applied", sum("charge" not in m.effects for m in todo))
        charging = wanting("charge", todo)
        failed = unread + Unapplied(refused) + (await self._charge(charging, resumed) if charging else Unapplied())
        await self._resend_emails(without(failed, messages))
        return failed + await tools.passing("process.after_record_before_commit", without(failed, messages))

    async def _resend_emails(self, messages: Sequence[Message]) -> None:
        """What a redrive is for when only the email was refused: to the inbox its message has long been done.

        One that was redriven and failed here once more comes back as a retry.
        """
        back = [m for m in messages if m.via in ("redrive", "retry") and "email" in m.effects]
        if back and await self._tools.ledger.fetch("resend_emails", ids(back)):
            self._emails.wake()

    async def run_beside(self) -> None:
        """Send the emails whose rows are committed, and keep the dedup window."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._emails.run())
            both.create_task(self._keep_window())

    async def _keep_window(self) -> None:
        window_s = self._tools.settings.dedup_window_s
        while True:
            (did,) = await self._tools.ledger.fetch("keep_window", window_s)
            if any(did.values()):
                self._tools.log.event("dedup.window", **dict(did))
            if did["deleted"] < FULL_BATCH:  # else there are more: small batches, but the default one must not grow
                await asyncio.sleep(min(30.0, window_s / 16))

    async def _span_emails(self, messages: Sequence[Message]) -> None:
        """Before an email's row is there: which span it belongs to, of messages that are worth spans."""
        trail = CURRENT.get()
        worth = [m for m in messages if "email" in m.effects and (m.via or sampled(m.traceparent))] if trail else []
        opened = [(m, trail.open(m.at)) for m in worth] if trail else []
        spans = {m.id: traceparent_of(context) for m, context in opened if context is not None}
        if spans:
            await self._tools.ledger.fetch("span_emails", list(spans), list(spans.values()))

    async def _reserve(self, firsts: list[Message], repeats: list[Message]) -> list[tuple[Message, Any]]:
        """Reserve what is new; returns each record that is not a first one with the row of its first meeting."""
        every = firsts + repeats
        with step("reserve", every):
            rows = await self._tools.ledger.fetch(
                "reserve",
                len(firsts),
                ids(every),
                [m.digest for m in every],
                *places(m.at for m in every),
                *descriptions(every),
                ["charge" in m.effects for m in every],
                ["email" in m.effects for m in every],
                [m.via for m in every],
                self._tools.settings.apply_older_than_window,
                self._tools.life,
            )
        met = [(every[row["place"] - 1], row) for row in rows]
        self._report(len(every), met)
        return met

    async def _charge(self, charging: list[Message], resumed: dict[UUID, datetime]) -> Unapplied:
        """Charge, then complete."""
        tools = self._tools
        failed = await tools.passing("process.after_reserve_before_charge", charging)
        charging = without(failed, charging)
        late = [m for m in charging if m.id in resumed and self._not_after(resumed[m.id]) < datetime.now(UTC)]
        failed += Unapplied(await self._look_up(late))
        looked_up = {m.id for m in late}
        calls = [m for m in charging if m.id not in looked_up]
        failed += await tools.each(
            "charge",
            calls,
            lambda m: tools.provider.charge(m, key=str(m.id), not_after=self._not_after(resumed.get(m.id))),
        )
        failed += await tools.passing("process.after_charge_before_record", without(failed, charging))
        applied = without(failed, charging)
        emailing = wanting("email", applied)
        with step("complete", applied):
            (done,) = await tools.ledger.fetch("complete", ids(applied), ids(emailing), tools.life)
        tools.count("record", "applied", done["records"])
        self._emails.wake()
        return failed

    def _not_after(self, first_attempt: datetime | None) -> datetime:
        """Until when a repeat of the charge is safe."""
        return (first_attempt or datetime.now(UTC)) + self._repeatable

    async def _look_up(self, late: list[Message]) -> list[Letter]:
        """Charges that may have been made so long ago that the key is forgotten: asked about, never repeated."""
        letters = []
        for message in late:
            key = str(message.id)
            known = await self._tools.patience.until_done(f"look up {key}", partial(self._tools.provider.charged, key))
            if not known:
                letters.append(Letter(message.at, message.id, "uncertain", "the key's lifetime is over"))
        return letters

    def _report(self, records: int, met: list[tuple[Message, Any]]) -> None:
        counts, redelivered = {"first": records - len(met)}, 0
        for message, row in met:
            decision = row["decision"]
            if decision == "older":
                continue  # nothing is known of a first meeting; the letter says so
            counts[decision] = counts.get(decision, 0) + 1
            first = Coordinates(row["first_topic"], row["first_partition"], row["first_offset"])
            reason = message.via or ("redelivery" if first == message.at else "producer_duplicate")
            redelivered += reason == "redelivery"
            key = str(message.id)
            self._tools.log.event(
                "dedup.decision",
                hop="process",
                arm=self._tools.arm.name,
                decision=decision,
                reason=reason,
                **{"dedup.key": key, "message.id": key, "original.message.id": key},
                at=str(message.at),
                first_seen=str(first),
                first_seen_time=row["first_attempt"].isoformat(),
                **mark(message.at, decision, decision=decision, reason=reason),
            )
        self._tools.observer.redelivered(redelivered)
        for decision, amount in counts.items():
            if amount:
                labels = {"hop": "process", "arm": self._tools.arm.name, "decision": decision}
                self._tools.metrics.add("delivery.dedup.decisions", amount, **labels)


def _older(message: Message, _: Any) -> Letter:
    return Letter(
        message.at, message.id, "older_than_window", "its id may have been forgotten: new or not, nobody knows"
    )


def _conflict(message: Message, row: Any) -> Letter:
    detail = f"digest {message.digest.hex()}, first seen with {row['first_digest'].hex()}"
    return Letter(message.at, message.id, "conflict", detail)


_LETTERS: Final = {"conflict": _conflict, "older": _older}
