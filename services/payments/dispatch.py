"""Sends on what was not applied: to a retry tier or to the dead letters, confirmed before anything is acknowledged."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec
from aiokafka.structs import ConsumerRecord

from services.broker.producer import Failure as Refusal
from services.broker.producer import Record
from services.domain.failure_policy import TIERS, DeadLetter, Failure, Later, next_place
from services.domain.forwarding import SPAN, Forwarding, forwarded, original
from services.domain.messages import RUN_HEADER, Coordinates, RawHeaders
from services.payments.arms.base import Tools
from services.payments.ledger import FiledLetter
from services.payments.patience import CallFailed
from services.payments.trail import CURRENT, mark
from services.payments.unapplied import Deferred, Letter, Unapplied
from services.telemetry.tracing import traceparent_of

_MOST_HEADERS: Final = 64  # of a digest


class Source(msgspec.Struct, frozen=True):
    """A record as it was taken, and its life so far."""

    record: ConsumerRecord
    life: Forwarding


class Sender(Protocol):
    """Takes records; what it gives is awaited: those that were not confirmed."""

    def send(self, records: Sequence[Record]) -> Awaitable[list[Refusal]]: ...


class Dispatch:
    """The next stations of one arm's records. Everything here is safe to be done again."""

    def __init__(self, tools: Tools, producer: Sender) -> None:
        self._tools = tools
        self._producer = producer
        self._random = random.Random()  # noqa: S311  # jitter

    async def send_on(self, sources: Mapping[Coordinates, Source], failed: Unapplied) -> set[Coordinates]:
        """Bring every failed record of a chunk to its next place. Returns when the broker and the table have it all.

        Raises what `Patience.until_done` raises when they do not take it for too long.
        """
        letters = list(failed.letters)
        retries: list[tuple[Deferred, Later, Record]] = []
        for deferred in failed.deferred:
            place = next_place(deferred.failure, attempts=deferred.attempts, draw=self._random.random())
            if isinstance(place, DeadLetter) or not self._tools.arm.retries:
                letters.append(_given_up(deferred))
            else:
                self._count_retry(deferred, place.tier.name)
                retries.append((deferred, place, self._to_tier(sources[deferred.message.at], deferred, place)))
        if retries:
            start_ns = time.time_ns()
            await self.produce([record for *_, record in retries])
            for deferred, place, record in retries:
                self._trace_retry(deferred, place, record[0], start_ns)
            resend = partial(self.produce, [record for *_, record in retries])
            await self._confirmed("process.after_retry_produced_before_commit", resend)
        if letters:
            await self._bury(letters, sources, {d.message.at: d.attempts for d in failed.deferred})
        return {letter.at for letter in letters}

    async def send_round(self, early: Sequence[Source]) -> None:
        """Once more into the last tier, without an attempt: what was asked to wait for longer than a tier lasts."""
        if early:
            topic = self._tools.arm.retry_topic(TIERS[-1])
            await self.produce([_record(topic, source, source.life) for source in early])

    async def _confirmed(self, failpoint: str, again: Callable[[], Awaitable[None]]) -> None:
        """Pass the failpoint behind a confirmation. An error there is one that did not come: `again`."""
        sent = True

        async def once() -> None:
            nonlocal sent
            if not sent:
                await again()
            sent = False
            await self._tools.failpoints.hit(failpoint)

        await self._tools.patience.until_done(failpoint, once)

    async def produce(self, records: Sequence[Record]) -> None:
        """Until the broker has confirmed them all. One that it refuses for ever is sent as its digest."""
        left = list(records)

        async def once() -> None:
            # what was confirmed is not sent again by this loop; a crash may, and then it is there twice
            nonlocal left
            failures = await self._producer.send(left)
            left = [_digest_of(left[f.index]) if f.for_ever else left[f.index] for f in failures]
            if left:
                raise CallFailed(
                    Failure("connection", True, f"{len(left)} records not confirmed: {failures[0].reason}")
                )

        await self._tools.patience.until_done("produce", once)

    def _to_tier(self, source: Source, deferred: Deferred, place: Later) -> Record:
        now_ms = _now_ms()
        station = msgspec.structs.replace(
            source.life,
            via="retry",
            attempts=deferred.attempts,
            due_ms=now_ms + int(place.delay_s * 1000),
            first_failure_ms=source.life.first_failure_ms or now_ms,
            last_failure_ms=now_ms,
            reason=deferred.failure.reason,
            span=_span_of(source),
        )
        return _record(self._tools.arm.retry_topic(place.tier), source, station)

    async def _bury(
        self, letters: Sequence[Letter], sources: Mapping[Coordinates, Source], attempts: Mapping[Coordinates, int]
    ) -> None:
        now_ms, start_ns = _now_ms(), time.time_ns()
        records, filed = [], []
        for letter in letters:
            source = sources[letter.at]
            station = msgspec.structs.replace(
                source.life,
                attempts=attempts.get(letter.at, source.life.attempts),
                due_ms=0,
                first_failure_ms=source.life.first_failure_ms or now_ms,
                last_failure_ms=now_ms,
                reason=letter.reason,
                span=_span_of(source),
            )
            records.append(_record(self._tools.arm.dead_letter_topic, source, station))
            filed.append(_filed(letter, source, station))
        await self.produce(records)
        await self._tools.park(filed)
        for letter, one in zip(letters, filed, strict=True):
            self._tell(letter)
            self._trace_letter(letter, one.attempts, start_ns)

        async def again() -> None:
            await self.produce(records)
            await self._tools.ledger.insert_dead_letters(filed)

        await self._confirmed("process.after_dead_letter_produced_before_commit", again)

    def _count_retry(self, deferred: Deferred, tier: str) -> None:
        reason = deferred.failure.reason
        self._tools.metrics.add("delivery.retries", 1, arm=self._tools.arm.name, tier=tier, reason=reason)
        self._tools.log.event(
            "message.deferred", "warning", arm=self._tools.arm.name, at=str(deferred.message.at), tier=tier,
            attempts=deferred.attempts, reason=reason, detail=deferred.failure.detail[:300],
            **{"message.id": str(deferred.message.id)},
            **mark(deferred.message.at, "deferred", reason=reason, attempt=deferred.attempts),
        )  # fmt: skip

    def _trace_retry(self, deferred: Deferred, place: Later, topic: str, start_ns: int) -> None:
        if (trail := CURRENT.get()) is not None:
            words = {"tier": place.tier.name, "reason": deferred.failure.reason, "attempt": deferred.attempts}
            attributes = {f"delivery.{name}": value for name, value in words.items()}
            trail.sent("retry", deferred.message.at, topic, start_ns, attributes)

    def _trace_letter(self, letter: Letter, attempts: int, start_ns: int) -> None:
        if (trail := CURRENT.get()) is not None:
            attributes = {"delivery.reason": letter.reason, "delivery.attempt": attempts}
            trail.sent("dead_letter", letter.at, self._tools.arm.dead_letter_topic, start_ns, attributes)

    def _tell(self, letter: Letter) -> None:
        self._tools.log.event(
            "dead_letter", "warning", arm=self._tools.arm.name, at=str(letter.at), reason=letter.reason,
            detail=letter.detail, **{"message.id": str(letter.message_id or "")},
            **mark(letter.at, "dead_lettered", reason=letter.reason),
        )  # fmt: skip


