"""Observed against audited: for every arm and signal, what its lives counted and what they left in the stores."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from services.auditor.scrapes import LastScrape, Scrapes
from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.domain.observed import EXPLAINS_S, WINDOW_S, Gap, Rows, gap_of, total
from services.storage.postgres import connect, statements
from services.telemetry.catalogue import gap_signals

_LIVES: Final = statements(Path(__file__).with_name("gap.sql"))["lives"]
# The rows of each signal; {schema} and {arm} are the arm's.
_APPLICATIONS: Final = "SELECT life, at FROM applications WHERE account = '{arm}' AND effect = '{effect}'"
_SOURCES: Final = {
    "record": "SELECT life::text, at FROM {schema}.records WHERE status = 'applied'",
    "charge": _APPLICATIONS.replace("{effect}", "charge"),
    "email": _APPLICATIONS.replace("{effect}", "email"),
    "dedup": "SELECT life::text, at FROM {schema}.dedup_hits",
    "dead_letters": "SELECT life::text, at FROM {schema}.dead_letters UNION ALL "
    "SELECT life::text, at FROM {schema}.letter_log WHERE action = 'returned' AND life IS NOT NULL",
}
_OUTSIDE: Final = ("charge", "email")  # what the provider's store tells
_AGAIN: Final = ("duplicate", "resumed", "conflict")


class LifeGap(msgspec.Struct, frozen=True):
    """One life and signal."""

    life: str
    process: str  # empty: never scraped
    signal: str
    rows: int
    counted: int
    after_scrape: int
    unanswered: int
    unexplained: int


class SignalGap(msgspec.Struct, frozen=True):
    """One arm and signal, over all its lives; those with a gap are listed."""

    arm: str
    signal: str
    rows: int
    counted: int
    after_scrape: int
    unanswered: int
    unexplained: int
    lives: list[LifeGap]


class GapReader(msgspec.Struct, frozen=True):
    """Where the numbers come from: both servers, and Prometheus's address."""

    postgres: str
    ledger: str
    prometheus: str

    async def read(
        self,
        arms: Sequence[ConsumerArm] = tuple(CONSUMER_ARMS.values()),
        window_s: float = WINDOW_S,
        explains_s: float = EXPLAINS_S,
    ) -> list[SignalGap]:
        """Read the scrapes first, then the stores: rows that come meanwhile are later than the scrape.

        Lives that left nothing within the window are left out. `explains_s`: how long after its last scrape a life can
        have gone on. Raises PrometheusAway, and what storage.postgres.AWAY names.
        """
        now = time.time()
        scrapes = await Scrapes(self.prometheus).last("(arm|retry)[.].*", window_s, now)
        bounds = (explains_s, now - window_s)
        payments = await connect(self.postgres, "payments", name="telemetry gap")
        try:
            provider = await connect(self.ledger, "provider", name="telemetry gap")
            try:
                return [
                    await _signal(
                        arm, signal, _of_arm(arm, scrapes), bounds, provider if signal in _OUTSIDE else payments
                    )
                    for arm in arms
                    for signal in gap_signals(arm)
                ]
            finally:
                await provider.close()
        finally:
            await payments.close()


async def settled(
    reader: GapReader,
    arms: Sequence[ConsumerArm],
    timeout_s: float,
    window_s: float = WINDOW_S,
    explains_s: float = EXPLAINS_S,
) -> list[SignalGap]:
    """Read until nothing is unexplained, or the time is over: one more scrape may be missing. Raises like `read`."""
    deadline = time.monotonic() + timeout_s
    while True:
        gaps = await reader.read(arms, window_s, explains_s)
        if not any(gap.unexplained for gap in gaps) or time.monotonic() > deadline:
            return gaps
        await asyncio.sleep(1.0)


def _of_arm(arm: ConsumerArm, scrapes: Sequence[LastScrape]) -> dict[str, LastScrape]:
    parts = (f"arm.{arm.name}", f"retry.{arm.name}")
    return {one.life: one for one in scrapes if one.process.partition("#")[0] in parts}


async def _signal(
    arm: ConsumerArm, signal: str, scrapes: Mapping[str, LastScrape], bounds: tuple[float, float], store: Any
) -> SignalGap:
    lives = list(scrapes)
    last = [scrapes[life].scrape for life in lives]
    explains_s, since = bounds
    times = [[one.counted_until for one in last], [one.answered for one in last], [one.at + explains_s for one in last]]
    source = _SOURCES[signal].format(schema=arm.schema, arm=arm.name)
    found = await store.fetch(_LIVES.replace("{source}", source), lives, *times, explains_s, since)
    rows = {row["life"]: Rows(row["rows"], row["certain"], row["possible"], row["late"]) for row in found}
    gaps = [_life(arm, signal, life, rows.get(life, Rows(0, 0, 0)), scrapes.get(life)) for life in {*rows, *scrapes}]
    sum_ = total(Gap(one.rows, one.counted, one.after_scrape, one.unanswered, one.unexplained) for one in gaps)
    open_ = sorted((one for one in gaps if one.rows != one.counted), key=lambda one: (one.process, one.life))
    return SignalGap(arm.name, signal, **msgspec.structs.asdict(sum_), lives=open_)


def _life(arm: ConsumerArm, signal: str, life: str, rows: Rows, last: LastScrape | None) -> LifeGap:
    counted, uncertain = (_COUNTED[signal](last, arm), _uncertain(last, arm, signal)) if last is not None else (0, 0)
    gap = gap_of(rows, counted, uncertain)
    process = last.process if last is not None else ""
    return LifeGap(life, process, signal, **msgspec.structs.asdict(gap))


def _effect(effect: str) -> Callable[[LastScrape, ConsumerArm], int]:
    return lambda last, arm: last.counted("delivery.effects", arm=arm.name, effect=effect, outcome="applied")


def _dedup(last: LastScrape, arm: ConsumerArm) -> int:
    named = {"hop": "process", "arm": arm.name}
    return sum(last.counted("delivery.dedup.decisions", **named, decision=decision) for decision in _AGAIN)


def _letters(last: LastScrape, arm: ConsumerArm) -> int:
    return last.counted("delivery.dead_letters", arm=arm.name)


_COUNTED: Final[Mapping[str, Callable[[LastScrape, ConsumerArm], int]]] = {
    "record": _effect("record"),
    "charge": _effect("charge"),
    "email": _effect("email"),
    "dedup": _dedup,
    "dead_letters": _letters,
}


def _uncertain(last: LastScrape, arm: ConsumerArm, signal: str) -> int:
    """What may be there without having been counted: a statement without an answer is made again, and says then that
    the ids are known, the letters parked."""
    effect = signal if signal in ("charge", "email") else "record"
    return last.counted("delivery.effects", arm=arm.name, effect=effect, outcome="uncertain")
