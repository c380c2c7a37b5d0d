"""What a run looked like over time, read afterwards from the stores that have the times: nothing is sampled."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException

from loadtest.kept import Played
from loadtest.ledger import ledger_file, read
from loadtest.totals import quantile
from services.broker.reader import bounds, records_between
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, ConsumerArm
from services.domain.forwarding import LAST_FAILURE
from services.domain.messages import KINDS, RUN_HEADER
from services.settings import Settings
from services.storage.postgres import connect

MOST_BUCKETS: Final = 240
MOST_MESSAGES: Final = 500_000  # of a longer run there is no picture: it would not fit into memory

_INTENTS = "SELECT message_id::text AS id, extract(epoch FROM created_at)::float8 AS at FROM intents WHERE run = $1"
_RECORDS = """
SELECT message_id::text AS id, extract(epoch FROM at)::float8 AS at FROM {schema}.records
 WHERE run = $1 AND status = 'applied' ORDER BY seq
"""
_CALLS = """
SELECT message_id AS id, extract(epoch FROM at)::float8 AS at FROM applications
 WHERE account = $1 AND effect = 'charge' AND at >= to_timestamp($2) ORDER BY seq
"""


class Series(msgspec.Struct):
    """One line of a chart: a value for each bucket of time."""

    name: str
    values: list[float]

    @property
    def empty(self) -> bool:
        return not any(self.values)


class Chart(msgspec.Struct):
    """Lines over the same time."""

    title: str
    unit: str
    series: list[Series]


class Latencies(msgspec.Struct, frozen=True):
    """From the client's call to the end, milliseconds."""

    name: str
    count: int
    p50: float
    p95: float
    p99: float


class Timeline(msgspec.Struct):
    """The pictures of a run. `begin` in Unix seconds."""

    begin: float
    bucket_s: float
    charts: list[Chart]
    latencies: list[Latencies]
    left_out: str = ""  # why there is no picture


Event = tuple[str, float]  # a message or a key, and when


class _Clock:
    """Buckets of time."""

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.bucket_s = max(1.0, (end - begin) / MOST_BUCKETS)
        self.many = int((end - begin) / self.bucket_s) + 1

    def count(self, times: Iterable[float]) -> list[int]:
        """How many fall into each bucket; what lies outside falls into the first or the last."""
        found = Counter(min(max(int((at - self.begin) / self.bucket_s), 0), self.many - 1) for at in times)
        return [found[number] for number in range(self.many)]

    def rate(self, times: Iterable[float]) -> list[float]:
        return [count / self.bucket_s for count in self.count(times)]

    def total(self, times: Iterable[float]) -> list[float]:
        """How many there were up to the end of each bucket."""
        found, total = [], 0
        for count in self.count(times):
            total += count
            found.append(float(total))
        return found


def draw(
    begin: float, end: float, calls: Sequence[Event], accepted: Mapping[str, float],
    applied: Mapping[str, Sequence[Event]], retried: Mapping[str, Sequence[float]],
) -> list[Chart]:  # fmt: skip
    """The charts, from events. `accepted`: when each message was; `applied`, `retried`: by arm. Pure."""
    clock = _Clock(begin, end)
    came = clock.total(accepted.values())
    behind, doubled, lost = [], [], []
    for arm, events in applied.items():
        firsts, again = _firsts(events)
        done = clock.total(firsts.values())
        behind.append(Series(arm, [max(0.0, a - b) for a, b in zip(came, done, strict=True)]))
        doubled.append(Series(arm, clock.total(again)))
        lost.append(Series(arm, clock.total(at for id_, at in accepted.items() if id_ not in firsts)))
    return [
        Chart("Requests sent", "a second", [Series("requests", clock.rate(at for _, at in calls))]),
        Chart("Accepted and not yet applied", "messages", behind),
        Chart("Applied again, so far", "applications", doubled),
        Chart("Never applied, by when it was accepted, so far", "messages", lost),
        Chart("Retries", "a second", [Series(arm, clock.rate(times)) for arm, times in retried.items()]),
    ]


def _firsts(events: Iterable[Event]) -> tuple[dict[str, float], list[float]]:
    """When each message was applied first, and when any was applied again."""
    firsts: dict[str, float] = {}
    again = []
    for id_, at in events:
        if id_ in firsts:
            again.append(at)
        else:
            firsts[id_] = at
    return firsts, again


