"""Telemetry under storms: what the counters said of killed lives against their rows; load while nobody listens."""

import random
import time
from typing import Any, Final

from loadtest.storms.bench import Bench
from loadtest.storms.proof import Proof
from services.domain.arms import CONSUMER_ARMS

RATE: Final = 40.0
STORM_S: Final = 90.0
KILL_EVERY_S: Final = 3.0
AWAY_S: Final = 300.0
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


def nobody_listens(bench: Bench, away_s: float = AWAY_S) -> None:
    """Prometheus and the trace store killed and held down under load."""
    stores = [name for name in bench.processes() if name in ("prometheus", "zipkin")]
    before = _resident(bench)
    with bench.load(RATE, away_s + 60, effects_share=0.5) as load:
        bench.until(lambda: load.snapshot().acknowledged > RATE, "a second's requests", 60)
        bench.act("kill", *stores, hold=True)
        time.sleep(away_s)
        totals, after = load.snapshot(), _resident(bench)
        bench.act("restart", *stores)
        back_s = bench.all_ready()
    refused = totals.sent - totals.acknowledged
    bench.found(
        f"{', '.join(stores)} away for {away_s:g} s", f"{totals.acknowledged:,} acknowledged", refused <= 2 * RATE
    )
    grown = {name: after[name] - size for name, size in before.items() if name in after}
    most = max(grown, key=lambda name: grown[name])
    bench.found("no service grows by more than 60 MB", f"{most} grew by {grown[most] >> 20} MB", grown[most] < 60 << 20)
    bench.found("ready again", f"{back_s:.0f} s after the restart", True)
    bench.drained()
    bench.until(lambda: _scraped(bench), "every process to be scraped again", 60)
    bench.found("data flows again", "every process is scraped", True)


def _resident(bench: Bench) -> dict[str, int]:
    """The resident size of each service."""
    others = ("postgres", "ledger", "kafka", "prometheus", "zipkin", "alertmanager")
    return {name: one["rss_bytes"] for name, one in bench.processes().items() if name not in others and one["pid"]}


def _scraped(bench: Bench) -> bool:
    answer: Any = bench.cli("telemetry", "gap", "--timeout", "1s", "--json", exits=(0, 1, 3))
    return answer is not None and all(one["counted"] for one in answer["signals"] if one["signal"] == "record")


_ARMS: Final = tuple(CONSUMER_ARMS)
PROOFS: Final = (
    Proof(
        name="telemetry.killed",
        promise="What killed processes had not told is exactly what they did after their last scrape.",
        run=killed,
        consumers=_ARMS,
    ),
    Proof(
        name="telemetry.nobody_listens",
        promise="Prometheus and the trace store away for five minutes change nothing but what they would have shown.",
        run=nobody_listens,
    ),
)