def _given_up(deferred: Deferred) -> Letter:
    detail = f"{deferred.failure.reason} after {deferred.attempts} attempts: {deferred.failure.detail}"
    return Letter(deferred.message.at, deferred.message.id, "attempts", detail[:500])


def _record(topic: str, source: Source, station: Forwarding) -> Record:
    return topic, source.record.key, source.record.value, forwarded(source.record.headers, station)


def _filed(letter: Letter, source: Source, station: Forwarding) -> FiledLetter:
    headers = original(source.record.headers)
    if station.span:
        headers.append((SPAN, station.span.encode()))  # so that a redrive can be linked to what it repeats
    return FiledLetter(
        letter=letter,
        run=_run_of(headers),
        attempts=station.attempts,
        key=source.record.key,
        value=source.record.value,
        headers=headers,
        first_failure_ms=station.first_failure_ms,
        last_failure_ms=station.last_failure_ms,
    )


def _span_of(source: Source) -> str:
    """The traceparent of this attempt's span; where it has none, of the last one that had."""
    trail = CURRENT.get()
    context = trail.open(source.life.origin) if trail is not None else None
    return traceparent_of(context) if context is not None else source.life.span


def _run_of(headers: RawHeaders) -> str:
    found = next((value for name, value in headers if name == RUN_HEADER and value is not None), b"")
    return found.decode("utf-8", "replace").replace("\0", "")[:64]


def _digest_of(record: Record) -> Record:
    """What is sent instead of a record that the broker refuses for ever: who it was, and that it was too large.

    Small whatever the record was: one refused as well would hold up its partition for ever.
    """
    topic, key, value, headers = record
    digest = hashlib.sha256(value or b"").hexdigest()
    told = (one for one in headers if one[0].startswith(("lab-", "ce_")) and len(one[0]) + len(one[1] or b"") <= 1024)
    kept = list(told)[-_MOST_HEADERS:]  # the lab's own are the last
    return topic, (key or b"")[:1024], None, [*kept, ("lab-digest", digest.encode())]


def _now_ms() -> int:
    return int(time.time() * 1000)
