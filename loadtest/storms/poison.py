"""Poison records among a thousand good ones: how much later each of these is done than in a load without them."""

import statistics
import time
from collections.abc import Mapping
from typing import Final

from loadtest.data_faults import inject
from loadtest.storms.bench import Bench
from loadtest.storms.proof import Proof
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.messages import KINDS, ORDERS

MESSAGES: Final = 1_000
BOUND_S: Final = 1.0
_RATE: Final = 50.0
_WARM_UP_S: Final = 5.0
_EFFECTS_SHARE: Final = 0.2
_ARMS: Final = tuple(arm.name for arm in CONSUMER_ARMS.values() if arm.dead_letters)
_BAD: Final = ("poison", "unknown_version", "conflict")

_INTENTS: Final = "SELECT message_id, idempotency_key, created_at FROM intents WHERE run = $1"
_RECORDS: Final = "SELECT message_id, min(at) AS at FROM {arm}.records WHERE run = $1 GROUP BY 1"
_CHARGES: Final = """SELECT message_id::uuid, min(at) AS at FROM applications
                      WHERE account = $1 AND effect = 'charge' GROUP BY 1"""

Delays = Mapping[int, float]  # of a request of the plan, by its number, seconds from its intent to its last effect


def poison(bench: Bench) -> None:
    """The same load twice, from one seed: without, and with one bad record of each kind."""
    _load(bench, ())  # what is slow at first is slow in neither of the two that are compared
    calm, bad = _load(bench, ()), _load(bench, _BAD)
    bench.drained()
    default = PUBLISHER_ARMS["outbox"]
    intents = {
        run: [row for kind in KINDS for row in bench.rows(default.database(kind), _INTENTS, run)] for run in (calm, bad)
    }
    for arm in _ARMS:
        without, with_ = (_delays(bench, arm, run, intents[run]) for run in (calm, bad))
        both = without.keys() & with_.keys()
        later = {number: with_[number] - without[number] for number in both}
        seen = (
            f"by {max(later.values()):.2f} s at most; median {statistics.median(with_.values()):.2f} s against "
            f"{statistics.median(without.values()):.2f} s, slowest {max(with_.values()):.2f} against "
            f"{max(without.values()):.2f}, {len(both):,} messages"
        )
        holds = max(later.values()) <= BOUND_S and len(both) >= MESSAGES
        bench.found(f"{arm}: later than without", seen, holds)
        letters = bench.value("payments", f"SELECT count(*) FROM {arm}.dead_letters WHERE run = $1", bad)  # noqa: S608  # the arms' own names
        expected = len(_BAD) if CONSUMER_ARMS[arm].dedups else len(_BAD) - 1  # who knows no ids sees no conflict
        bench.found(f"{arm}: bad records in the dead letters", letters, letters == expected)


def _load(bench: Bench, bad: tuple[str, ...]) -> str:
    """A thousand requests and some to warm up; the bad records come one after another."""
    duration_s = 1.1 * MESSAGES / _RATE
    with bench.load(_RATE, duration_s, effects_share=_EFFECTS_SHARE) as load:
        time.sleep(_WARM_UP_S)
        for kind in bad:
            inject(bench.kafka, bench.home.injected_log, kind, ORDERS.topic, 1, seed=bench.seed, run=load.plan.run)
            time.sleep((duration_s - _WARM_UP_S) / (len(bad) + 1))
        load.wait(120)
    return load.plan.run


def _delays(bench: Bench, arm: str, run: str, intents: list[dict[str, object]]) -> Delays:
    ids = {row["message_id"]: row for row in intents}
    records = {row["message_id"]: row["at"] for row in bench.rows("payments", _RECORDS.format(arm=arm), run)}
    charges = {row["message_id"]: row["at"] for row in bench.rows("provider", _CHARGES, arm, server="ledger")}
    return {
        int(str(row["idempotency_key"]).rpartition("-")[2]): (
            max(records[number], charges.get(number, records[number])) - row["created_at"]
        ).total_seconds()
        for number, row in ids.items()
        if number in records
    }


PROOFS: Final = (
    Proof(
        name="poison",
        promise=f"Poison, an unknown version and a conflict among {MESSAGES:,} good records delay none of them by more "
        f"than {BOUND_S:g} s.",
        run=poison,
        consumers=_ARMS,
    ),
)
