"""What a run put its promises to the test with, seen from outside the processes that made them."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from loadtest.nemesis import BLOWS, Note
from loadtest.totals import Snapshot
from services.broker.reader import bounds
from services.domain.arms import CONSUMER_ARMS, ConsumerArm, Promise
from services.domain.verdict import Chances
from services.settings import Settings
from services.stack.nemesis import Fault
from services.storage.postgres import connect

SERVERS: Final = ("kafka", "postgres", "provider")
UNANSWERED: Final = "provider.after_applying_before_answer"
REPEATS: Final = ("duplicate", "conflict")  # data faults that use an id again

_ABOVE = """
SELECT count(*) FROM {table} a
  JOIN unnest($1::text[], $2::int[], $3::bigint[]) AS c (topic, partition, committed)
    ON a.topic = c.topic AND a.partition = c.partition AND a."offset" >= c.committed
 WHERE a.at < to_timestamp($4) AND a.at > to_timestamp($5)
"""
_OF_ACCOUNT = " AND a.account = $6"
_MET_AGAIN = """
SELECT count(*) FROM {schema}.dedup_hits h
 WHERE h.decision = 'duplicate'
   AND EXISTS (SELECT FROM {schema}.records r WHERE r.message_id = h.message_id AND r.run = $1)
"""
_LETTERS = "SELECT count(*) FROM {schema}.dead_letters WHERE run = $1"


class Counted(msgspec.Struct, frozen=True):
    """What the stores say."""

    due_again: dict[str, int]
    met_again: dict[str, int]
    letters: dict[str, int]
    retries: int


async def count_in_stores(
    settings: Settings, run: str, notes: Sequence[Note], arms: Collection[ConsumerArm], since: float, retried: int
) -> Counted:
    """Read from the databases what was due again at each blow, met again, dead-lettered. Raises what asyncpg raises."""
    payments = await connect(settings.postgres, "payments", name="exercised")
    provider = await connect(settings.ledger, "provider", name="exercised")
    own = [arm for arm in arms if arm.name in CONSUMER_ARMS]
    try:
        due = Counter[str]()
        for note in notes:
            calls = _ABOVE.format(table="applications") + _OF_ACCOUNT
            due[note.arm] += await provider.fetchval(calls, *_places(note), note.at, since, note.arm)
            if note.arm in CONSUMER_ARMS:
                records = _ABOVE.format(table=f"{CONSUMER_ARMS[note.arm].schema}.records")
                due[note.arm] += await payments.fetchval(records, *_places(note), note.at, since)
        met = {
            arm.name: await payments.fetchval(_MET_AGAIN.format(schema=arm.schema), run) for arm in own if arm.dedups
        }
        letters = {
            arm.name: await payments.fetchval(_LETTERS.format(schema=arm.schema), run)
            for arm in own
            if arm.dead_letters
        }
    finally:
        await payments.close(timeout=1)
        await provider.close(timeout=1)
    return Counted(dict(due), met, letters, retried)


def _places(note: Note) -> tuple[list[str], list[int], list[int]]:
    """The committed offsets as three columns."""
    places = [(topic, partition, offset) for (topic, partition), offset in note.offsets.items()]
    return [p[0] for p in places], [p[1] for p in places], [p[2] for p in places]


def retry_ends(settings: Settings, arms: Iterable[ConsumerArm]) -> int:
    """How many records the retry tiers have ever been given. Blocks; raises KafkaException."""
    topics = [topic for arm in arms for topic in arm.retry_topics]
    return sum(bounds(settings.kafka, topics).ends.values()) if topics else 0


def chances(faults: Sequence[Fault], notes: Sequence[Note], counted: Counted, totals: Snapshot) -> Chances:
    """All of it, as the verdict wants it. Pure."""
    blows = [fault for fault in faults if fault.fault in BLOWS]
    in_gaps = [fault for fault in blows if fault.by == "failpoint"]
    hit_working = {(note.target, note.at) for note in notes if note.under_way}
    struck = Counter(
        _part(fault)
        for fault in blows
        if fault.by != "failpoint" and (_is_publisher(fault) or (fault.target, fault.started) in hit_working)
    )
    return Chances(
        kills=Counter(map(_part, in_gaps)),
        struck=struck,
        due_again=counted.due_again,
        met_again=counted.met_again,
        trials=_trials(faults),
        unknown_answers=totals.retried,
        replayed=totals.replayed,
        seen={
            "kills": sum(fault.fault == "kill" for fault in blows),
            "freezes": sum(fault.fault == "freeze" for fault in blows),
            "redeliveries_due": sum(counted.due_again.values()),
            "dedup_hits": sum(counted.met_again.values()),
            "dead_letters": sum(counted.letters.values()),
            "retries": counted.retries,
            "injected": sum(fault.details.get("count", 0) for fault in faults if fault.fault == "data"),
        },
    )


def _part(fault: Fault) -> str:
    return fault.target.partition("#")[0]


def _is_publisher(fault: Fault) -> bool:
    return not _part(fault).startswith(("arm.", "retry."))


def _trials(faults: Iterable[Fault]) -> dict[Promise, dict[str, int]]:
    """What struck every arm at once, in words, by the promise that it tries."""
    loss, duplicate = Counter[str](), Counter[str]()
    for fault in faults:
        details = fault.details
        if fault.fault in (*BLOWS, "restart") and _part(fault) in SERVERS:
            loss[f"{fault.fault}s of {_part(fault)} under load"] += 1
        if fault.fault == "arm" and fault.target.startswith("provider."):
            what = str(details.get("action", "")).partition(" ")[0]
            loss[f"calls that the provider answered with {what}"] += int(details.get("acted", 0))
            if fault.target == UNANSWERED:
                duplicate["calls that the provider applied and did not answer"] += int(details.get("acted", 0))
        if fault.fault == "data":
            trying = duplicate if details["kind"] in REPEATS else loss
            trying[f"injected records of the kind {details['kind']}"] += int(details["count"])
    return {"no_loss": dict(loss), "no_duplicate": dict(duplicate)}
