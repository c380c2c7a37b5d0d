"""The broker and the database killed again and again under load, with every consumer arm."""

import functools
import time
from collections.abc import Iterator
from typing import Final

from loadtest.storms.bench import Bench
from loadtest.storms.proof import Proof
from services.domain.arms import CONSUMER_ARMS

RATE: Final = 100.0
KILLS: Final = 5
_BETWEEN_S: Final = 5.0
_BACK_S: Final = 180.0
_DRAIN_S: Final = 300.0


def killed(servers: tuple[str, ...], bench: Bench) -> None:
    """Kill the servers at once, wait until everything is ready by itself, and again."""
    names = " and ".join(servers)
    backs = []
    with bench.load(RATE, 3600) as load:
        bench.until(lambda: load.snapshot().acknowledged > RATE, "a second's requests", 60)
        for _ in range(KILLS):
            before = {name: bench.processes()[name]["restarts"] for name in servers}
            bench.act("kill", *servers)
            began = time.monotonic()
            bench.until(functools.partial(_restarted, bench, before), f"{names} to be started again", 60)
            bench.all_ready(_BACK_S)
            backs.append(time.monotonic() - began)
            bench.say(f"  {names} killed, everything ready after {backs[-1]:.0f} s")
            time.sleep(_BETWEEN_S)
    seen = ", ".join(f"{back:.0f}" for back in backs)
    bench.found(f"everything ready again after each of {KILLS} kills of {names}", f"{seen} s", True)
    bench.audited(load.plan.run, drain_s=_DRAIN_S)


def _restarted(bench: Bench, before: dict[str, int]) -> bool:
    now = bench.processes()
    return all(now[name]["restarts"] > restarts for name, restarts in before.items())


def _proofs() -> Iterator[Proof]:
    for servers, word in ((("kafka",), "broker"), (("postgres",), "database"), (("kafka", "postgres"), "both")):
        yield Proof(
            name=f"killed.{word}",
            promise=f"{' and '.join(servers)} killed {KILLS} times at {RATE:g} requests a second: promises hold, "
            "everything comes back without a hand.",
            run=functools.partial(killed, servers),
            publishers=("outbox", "cdc"),
            consumers=tuple(CONSUMER_ARMS),
        )


PROOFS: Final = tuple(_proofs())
