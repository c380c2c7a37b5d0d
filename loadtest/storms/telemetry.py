"""Telemetry under storms: what the counters said of killed lives against their rows."""

import random
import time
from typing import Final

from loadtest.storms.bench import Bench
from loadtest.storms.proof import Proof
from services.domain.arms import CONSUMER_ARMS

RATE: Final = 40.0
STORM_S: Final = 90.0
KILL_EVERY_S: Final = 3.0
SIGNALS: Final = ("record", "charge", "email", "dedup", "dead_letters")


def killed(bench: Bench, storm_s: float = STORM_S) -> None:
    """Random kills of arms and lanes; then every life's rows against its last raw samples."""
    draw = random.Random(bench.seed)  # noqa: S311  # the seed is printed
    victims = [name for name in bench.processes() if name.startswith(("arm.", "retry."))]
    with bench.load(RATE, storm_s + 60, effects_share=0.5):
        end = time.monotonic() + storm_s
        while time.monotonic() < end:
            time.sleep(KILL_EVERY_S)
            alive = [one for one in bench.processes().values() if one["name"] in victims and one["ready"]]
            if alive:
                bench.act("kill", draw.choice(alive)["name"])
    bench.all_ready()
    bench.drained()
    _compare(bench)


def _compare(bench: Bench) -> None:
    answer = bench.cli("telemetry", "gap", "--timeout", "20s", "--json", exits=(0, 1))
    for signal in SIGNALS:
        found = [one for one in answer["signals"] if one["signal"] == signal]
        rows, counted, unexplained = (sum(one[of] for one in found) for of in ("rows", "counted", "unexplained"))
        dead = {one["life"] for arm in found for one in arm["lives"]}
        seen = f"{rows:,} rows, {rows - counted:,} of them not in the counters of {len(dead)} lives"
        bench.found(
            f"{signal}: what is missing was applied after the last scrape",
            f"{seen}, unexplained {unexplained}",
            not unexplained,
        )


_ARMS: Final = tuple(CONSUMER_ARMS)
PROOFS: Final = (
    Proof(
        name="telemetry.killed",
        promise="What killed processes had not told is exactly what they did after their last scrape.",
        run=killed,
        consumers=_ARMS,
    ),
)