def latencies(name: str, values_s: Iterable[float]) -> Latencies:
    """Percentiles of times in seconds."""
    found = Counter(float(f"{value * 1000:.3g}") for value in values_s)
    return Latencies(name, found.total(), *(quantile(found, share) for share in (0.5, 0.95, 0.99)))


async def timeline(home: Path, settings: Settings, played: Played) -> Timeline:
    """Read and draw. Raises what the stores' clients raise."""
    begin, end = played.began, played.ended
    if played.load.sent > MOST_MESSAGES:
        return Timeline(begin, 1.0, [], [], f"no pictures of runs with more than {MOST_MESSAGES:,} requests")
    calls, answered = await asyncio.to_thread(_client, home, played.run)
    accepted = {id_: at async for id_, at in _accepted(settings, played.run)}
    arms = [CONSUMER_ARMS[name] for name in dict.fromkeys(r.arm for r in played.rows if r.hop == "process")
            if name in CONSUMER_ARMS]  # fmt: skip
    applied = await _applied(settings, played, arms, accepted)
    retried = {arm.name: await asyncio.to_thread(_retried, settings, arm, played.run) for arm in arms if arm.retries}
    ends = [
        latencies(f"accepted to applied, {arm}", _taken(accepted, events)) for arm, events in applied.items() if events
    ]
    charts = draw(begin, end, calls, accepted, applied, retried)
    return Timeline(begin, _Clock(begin, end).bucket_s, charts, [latencies("call to answer", answered), *ends])


def _client(home: Path, run: str) -> tuple[list[Event], list[float]]:
    """Each key's first call, and how long acknowledged attempts took."""
    firsts: dict[str, float] = {}
    began: dict[tuple[str, str, int | None], float] = {}
    took = []
    for line in read(ledger_file(home, run)):
        place = (line.key, line.arm, line.attempt)
        if line.phase == "call":
            began[place] = line.at
            firsts.setdefault(line.key, line.at)
        elif line.outcome == "acknowledged" and place in began:
            took.append(line.at - began[place])
    return list(firsts.items()), took


async def _accepted(settings: Settings, run: str) -> Any:
    for kind in KINDS:
        connection = await connect(settings.postgres, PUBLISHER_ARMS[DEFAULT_PUBLISHER].database(kind), name="report")
        try:
            for row in await connection.fetch(_INTENTS, run):
                yield row["id"], row["at"]
        finally:
            await connection.close(timeout=1)


async def _applied(
    settings: Settings, played: Played, arms: Iterable[ConsumerArm], accepted: Mapping[str, float]
) -> dict[str, list[Event]]:
    """When each arm made its effect `record`; of an arm without tables of its own, its charges."""
    found: dict[str, list[Event]] = {}
    payments = await connect(settings.postgres, "payments", name="report")
    provider = await connect(settings.ledger, "provider", name="report")
    try:
        for arm in arms:
            rows = await payments.fetch(_RECORDS.format(schema=arm.schema), played.run)
            found[arm.name] = [(row["id"], row["at"]) for row in rows]
        for name in dict.fromkeys(r.arm for r in played.rows if r.hop == "process" and r.arm not in CONSUMER_ARMS):
            rows = await provider.fetch(_CALLS, name, played.began)
            found[name] = [(row["id"], row["at"]) for row in rows if row["id"] in accepted]
    finally:
        await payments.close(timeout=1)
        await provider.close(timeout=1)
    return found


def _retried(settings: Settings, arm: ConsumerArm, run: str) -> list[float]:
    """When each record of the arm's retry tiers failed."""
    try:
        limits = bounds(settings.kafka, arm.retry_topics)
        return list(_failures(records_between(settings.kafka, limits.firsts, limits.ends), run))
    except KafkaException:
        return []


def _failures(records: Iterable[Any], run: str) -> Iterator[float]:
    for record in records:
        headers = dict(record.headers)
        if headers.get(RUN_HEADER, b"").decode(errors="replace") == run and LAST_FAILURE in headers:
            yield int(headers[LAST_FAILURE]) / 1000


def _taken(accepted: Mapping[str, float], events: Iterable[Event]) -> Iterator[float]:
    firsts, _ = _firsts(events)
    return (max(0.0, at - accepted[id_]) for id_, at in firsts.items() if id_ in accepted)
