"""What a process of an arm sees of what it is handed: how long it takes, how old it is, what was there before."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from services.domain.arms import ConsumerArm
from services.domain.messages import Coordinates, RawHeaders, time_of
from services.telemetry.metrics import Metrics

Partition = tuple[str, int]
Ends = Mapping[Partition, int | None]  # of the partitions that this process owns: their ends, None where not known yet


class Record(Protocol):
    """What is read of a record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def headers(self) -> RawHeaders: ...


class InHand:
    """Records that are being handled."""

    def __init__(self, observer: "Observer", records: Sequence[Record]) -> None:
        self._observer = observer
        self._records = records
        self._began = time.monotonic()

    def done(self, special: Iterable[Record] = ()) -> None:
        """All have their effects, or another destination. `special`: those of which each is a sample of its own."""
        self._observer.done(self._records, special, time.monotonic() - self._began)


class Observer:
    """Of one process. The figures are its own: they end with it."""

    def __init__(self, metrics: Metrics, arm: ConsumerArm) -> None:
        self._metrics = metrics
        self._arm = arm
        self._handed: dict[Partition, int] = {}  # the offset after the highest one that was handed over
        self._done: dict[Partition, tuple[int, float]] = {}  # the offset after the last one, and that one's time
        metrics.observe("delivery.counted_until_timestamp", lambda: [(metrics.counted_until(), {})])

    @contextmanager
    def in_hand(self, records: Sequence[Record]) -> Iterator[InHand]:
        """For as long as the block takes, effects may be done that are not counted yet."""
        with self.causing():
            if not self._arm.dedups:  # whose inbox knows better
                self.redelivered(self._known(records))
            yield InHand(self, records)

    @contextmanager
    def causing(self) -> Iterator[None]:
        """The same for effects that belong to no records in hand."""
        piece = self._metrics.begin()
        try:
            yield
        finally:
            self._metrics.end(piece)

    def redelivered(self, amount: int) -> None:
        """The broker handed these records to the arm again."""
        if amount:
            self._metrics.add("delivery.redeliveries", amount, arm=self._arm.name)

    def rebalanced(self) -> None:
        """The group gave this process an assignment."""
        self._metrics.add("delivery.rebalances", 1, arm=self._arm.name)

    def redriven(
        self, vias: Mapping[Coordinates, str], buried: Collection[Coordinates], later: Collection[Coordinates]
    ) -> None:
        """What became of the redriven ones among handled records; `vias`: how each came."""
        outcomes = Counter(
            "returned" if at in buried else "deferred" if at in later else "applied"
            for at, via in vias.items()
            if via == "redrive"
        )
        for outcome, amount in outcomes.items():
            self._metrics.add("delivery.redrives", amount, arm=self._arm.name, outcome=outcome)

    def done(self, records: Sequence[Record], special: Iterable[Record], took_s: float) -> None:
        """One sample of the durations for all the records, and one of the age for each of the special ones."""
        labels, now = {"arm": self._arm.name}, time.time()
        self._metrics.record("messaging.process.duration", took_s, **labels)
        for record in (records[0], *(one for one in special if one is not records[0])):
            if (made_at := time_of(record.headers)) is not None:
                self._metrics.record("delivery.end_to_end", max(0.0, now - made_at), **labels)
        for chunk in _by_partition(records):
            self._done[chunk[0].topic, chunk[0].partition] = (chunk[-1].offset + 1, chunk[-1].timestamp / 1000)

    def watch_lag(self, ends: Callable[[], Ends]) -> None:
        """Report the lag on owned partitions at every scrape; of one where nothing was handled yet nothing is known."""

        def owned() -> Iterator[tuple[int, float, dict[str, str]]]:
            for partition, end in ends().items():
                if end is not None and partition in self._done:
                    position, done_at = self._done[partition]
                    labels = {"arm": self._arm.name, "topic": partition[0], "partition": str(partition[1])}
                    yield max(0, end - position), done_at, labels

        self._metrics.observe(
            "delivery.consumer_lag.messages", lambda: [(behind, labels) for behind, _, labels in owned()]
        )
        self._metrics.observe(
            "delivery.consumer_lag",
            lambda: [(max(0.0, time.time() - at) if behind else 0.0, labels) for behind, at, labels in owned()],
        )

    def _known(self, records: Sequence[Record]) -> int:
        """How many of the records were handed to this life before."""
        known = 0
        for chunk in _by_partition(records):
            partition = (chunk[0].topic, chunk[0].partition)
            handed = self._handed.get(partition, 0)
            if chunk[0].offset < handed:
                known += sum(record.offset < handed for record in chunk)
            self._handed[partition] = max(handed, chunk[-1].offset + 1)
        return known


def _by_partition(records: Sequence[Record]) -> Iterable[Sequence[Record]]:
    """Each partition's records, in order. Those of one partition, as chunks are, are not looked at one by one."""
    first, last = records[0], records[-1]
    if len(records) == 1 or (
        (first.topic, first.partition) == (last.topic, last.partition)
        and last.offset - first.offset + 1 == len(records)
    ):
        return [records]
    found: dict[Partition, list[Record]] = {}
    for record in records:
        found.setdefault((record.topic, record.partition), []).append(record)
    return found.values()
