"""The running totals of a load: counted by the client, written once a second for whoever started it."""

import os
from collections import Counter
from pathlib import Path

import msgspec

from loadtest.ledger import Outcome
from loadtest.plan import Plan


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from the time that the plan named to the acknowledgement, retries included."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The totals at one moment: requests, not attempts; one that went to several publisher arms is acknowledged when
    each of them did so. In the end sent = acknowledged + refused + unknown.
    """

    run: str
    seed: int
    rate: float
    duration_s: float
    planned: int
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0  # given up without knowing
    not_sent: int = 0
    retried: int = 0  # sent more than once
    replayed: int = 0  # acknowledged from the stored answer of an earlier attempt
    in_flight: int = 0
    latency_ms: Latency = Latency()
    carried_out: bool = False  # the whole plan was gone through


def start_of(plan: Plan) -> Snapshot:
    """The totals before the first request."""
    return Snapshot(
        run=plan.run, seed=plan.seed, rate=plan.rate, duration_s=plan.duration_s, planned=plan.planned
    )  # fmt: skip


def snapshot_file(home: Path, run: str) -> Path:
    """Where the totals of a run are written."""
    return home / "runs" / run / "load.json"


def read_snapshot(file: Path) -> Snapshot | None:
    """The totals last written, or None before the first time."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None


def write_snapshot(file: Path, snapshot: Snapshot) -> None:
    """Replace the file in one step: a reader sees the old totals or the new ones."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(snapshot) + b"\n")
    os.replace(fresh, file)


class Totals:
    """Counts requests from their first call to the outcome."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts: Counter[str] = Counter()
        self._latencies_ms: Counter[float] = Counter()  # by value of two digits: bounded however long the load runs

    def sent(self) -> None:
        self._counts["sent"] += 1

    def not_sent(self) -> None:
        self._counts["not_sent"] += 1

    def ended(self, outcome: Outcome, *, replayed: bool = False, retried: bool = False) -> None:
        """A request has its outcome; no further attempt is made."""
        self._counts[outcome] += 1
        self._counts["retried"] += retried
        if outcome == "acknowledged" and replayed:
            self._counts["replayed"] += 1

    def acknowledged_after(self, latency_s: float) -> None:
        """The latency of a request that the client itself did not disturb."""
        self._latencies_ms[float(f"{latency_s * 1000:.2g}")] += 1

    def snapshot(self, *, carried_out: bool = False) -> Snapshot:
        """The totals now."""
        decided = self._counts["acknowledged"] + self._counts["refused"] + self._counts["unknown"]
        return msgspec.structs.replace(
            start_of(self._plan),
            **self._counts,
            in_flight=self._counts["sent"] - decided,
            latency_ms=Latency(*(quantile(self._latencies_ms, share) for share in (0.5, 0.95, 0.99))),
            carried_out=carried_out,
        )


def quantile(values: Counter[float], share: float) -> float:
    """The smallest value that at least this share of all lies at or below; 0 where there is none."""
    left = share * values.total()
    for value in sorted(values):
        left -= values[value]
        if left <= 0:
            return value
    return 0.0
