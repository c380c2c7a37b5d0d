"""Ten thousand messages sent again, by redrive and by replay, each killed half way and repeated."""

import signal
from datetime import UTC, datetime
from typing import Final

import msgspec

from loadtest.storms.bench import Bench, Stopped
from loadtest.storms.proof import Proof
from services.domain.messages import ORDERS

MESSAGES: Final = 10_000
_KILLED: Final = (-signal.SIGKILL,)
_HALF_WAY: Final = "kill count=1 nth=10"  # batches of 500
_RATE: Final = 300.0
_LETTERS_RATE: Final = 120.0  # each with a call of the provider
_DRAIN_S: Final = 300.0
_HITS: Final = "SELECT count(*) FROM effectively_once.dedup_hits WHERE reason = 'replay' AND at >= $1"
_PARKED: Final = "SELECT count(*) FROM effectively_once.dead_letters WHERE run = $1 AND state = 'parked'"
_REDRIVEN: Final = """SELECT count(*) FROM effectively_once.dead_letters
                       WHERE run = $1 AND state = 'redriven' AND rounds = 1"""


class Effects(msgspec.Struct, frozen=True):
    """What an arm has done for a run: applications, and of how many messages."""

    records: int
    recorded: int
    charges: int
    charged: int

    def __str__(self) -> str:
        return f"{self.records:,} records of {self.recorded:,}, {self.charges:,} charges of {self.charged:,} messages"


def effects(bench: Bench, arm: str, run: str) -> Effects:
    """Count them in the stores."""
    ids = [row[0] for row in bench.rows("payments", f"SELECT message_id FROM {arm}.records WHERE run = $1", run)]  # noqa: S608  # the arms' own names
    charged = bench.rows(
        "provider",
        "SELECT message_id FROM applications WHERE account = $1 AND effect = 'charge' AND message_id = ANY ($2)",
        arm,
        [str(message_id) for message_id in ids],
        server="ledger",
    )
    return Effects(len(ids), len(set(ids)), len(charged), len({row[0] for row in charged}))


def replay(bench: Bench) -> None:
    """A window of orders.v1 into both arms, killed half way, resumed, and asked for once more."""
    begin = datetime.now(UTC)
    run = bench.load_whole(_RATE, 1.15 * MESSAGES / _RATE)  # a tenth are refunds
    bench.drained(_DRAIN_S)
    window = ("--topic", ORDERS.topic, "--from", begin.isoformat(), "--to", datetime.now(UTC).isoformat())
    arms = ("effectively_once", "at_least_once")
    before = {arm: effects(bench, arm, run) for arm in arms}
    copied = {arm: _copied(bench, arm, window, run) for arm in arms}
    bench.drained(_DRAIN_S)
    after = {arm: effects(bench, arm, run) for arm in arms}
    once, least = arms
    bench.found(f"{once} before the replay", before[once])
    bench.found(f"{once} after it", after[once], after[once] == before[once])
    hits = bench.value("payments", _HITS, begin)
    bench.found("ids that it met again", f"{hits:,} of {copied[once]:,}", hits == copied[once])
    _count_additions(bench, before[least], after[least], copied[least])
    rows = {
        row["effect"]: row
        for row in bench.cli("audit", "--json", "--run", run, exits=(0, 1))["rows"]
        if row["arm"] == least
    }
    added = after[least].records - before[least].records
    extra = rows["record"]["extra_applications"]
    bench.found("extra records that the audit counts", f"{extra:,}", extra == added)


def _copied(bench: Bench, arm: str, window: tuple[str, ...], run: str) -> int:
    """Replay, die half way, resume, and resume what is over: each record is copied once."""
    name = f"{run}-{arm}"
    bench.arm("replay.half_way", _HALF_WAY)
    bench.cli("replay", "--arm", arm, *window, "--id", name, "--json", exits=_KILLED)
    resumed = bench.cli("replay", "--id", name, "--json")
    again = bench.cli("replay", "--id", name, "--json")
    records: int = resumed["records"]
    seen = f"{resumed['copied_before']:,} + {resumed['copied']:,} of {records:,}, then {again['copied']}"
    whole = resumed["copied_before"] + resumed["copied"] == records >= MESSAGES and again["copied"] == 0
    bench.found(f"copied to {arm} before the kill and after", seen, whole and resumed["copied_before"] > 0)
    return records


def _count_additions(bench: Bench, before: Effects, after: Effects, copied: int) -> None:
    records, charges = after.records - before.records, after.charges - before.charges
    bench.found("records that at_least_once added", f"{records:,} of {copied:,} copied", records == copied)
    # refunds were not replayed: what was charged twice is what was charged among the orders
    bench.found("charges that it added, one a message", f"{charges:,}", 0 < charges <= before.charged)
    same = (before.recorded, before.charged) == (after.recorded, after.charged)
    bench.found("messages that it had not known", "none" if same else "some", same)


def redrive(bench: Bench) -> None:
    """Letters of messages whose charge was refused, redriven and killed half way, then the rest, then nothing."""
    begin = datetime.now(UTC)
    bench.arm("provider.before_applying", "error:http_400 arm=effectively_once")
    run = bench.load_whole(_LETTERS_RATE, 1.01 * MESSAGES / _LETTERS_RATE, effects_share=1.0, refunds_share=0.0)
    bench.drained(_DRAIN_S)
    parked = bench.value("payments", _PARKED, run)
    if parked < MESSAGES:
        raise Stopped(f"{parked} letters are fewer than {MESSAGES}")
    bench.cli("fault", "clear")
    bench.arm("redrive.half_way", _HALF_WAY)
    words = ("dlq", "redrive", "--arm", "effectively_once", "--reason", "refused", "--why", "a storm", "--json")
    bench.cli(*words, exits=_KILLED)
    left = bench.value("payments", _PARKED, run)
    again, over = bench.cli(*words), bench.cli(*words)
    seen = f"{parked - left:,} + {again['redriven']:,} of {parked:,}, then {over['redriven']}"
    whole = again["redriven"] == left > 0 and left < parked and over["redriven"] == 0
    bench.found("letters redriven before the kill and after", seen, whole)
    bench.drained(_DRAIN_S)
    after = effects(bench, "effectively_once", run)
    once = after.records == after.recorded == after.charges == after.charged == parked
    bench.found("effectively_once after the redrive", after, once)
    redriven = bench.value("payments", _REDRIVEN, run)
    bench.found("letters that are redriven, one round", f"{redriven:,}", redriven == parked)
    _replay_on_top(bench, begin, run, after)


def _replay_on_top(bench: Bench, begin: datetime, run: str, before: Effects) -> None:
    window = ("--topic", ORDERS.topic, "--from", begin.isoformat(), "--to", datetime.now(UTC).isoformat())
    _copied(bench, "effectively_once", window, run)
    bench.audited(run)
    after = effects(bench, "effectively_once", run)
    bench.found("and after a replay of all that was redriven", after, after == before)


PROOFS: Final = (
    Proof(
        name="replay",
        promise=f"{MESSAGES:,} messages replayed, killed half way, resumed: no second effect in effectively_once; in "
        "at_least_once the additions are counted exactly.",
        run=replay,
    ),
    Proof(
        name="redrive",
        promise=f"{MESSAGES:,} letters redriven into effectively_once, killed half way, repeated, then replayed: no "
        "second effect.",
        run=redrive,
        consumers=("effectively_once",),
    ),
)
