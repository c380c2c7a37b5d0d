"""Zombies: an arm's process frozen with its effects half done, replaced, and thawed when its time is long over."""

import functools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from loadtest.storms.bench import Bench
from loadtest.storms.freezes import AFTER_S, EFFECTS_SHARE, FROZEN_S, RATE, SESSION_S, caught_up, main_topics_read
from loadtest.storms.proof import Proof
from services.domain.arms import CONSUMER_ARMS

# Where an arm is struck: charges made, and nothing that remembers them is committed. The tutorial's loop has no names.
_GAPS: Final = {
    "at_most_once": "process.after_charge_before_record",
    "at_least_once": "process.after_charge_before_record",
    "effectively_once": "process.after_charge_before_record",
    "kafka_transactions": "process.in_transaction_before_offsets",
    "stock_faust": "",
}
_STARTED_S: Final = 10.0  # what a process may take to start and to join
_MET_AGAIN: Final = "SELECT count(*) FROM effectively_once.dedup_hits WHERE at >= $1"
_REFUSALS: Final = ("UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "FENCED")


def zombie(name: str, bench: Bench) -> None:
    """Freeze the only process in its gap, start another one, thaw the first when the other one has taken over."""
    part, began_at = f"arm.{name}", datetime.now(UTC)
    frozen, gap = f"{part}#0", _GAPS[name]
    caught_up(bench, name)
    with bench.load(RATE, 600, effects_share=EFFECTS_SHARE) as load:
        bench.until(lambda: load.snapshot().acknowledged > RATE, "a second's requests", 60)
        if gap:
            before = bench.passed(gap).get(frozen, 0)
            bench.arm(gap, f"pause:3 count=1 arm={name}")
            bench.until(lambda: bench.passed(gap).get(frozen, 0) > before, f"{frozen} to be in its gap", 30)
        bench.act("freeze", frozen)
        began = time.monotonic()
        bench.scale(part, 2)
        time.sleep(AFTER_S)
        bench.until(main_topics_read(bench, CONSUMER_ARMS[name].group), f"another one to replace {frozen}", 60)
        took_s, bound_s = time.monotonic() - began, 2 * SESSION_S + _STARTED_S
        bench.found(f"replaced within {bound_s:g} s, its start included", f"{took_s:.1f} s", took_s <= bound_s)
        time.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        refused = refusals(bench, frozen)
        bench.act("thaw", frozen)
        if name == "kafka_transactions":
            bench.until(lambda: refusals(bench, frozen) > refused, "the broker to refuse the zombie's transaction", 30)
            bench.found("the zombie's transaction", "refused by the broker", True)
        bench.all_ready()
    bench.audited(load.plan.run)
    if name == "effectively_once":
        met = bench.value("payments", _MET_AGAIN, began_at)
        bench.found("ids that it met again", met, met > 0)


def refusals(bench: Bench, process: str) -> int:
    """How often the broker refused its offsets, as of no member, or its producer, as one whose time is over."""
    aborted = [entry for entry in bench.log(process, "transaction.aborted") if any(w in str(entry) for w in _REFUSALS)]
    return len(aborted) + len(bench.log(process, "transaction.fenced"))


_PROMISES: Final = {
    "effectively_once": "it adds nothing",
    "kafka_transactions": "it is fenced: its output is there once; charges and records are counted",
}


def _proofs() -> Iterator[Proof]:
    for name in CONSUMER_ARMS:
        yield Proof(
            name=f"zombie.{name}",
            promise=f"Frozen {'with its charges made' if _GAPS[name] else 'under load'} for {FROZEN_S:g} s, replaced, "
            f"thawed: {_PROMISES.get(name, 'what it promises holds, its damage is counted')}.",
            run=functools.partial(zombie, name),
            consumers=(name,),
        )


PROOFS: Final = tuple(_proofs())
