"""A long, even load with two questions: does the outbox stay empty, and does any process grow?

`python -m loadtest.soak --rate 100 --minutes 10` against a lab that is up. Exit 0 when both hold, 1 when not.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec

from loadtest.run import Load, start
from loadtest.totals import Snapshot
from services.domain.messages import KINDS
from services.stack.client import status
from services.stack.home import Home
from services.storage.postgres import connect

PENDING_BOUND: Final = 100  # outbox rows, one second after each second's load
GROWTH_BOUND: Final = 0.05  # of a process's resident size, from the first to the last fifth of what is compared
GROWTH_FLOOR_BYTES: Final = 4 << 20  # below it a growth is an allocator's noise
SAMPLED: Final = 0.8  # of the seconds; a look that takes longer than a second is made less often
SETTLED_AFTER: Final = 0.2  # what a process grows in the first fifth of the time is its warming up


class Growth(msgspec.Struct, frozen=True):
    """Resident size of a process after warming up and in the end, bytes (medians)."""

    process: str
    first: int
    last: int

    @property
    def within_bound(self) -> bool:
        return self.last - self.first <= max(GROWTH_FLOOR_BYTES, int(GROWTH_BOUND * self.first))


def growth(process: str, samples: Sequence[int]) -> Growth:
    """Compare the first and the last fifth of the samples that were taken after warming up."""
    settled = samples[int(len(samples) * SETTLED_AFTER) :]
    part = max(1, len(settled) // 5)
    return Growth(process, int(statistics.median(settled[:part])), int(statistics.median(settled[-part:])))


class Soak(msgspec.Struct, frozen=True):
    """What was seen while the load ran, once a second: outbox rows pending, and the size of each process."""

    seconds: float
    pending: list[int]
    growths: list[Growth]
    died: list[str]  # processes that were killed or died: what has just begun has not grown


def flaws(soak: Soak, totals: Snapshot) -> list[str]:
    """Why it does not hold; none where it does. What was not sent, or not looked at, has shown nothing."""
    found = []
    if not totals.carried_out:
        found.append("the load ended before its plan did")
    if totals.acknowledged < totals.planned:
        found.append(f"{totals.acknowledged} of {totals.planned} were acknowledged")
    if len(soak.pending) < SAMPLED * soak.seconds:
        found.append(f"{len(soak.pending)} looks in {soak.seconds:.0f} s are too few")
    if not soak.growths:
        found.append("no process was looked at")
    if (most := max(soak.pending, default=0)) >= PENDING_BOUND:
        found.append(f"{most} outbox rows waited (bound {PENDING_BOUND})")
    if soak.died:
        found.append(f"died, or was killed: {', '.join(soak.died)}")
    if grown := [g.process for g in soak.growths if not g.within_bound]:
        found.append(f"grew over the bound: {', '.join(grown)}")
    return found


def has_died(lives: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether a process was in another life than at first, or in none, at a look; each gives restarts and size."""
    return len(set(lives)) > 1 or any(size and not after for size, after in pairwise(sizes))


async def watch(home: Home, load: Load) -> Soak:
    """Sample once a second until the load has ended."""
    server = home.postgres_url("postgres")
    databases = [await connect(server, kind.name, name="soak") for kind in KINDS]
    pending: list[int] = []
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    lives: defaultdict[str, list[int]] = defaultdict(list)
    began = time.monotonic()
    try:
        while load.poll() is None:
            await asyncio.sleep(1)
            counts = [await database.fetchval("SELECT count(*) FROM outbox") for database in databases]
            pending.append(sum(counts))
            for process in (await asyncio.to_thread(status, home))["processes"]:
                sizes[process["name"]].append(process["rss_bytes"])
                lives[process["name"]].append(process["restarts"])
            if len(pending) % 30 == 0:
                tell(f"{time.monotonic() - began:5.0f} s  outbox {pending[-1]}, most {max(pending)}")
    finally:
        for database in databases:
            await database.close()
    growths = [growth(name, samples) for name, samples in sizes.items()]
    died = [name for name in sizes if has_died(lives[name], sizes[name])]
    return Soak(time.monotonic() - began, pending, growths, died)


def tell(text: str) -> None:
    """A line of progress on stderr."""
    sys.stderr.write(text + "\n")


def report(soak: Soak, totals: Snapshot) -> str:
    """The answer, for people."""
    found = flaws(soak, totals)
    lines = [
        *(f"DOES NOT HOLD: {flaw}" for flaw in found),
        f"{'' if found else 'holds: '}{totals.acknowledged} of {totals.planned} acknowledged, "
        f"p95 {totals.latency_ms.p95:g} ms; outbox pending at most {max(soak.pending, default=0)} "
        f"(bound {PENDING_BOUND}), median {statistics.median(soak.pending or [0]):g}",
        f"{'process':<24}{'settled':>10}{'in the end':>12}{'growth':>9}",
    ]
    for g in soak.growths:
        mark = "" if g.within_bound else "  over the bound"
        grown = 100 * (g.last - g.first) / max(g.first, 1)
        lines.append(f"{g.process:<24}{g.first / 2**20:>6.1f} MiB{g.last / 2**20:>8.1f} MiB{grown:>8.1f}%{mark}")
    return "\n".join(lines)


def main() -> None:
    """Run a soak against the lab of the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    home = Home.from_environment()
    load = start(home, options.rate, options.minutes * 60, options.seed)
    try:
        soak = asyncio.run(watch(home, load))
    finally:
        totals = load.stop()
    sys.stdout.write(report(soak, totals) + "\n")
    sys.exit(bool(flaws(soak, totals)))


if __name__ == "__main__":
    main()
