"""Redrive: a parked letter becomes an outbox row in the transaction that marks it, and the relay sends it to its arm.

Died anywhere: a batch is redriven or it is not; done again, the command takes what is still parked.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import msgspec

from services.domain.forwarding import SPAN, Forwarding, forwarded
from services.domain.redrive import NO_ID, Redriven, key_as_text
from services.domain.sharding import shard_of
from services.letters.letters import ARMS, Selection, sql
from services.letters.parked import Desk, Outcome, Parked, Tell, batches, with_originals

MOST_ROUNDS: Final = 3
LARGEST_BYTES: Final = 1_000_000  # what a producer sends: librdkafka's message.max.bytes


async def redrive(
    desk: Desk, selection: Selection, tell: Tell, *, window_s: float, force: bool = False, dry_run: bool = False
) -> Outcome:
    """Redrive the parked letters of a selection, batch by batch; `tell` hears of each.

    Left out are those that need force: that came back too often, or that the arm's inbox may have forgotten
    (`window_s`). Raises what asyncpg and confluent-kafka raise; what was changed by then stays changed.
    """
    outcome = Outcome(operation=f"redrive.{uuid4().hex[:12]}")
    async for arm, letters in batches(desk, selection):
        allowed = []
        for letter in letters:
            why = "" if force else objection(letter, datetime.now(UTC), window_s if ARMS[arm].dedups else None)
            if why:
                outcome.leave_out(letter, why)
            else:
                allowed.append(letter)
        ready = await _ready(desk, allowed, outcome)
        if dry_run:
            outcome.changed += len(ready)
            tell(outcome)
            continue
        await _redrive(desk, arm, ready, outcome)
        tell(outcome)
        await desk.failpoints.hit("redrive.half_way")
    return outcome


async def _ready(desk: Desk, letters: Sequence[Parked], outcome: Outcome) -> list[tuple[Parked, Redriven]]:
    """Letters and their records; those of which none can be sent are left out. A dry run finds the same."""
    there = {letter.name: letter for letter in await with_originals(desk, letters)}
    ready = []
    for letter in letters:
        if (found := there.get(letter.name)) is None:
            outcome.leave_out(letter, f"is no longer at {letter.at}")
            continue
        record = _record(found, outcome.operation)
        if size_of(found, record) > LARGEST_BYTES:
            # the relay would set it aside, when it is marked as redriven and nobody can do anything with it any more
            outcome.leave_out(letter, f"is larger than a producer sends ({LARGEST_BYTES} bytes)")
        else:
            ready.append((found, record))
    return ready


async def _redrive(desk: Desk, arm: str, ready: Sequence[tuple[Parked, Redriven]], outcome: Outcome) -> None:
    sent, records = [letter for letter, _ in ready], [record for _, record in ready]
    rows = await desk.database.fetch(
        sql(arm, "redrive"),
        [letter.name.number for letter in sent],
        [letter.rounds for letter in sent],
        [letter.message_id or NO_ID for letter in sent],
        [shard_of(key_as_text(letter.key)) for letter in sent],
        [key_as_text(letter.key) for letter in sent],
        [letter.value for letter in sent],
        [msgspec.json.encode(record).decode() for record in records],
        desk.actor,
        desk.why,
        arm,
    )
    taken = {row["letter"] for row in rows}
    outcome.changed += len(taken)
    for letter in sent:
        if letter.name.number not in taken:
            outcome.leave_out(letter, "was changed by somebody else meanwhile")


def _record(letter: Parked, operation: str) -> Redriven:
    before = next((value for name, value in letter.headers if name == SPAN and value is not None), b"")
    span = before.decode("ascii", "replace")
    station = Forwarding(origin=letter.at, via="redrive", operation=operation, span=span)
    return Redriven(
        origin=str(letter.at),
        key=letter.key,
        null=letter.away and letter.value is None,
        headers=forwarded(letter.headers, station),
    )


def size_of(letter: Parked, record: Redriven) -> int:
    """What the record takes at most, as librdkafka reckons it: with the headers of the way back, which it had not
    when it was sent first."""
    headers = sum(len(name.encode()) + len(value or b"") + 10 for name, value in record.headers)
    return len(record.key or b"") + letter.kept + len(letter.value or b"") + headers + 64


def objection(letter: Parked, now: datetime, window_s: float | None) -> str:
    """Why a letter is not redriven without force, or nothing. `window_s`: how long its arm's inbox knows an id."""
    if letter.rounds >= MOST_ROUNDS:
        return f"came back {letter.rounds} times: needs --force"
    written = written_at(letter.message_id) or letter.first_failure
    if window_s is not None and now - written > timedelta(seconds=window_s):
        return f"is older than the dedup window ({timedelta(seconds=window_s)}): needs --force"
    return ""


def written_at(message_id: UUID | None) -> datetime | None:
    """The time in a UUIDv7 (RFC 9562: 48 bits, milliseconds); None for any other id."""
    if message_id is None or message_id.version != 7:
        return None
    return datetime.fromtimestamp((message_id.int >> 80) / 1000, UTC)
