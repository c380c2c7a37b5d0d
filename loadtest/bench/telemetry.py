"""`lab bench telemetry`: the same services with telemetry on (the default profile) and off, at full speed and at 200/s.

On: metrics scraped as Prometheus does it, events written, the default share of messages sampled, spans sent to a store
that takes all of them. Off: LAB_TELEMETRY=0.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from loadtest.bench.answer import Answer, Measured, answer_of
from loadtest.bench.backlog import Backlog
from loadtest.bench.consume import Consumer
from loadtest.bench.http_load import send
from loadtest.bench.ingest import Orders, orders
from loadtest.bench.meter import Meter
from loadtest.bench.place import Child, service
from loadtest.bench.scraping import scraping, span_sink
from loadtest.bench.work import Tell, interleave
from services.domain.messages import ORDERS
from services.settings import Settings
from services.stack.home import Home
from services.stack.parts import PARTS

RATE: Final = 200.0
CONNECTIONS: Final = 16
ARM: Final = "effectively_once"
COUNTS: Final = {"ingest": 8_000, "consume": 50_000}  # messages at full speed a round
TURNS: Final = 4  # of a round of the ingest: a service that stays costs nothing to change to
SINK_PORT: Final = 199  # offsets within the block of ports, which ends there
OTHER_PORT: Final = 198
OTHER_ADMIN_PORT: Final = 197
SCRAPED_EVERY_S: Final = {"orders": 5.0, f"arm.{ARM}": 1.0}
SETTLES_S: Final = 2.0  # spans of the full speed are sent a moment later: they are none of the steady rate's
OFF: Final = {"LAB_TELEMETRY": "0", "LAB_TRACE_RATIO": "0"}
_SAMPLED: Final = Settings().trace_ratio


def bench(place: Home, work: str, rounds: int, count: int, seconds: float, tell: Tell) -> Answer:
    """Carry the benchmark out on the servers of `place`. Raises StackError."""
    carry_out = _ingest if work == "ingest" else _consume
    found = asyncio.run(carry_out(place, rounds, count, seconds, tell))
    return answer_of(f"telemetry, {work}", "telemetry on, the default profile", "telemetry off", found)


async def _ingest(place: Home, rounds: int, count: int, seconds: float, tell: Tell) -> list[tuple[Measured, Measured]]:
    elsewhere = {"LAB_HTTP_PORT": str(place.port(OTHER_PORT)), "LAB_ADMIN_PORT": str(place.port(OTHER_ADMIN_PORT))}
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(span_sink(place.bind, place.port(SINK_PORT)))
        on = stack.enter_context(service(place, "orders", LAB_ZIPKIN=sink))
        off = stack.enter_context(service(place, "orders", **OFF, **elsewhere))
        part = PARTS["orders"]
        many, long = count // TURNS, seconds / TURNS
        project = Service("project", place, on, (place.port(part.port), place.port(part.admin_port)), many, long)
        anchor = Service("anchor", place, off, (place.port(OTHER_PORT), place.port(OTHER_ADMIN_PORT)), many, long)
        for scraped in (project, anchor):  # all the time, as Prometheus does: a round meets its share of scrapes
            await stack.enter_async_context(scraping(scraped.metrics, SCRAPED_EVERY_S["orders"]))
        return await interleave(rounds, project, anchor, tell, turns=TURNS)


async def _consume(place: Home, rounds: int, count: int, seconds: float, tell: Tell) -> list[tuple[Measured, Measured]]:
    async with span_sink(place.bind, place.port(SINK_PORT)) as sink:
        backlog = Backlog(place, ORDERS.topic, ARM)
        project = Arm("project", place, backlog, {"LAB_ZIPKIN": sink}, count, seconds)
        anchor = Arm("anchor", place, backlog, OFF, count, seconds)
        return await interleave(rounds, project, anchor, tell)


class Service:
    """The orders service in one way; the other one stands idle beside it."""

    def __init__(
        self, name: str, place: Home, child: Child, ports: tuple[int, int], count: int, seconds: float
    ) -> None:  # fmt: skip
        self.name = name
        self._place, self._pid, self._seconds = place, child.pid, seconds
        self._port, admin_port = ports
        self._orders = Orders(name, place, self._port, child.pid, count)
        self.metrics = f"http://{place.bind}:{admin_port}/metrics"

    async def round(self) -> Measured:
        """Full speed, then the steady rate."""
        full = await self._orders.round()
        await asyncio.sleep(SETTLES_S)
        meter = Meter({"service": self._pid})
        await send(self._place.bind, self._port, orders(int(RATE * self._seconds)), CONNECTIONS, RATE)
        return _both(full, meter, "service")


class Arm:
    """The arm in one way: a process a round, because two of a group would share the partitions."""

    def __init__(
        self, name: str, place: Home, backlog: Backlog, settings: Mapping[str, str], count: int, seconds: float
    ) -> None:
        self.name = name
        self._place, self._backlog, self._settings = place, backlog, settings
        self._count, self._seconds = count, seconds
        self._metrics = f"http://{place.bind}:{place.port(PARTS[f'arm.{ARM}'].admin_port)}/metrics"

    async def round(self) -> Measured:
        """Full speed, then the steady rate."""
        part = f"arm.{ARM}"
        self._backlog.sampled = 0.0 if self._settings is OFF else _SAMPLED  # producers with telemetry off sample none
        with service(self._place, part, **self._settings) as child:
            async with scraping(self._metrics, SCRAPED_EVERY_S[part]):
                full = await Consumer(self.name, self._place, self._backlog, child, self._count).round()
                await asyncio.sleep(SETTLES_S)
                meter = Meter({"consumer": child.pid})
                await self._backlog.trickle(RATE, self._seconds)
                return _both(full, meter, "consumer")


def _both(full: Measured, meter: Meter, who: str) -> Measured:
    share = meter.cpu_s()[who] / meter.elapsed_s * 100
    cpu = {unit: value for unit, value in full.values.items() if unit.startswith("CPU") and unit.endswith(who)}
    return Measured({**cpu, f"% of a core at {RATE:g}/s, {who}": share})
