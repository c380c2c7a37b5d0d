"""`lab bench relay`: outbox rows to readable records: a full outbox drained, and single commits at 500/s."""

import asyncio
from contextlib import ExitStack
from typing import Final

from loadtest.bench.answer import Answer, Measured, answer_of
from loadtest.bench.arrivals import Arrivals
from loadtest.bench.meter import Meter
from loadtest.bench.outbox import Outbox
from loadtest.bench.place import Child, anchor, server_pids, service
from loadtest.bench.work import Tell, interleave
from services.domain.arms import DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.stack.errors import StackError
from services.stack.home import Home

RATE: Final = 500.0
LOST_IN_TIME: Final = 0.01  # of the trickle; more that did not arrive within 10 s make the round worthless
ARMS: Final = tuple(arm.name for arm in PUBLISHER_ARMS.values() if arm.outbox != "none")
NOUN: Final = "row"


def bench(place: Home, arm: str, rounds: int, rows: int, seconds: float, tell: Tell) -> Answer:
    """Carry the benchmark out for a publisher arm on the servers of `place`. Raises StackError."""
    found = asyncio.run(_rounds(place, arm, rounds, rows, seconds, tell))
    project = "the relay" if arm == DEFAULT_PUBLISHER else f"the publisher {arm}"
    anchor_ = "one loop on one connection: SELECT … FOR UPDATE SKIP LOCKED, produce, flush, DELETE; the same headers"
    return answer_of(f"relay, {rows} rows at once, then {RATE:g}/s", project, anchor_, found)


async def _rounds(
    place: Home, arm: str, rounds: int, rows: int, seconds: float, tell: Tell
) -> list[tuple[Measured, Measured]]:
    own, other = Outbox(place, arm), Outbox(place, f"{arm}_anchor")
    await own.make(arm)
    await other.make()
    with ExitStack() as running:
        if arm == DEFAULT_PUBLISHER:
            child = running.enter_context(service(place, "relay", f"{own.database}={own.topic}"))
        else:
            child = running.enter_context(service(place, arm, own.database, own.topic))
        minimal = running.enter_context(anchor(place, "relay", other.database, other.topic))
        project = Publisher("project", place, own, child, rows, seconds, empties=arm == DEFAULT_PUBLISHER)
        against = Publisher("anchor", place, other, minimal, rows, seconds)
        return await interleave(rounds, project, against, tell)


class Publisher:
    """A process that publishes one outbox."""

    def __init__(
        self, name: str, place: Home, outbox: Outbox, child: Child, rows: int, seconds: float, *, empties: bool = True
    ) -> None:
        self.name = name
        self._outbox, self._child = outbox, child
        self._rows, self._seconds, self._empties = rows, seconds, empties
        self._publisher, self._servers = {"publisher": child.pid}, server_pids(place, "postgres", "kafka")

    async def round(self) -> Measured:
        """A drain, then the trickle. Raises StackError when the publisher has ended or does not get on."""
        drained = await self._drain()
        return Measured({**drained.values, **await self._trickle()})

    async def _drain(self) -> Measured:
        self._child.check()
        end = await self._outbox.end() + self._rows
        publisher = Meter(self._publisher)  # it is at the first rows before their transaction's end is known here
        await self._outbox.fill(self._rows)
        meter = Meter(self._servers)
        await self._outbox.reaches(end)
        meter.done()
        if self._empties:
            await self._outbox.empties()
        return Measured({**publisher.measured(self._rows, NOUN).values, **meter.measured(self._rows, NOUN).values})

    async def _trickle(self) -> dict[str, float]:
        with Arrivals(self._outbox.kafka, self._outbox.partitions) as arrivals:
            meter = Meter(self._publisher)
            committed = await self._outbox.trickle(RATE, self._seconds)
            cpu_s, elapsed_s = meter.cpu_s(), meter.elapsed_s
            await asyncio.to_thread(arrivals.wait_for, len(committed))
        delays = sorted((arrivals.at[id_] - at) * 1000 for id_, at in committed.items() if id_ in arrivals.at)
        if len(delays) < len(committed) * (1 - LOST_IN_TIME):
            raise StackError(f"{self.name}: {len(committed) - len(delays)} of {len(committed)} rows were not readable")
        quantiles = {f"ms to readable at {RATE:g}/s, p{p}": delays[len(delays) * p // 100] for p in (50, 99)}
        return {**quantiles, f"% of a core at {RATE:g}/s, publisher": cpu_s["publisher"] / elapsed_s * 100}
