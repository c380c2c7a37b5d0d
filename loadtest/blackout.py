"""Trace store and Prometheus away under load: does anything but the telemetry notice, and does that come back?

`python -m loadtest.blackout --rate 100 --minutes 5` against a lab that is up: a calm minute, the blackout, a minute.
Exit 0 when throughput stays, no process grows and data flows again, 1 when not.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final

import msgspec

from loadtest.run import start
from loadtest.soak import Growth, growth
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import KINDS
from services.stack import client
from services.stack.home import Home
from services.stack.parts import PARTS, find
from services.storage.postgres import connect

STOPPED: Final = ("zipkin", "prometheus")
SLOWER: Final = 0.9  # of the calm rate is still the same: the load is planned, so that a hold-up would be a gap
RECOVERY_S: Final = 60.0
SAMPLE_S: Final = 1.0
LATE_S: Final = 2.0  # a sample that is later saw the machine stand still
PATIENCE_S: Final = 120.0  # for the samples that do not count
_DROPPED: Final = 'delivery_telemetry_dropped_total{signal="span"}'
GROWTH_BYTES: Final = 32 << 20  # full queues of spans in every exporter, and an allocator's noise

Say = Callable[[str], None]


class Phase(msgspec.Struct, frozen=True):
    """What was done in a second, the median: a second in which the machine stood still does not weigh."""

    accepted_per_s: float  # intents
    applied_per_s: float  # records of all arms that are up
    arms: int  # that are up

    @property
    def planned_per_s(self) -> float:
        """Records of what was accepted meanwhile. What is applied beyond that waited from before, and sets no pace."""
        return min(self.applied_per_s, self.accepted_per_s * self.arms)


class Blackout(msgspec.Struct, frozen=True):
    """What was seen."""

    calm: Phase
    dark: Phase
    after: Phase
    dropped_spans: int  # that the exporters gave up, by the counters of the processes
    growths: list[Growth]  # from before to the end of the blackout
    traces_again: bool
    metrics_again: bool

    def holds(self, slower: float = SLOWER) -> bool:
        """Throughput as before (`slower`: what share of it still is), memory bounded, data again."""
        accepts = self.dark.accepted_per_s >= slower * self.calm.accepted_per_s
        applies = self.dark.applied_per_s >= slower * self.calm.planned_per_s
        small = all(one.last - one.first <= GROWTH_BYTES for one in self.growths)
        return accepts and applies and small and self.traces_again and self.metrics_again


class _Watch:
    """Samples once a second: intents, records applied, resident sizes. What is more than 2 s late does not count."""

    def __init__(self, home: Home, databases: Mapping[str, Any]) -> None:
        self._home = home
        self._databases = databases
        arms = {process["name"].split(".")[1].split("#")[0] for process in _processes(home, "arm.")}
        self._arms = len(arms)
        tables = (CONSUMER_ARMS[name].schema for name in sorted(arms))
        self._count = "SELECT " + " + ".join(f"(SELECT count(*) FROM {table}.records)" for table in tables)  # noqa: S608
        self.sizes: defaultdict[str, list[int]] = defaultdict(list)

    async def phase(self, seconds: float) -> Phase:
        """Watch until there are samples of so many seconds. Raises TimeoutError when far too many come too late."""
        rates: list[tuple[float, float]] = []
        good_s, deadline = 0.0, time.monotonic() + seconds + PATIENCE_S
        at, before = await self._now()
        while good_s < seconds:
            await asyncio.sleep(SAMPLE_S)
            for process in await asyncio.to_thread(_processes, self._home, ""):
                self.sizes[process["name"]].append(process["rss_bytes"])
            then, now = await self._now()
            if then - at <= SAMPLE_S + LATE_S:
                rates.append(((now[0] - before[0]) / (then - at), (now[1] - before[1]) / (then - at)))
                good_s += then - at
            elif then > deadline:
                raise TimeoutError(f"only {good_s:.0f} of {seconds:g} s could be watched: the machine stands still")
            at, before = then, now
        accepted, applied = (round(median(column), 1) for column in zip(*rates, strict=True))
        return Phase(accepted, applied, self._arms)

    async def _now(self) -> tuple[float, tuple[int, int]]:
        """The counts and when they were taken."""
        intents = [await self._databases[kind.name].fetchval("SELECT count(*) FROM intents") for kind in KINDS]
        applied = int(await self._databases["payments"].fetchval(self._count))
        return time.monotonic(), (sum(intents), applied)


def _processes(home: Home, prefix: str) -> list[dict[str, Any]]:
    found = client.status(home)["processes"]
    return [process for process in found if process["name"].startswith(prefix) and process["pid"]]


async def black_out(
    home: Home, *, rate: float, calm_s: float, dark_s: float, say: Say, recovery_s: float = RECOVERY_S
) -> Blackout:
    """Load, stop the two, start them again, and say what came of it. The lab stays as it was."""
    load = start(home, rate, 2 * calm_s + dark_s + 2 * recovery_s + 4 * PATIENCE_S, seed=1)
    server, databases = home.postgres_url("postgres"), {}
    try:
        for name in ("payments", *(kind.name for kind in KINDS)):
            databases[name] = await connect(server, name, name="blackout")
        watch = _Watch(home, databases)
        begun = time.monotonic()
        while not (await watch.phase(3)).planned_per_s:  # connections are made, first chunks are handled
            if time.monotonic() > begun + PATIENCE_S:
                raise TimeoutError(f"the load is not under way within {PATIENCE_S:g} s")
        calm = await watch.phase(calm_s)
        say(f"calm:     {calm}")
        settled = {name: sizes[-1] for name, sizes in watch.sizes.items()}
        await asyncio.to_thread(client.act, home, "kill", *STOPPED, hold=True)
        try:
            dark = await watch.phase(dark_s)
            say(f"blackout: {dark}")
            dropped = await asyncio.to_thread(_dropped_spans, home)
            growths = [growth(n, [settled[n], watch.sizes[n][-1]]) for n in settled if n not in STOPPED]
        finally:
            await asyncio.to_thread(client.act, home, "restart", *STOPPED)
        traces_again, metrics_again = await _flows_again(home, time.time(), recovery_s)
        after = await watch.phase(calm_s)
        say(f"after:    {after}")
        return Blackout(calm, dark, after, dropped, growths, traces_again, metrics_again)
    finally:
        for database in databases.values():
            await database.close()
        await asyncio.to_thread(load.stop)


async def _flows_again(home: Home, since_s: float, within_s: float) -> tuple[bool, bool]:
    """Whether spans and samples of later than `since_s` arrive in time."""
    deadline = time.monotonic() + within_s
    traces, metrics = False, False
    while not (traces and metrics) and time.monotonic() < deadline:
        traces = traces or await asyncio.to_thread(_has_spans, home, since_s)
        metrics = metrics or await asyncio.to_thread(_has_samples, home, since_s)
        await asyncio.sleep(0.5)
    return traces, metrics


def _has_spans(home: Home, since_s: float) -> bool:
    found = _get(f"{home.http_url(PARTS['zipkin'])}/api/v2/traces?limit=10&lookback=60000") or []
    return any(span["timestamp"] > since_s * 1e6 for trace in found for span in trace)


def _has_samples(home: Home, since_s: float) -> bool:
    query = "/api/v1/query?query=max(timestamp(up%7Bpart%3D%22orders%22%7D))"
    found = _get(f"{home.http_url(PARTS['prometheus'])}{query}") or {"data": {"result": []}}
    return any(float(series["value"][1]) > since_s for series in found["data"]["result"])


def _dropped_spans(home: Home) -> int:
    total = 0.0
    for process in _processes(home, ""):
        part, replica = find(process["name"])
        if part.admin_port:
            address = f"{home.admin_url(part, replica or 0)}/metrics"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
                lines = answer.read().decode().splitlines()
                total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(_DROPPED))
    return int(total)


def _get(url: str) -> Any:
    """The JSON at a local address, None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own servers
            return json.load(answer)
    except OSError:
        return None


def main() -> None:
    """Black out the lab of the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the blackout")
    options = parser.parse_args()

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    home = Home.from_environment()
    seen = asyncio.run(black_out(home, rate=options.rate, calm_s=60, dark_s=options.minutes * 60, say=say))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(seen), indent=2).decode() + "\n")
    sys.exit(0 if seen.holds() else 1)


if __name__ == "__main__":
    main()
