"""What the last looks found, as a scrape is answered. What is old or failed is absent: a gauge never lies."""

import time
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from services.probe.databases import Pending
from services.probe.lag import Lag, Place
from services.telemetry.metrics import Metrics

STALE_S: Final = 5.0
Series = Iterator[tuple[float, Mapping[str, str]]]


class BrokerSaid(msgspec.Struct, frozen=True):
    """One look at the broker."""

    ends: Mapping[tuple[str, str, str], int]  # (place, arm, topic) -> summed end offsets
    committed: Mapping[tuple[str, str], int]  # (arm, topic) -> summed committed offsets
    lags: Mapping[str, list[Lag]]  # by arm
    times: Mapping[Place, float]


class PostgresSaid(msgspec.Struct, frozen=True):
    """One look at Postgres; what did not answer is missing."""

    outboxes: Mapping[tuple[str, str], Pending]  # (publisher arm, database)
    letters: Mapping[str, Pending]  # by consumer arm
    slot_bytes: Mapping[str, int]


class Board:
    """Holds the last look at each store; `None` for one that failed."""

    def __init__(self, metrics: Metrics) -> None:
        self._broker: tuple[float, BrokerSaid | None] = (0.0, None)
        self._postgres: tuple[float, PostgresSaid | None] = (0.0, None)
        self._succeeded: dict[str, float] = {}
        for name, look in (
            ("delivery.topic.end_offsets", self._end_offsets),
            ("delivery.group.committed_offsets", self._committed),
            ("delivery.group_lag.messages", self._lag_messages),
            ("delivery.group_lag", self._lag_seconds),
            ("delivery.outbox.pending", self._pending),
            ("delivery.outbox.oldest_age", self._oldest),
            ("delivery.dead_letters.depth", self._letters),
            ("delivery.dead_letters.oldest_age", self._oldest_letter),
            ("delivery.slot_lag", self._slots),
            ("delivery.probe.last_success_timestamp", self._last_success),
        ):
            metrics.observe(name, look)

    @property
    def waits_for(self) -> str:
        """The store that has not answered yet; empty once both have."""
        return next((store for store in ("kafka", "postgres") if store not in self._succeeded), "")

    def broker_said(self, said: BrokerSaid | None) -> bool:
        """The result of a look at the broker, `None` when it failed. Returns whether that is news."""
        news = (said is None) != (self._broker[1] is None)
        self._broker = (time.monotonic(), said)
        if said is not None:
            self._succeeded["kafka"] = time.time()
        return news

    def postgres_said(self, said: PostgresSaid, *, whole: bool) -> None:
        """The result of a look at Postgres; `whole`: every database answered."""
        self._postgres = (time.monotonic(), said)
        if whole:
            self._succeeded["postgres"] = time.time()

    def _of_broker(self) -> BrokerSaid | None:
        at, said = self._broker
        return said if time.monotonic() - at < STALE_S else None

    def _of_postgres(self) -> PostgresSaid | None:
        at, said = self._postgres
        return said if time.monotonic() - at < STALE_S else None

    def _end_offsets(self) -> Series:
        if said := self._of_broker():
            for (place, arm, topic), end in said.ends.items():
                yield end, {"place": place, "arm": arm, "topic": topic}

    def _committed(self) -> Series:
        if said := self._of_broker():
            for (arm, topic), offset in said.committed.items():
                yield offset, {"arm": arm, "topic": topic}

    def _lag_messages(self) -> Series:
        if said := self._of_broker():
            for arm, lags in said.lags.items():
                for lag in lags:
                    yield lag.messages, {"arm": arm, "topic": lag.topic, "partition": str(lag.partition)}

    def _lag_seconds(self) -> Series:
        """Grows between two looks, too."""
        if said := self._of_broker():
            now = time.time()
            for arm, lags in said.lags.items():
                for lag in lags:
                    labels = {"arm": arm, "topic": lag.topic, "partition": str(lag.partition)}
                    if lag.messages == 0:
                        yield 0.0, labels
                    elif (at := said.times.get(lag.place)) is not None:
                        yield max(0.0, now - at), labels

    def _pending(self) -> Series:
        if said := self._of_postgres():
            for (arm, source), pending in said.outboxes.items():
                yield pending.rows, {"arm": arm, "source": source}

    def _oldest(self) -> Series:
        if said := self._of_postgres():
            for (arm, source), pending in said.outboxes.items():
                yield pending.oldest_s, {"arm": arm, "source": source}

    def _letters(self) -> Series:
        if said := self._of_postgres():
            for arm, letters in said.letters.items():
                yield letters.rows, {"arm": arm}

    def _oldest_letter(self) -> Series:
        if said := self._of_postgres():
            for arm, letters in said.letters.items():
                yield letters.oldest_s, {"arm": arm}

    def _slots(self) -> Series:
        if said := self._of_postgres():
            for arm, held in said.slot_bytes.items():
                yield held, {"arm": arm}

    def _last_success(self) -> Series:
        for store, at in self._succeeded.items():
            yield at, {"store": store}
