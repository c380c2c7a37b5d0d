"""Ten minutes without the provider: it fails, then it is silent, then it is not there."""

import time
from typing import Final

from loadtest.storms.bench import Bench
from loadtest.storms.proof import Proof

RATE: Final = 100.0
OUTAGE_S: Final = 600.0
_CALM_S: Final = 10.0  # before and after
_DRAIN_S: Final = 600.0
_REFUSES: Final = "provider.before_applying"


def outage(bench: Bench) -> None:
    """Three outages without a gap between them, under a load that begins before and ends after."""
    with bench.load(RATE, OUTAGE_S + 120) as load:
        time.sleep(_CALM_S)
        began = time.monotonic()
        bench.arm(_REFUSES, "error:http_503")
        _last(bench, began, OUTAGE_S / 3)
        bench.act("freeze", "provider")
        _last(bench, began, 2 * OUTAGE_S / 3)
        bench.act("kill", "provider", hold=True)
        _last(bench, began, OUTAGE_S)
        bench.cli("fault", "clear")
        bench.act("restart", "provider")
        lasted_s = time.monotonic() - began
        bench.found("the outage", f"{lasted_s:.0f} s: HTTP 503, silent, not there", None)
        time.sleep(_CALM_S)
    bench.all_ready()
    rows = bench.audited(load.plan.run, drain_s=_DRAIN_S)
    for arm in bench.proof.consumers:
        letters = sum(row.dead_lettered for row in rows.values() if row.arm == arm)
        bench.found(f"{arm}: dead-lettered", letters, letters == 0)


def _last(bench: Bench, began: float, until_s: float) -> None:
    """Let the outage last, saying now and then what waits."""
    while (left_s := until_s - (time.monotonic() - began)) > 0:
        time.sleep(min(left_s, 30.0))
        bench.say(f"  outage: {time.monotonic() - began:.0f} s")


PROOFS: Final = (
    Proof(
        name="outage",
        promise=f"{OUTAGE_S / 60:g} minutes without the provider at {RATE:g} requests a second: nothing lost, nothing "
        "dead-lettered, and it drains by itself.",
        run=outage,
    ),
)
