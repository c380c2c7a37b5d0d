"""The telemetry gap as a metric: read again and again, absent while it cannot be known."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from services.auditor.gap import GapReader, SignalGap
from services.auditor.scrapes import PrometheusAway
from services.domain.arms import ConsumerArm
from services.storage.postgres import AWAY
from services.telemetry.metrics import Metrics

EVERY_S: Final = 5.0
SHARE: Final = 0.05  # of the time is spent reading, at most: what is read grows with the lab's age


class GapWatch:
    """Of the arms of one lab."""

    def __init__(self, reader: GapReader, arms: Sequence[ConsumerArm], metrics: Metrics) -> None:
        self._reader = reader
        self._arms = arms
        self._gaps: Sequence[SignalGap] = ()
        metrics.observe("delivery.audit.telemetry_gap", self._series)

    async def run(self) -> None:
        """Read until cancelled. Without Prometheus or a database nothing is known."""
        while True:
            began = time.monotonic()
            try:
                self._gaps = await self._reader.read(self._arms)
            except (PrometheusAway, *AWAY):
                self._gaps = ()
            await asyncio.sleep(max(EVERY_S, (time.monotonic() - began) * (1 / SHARE - 1)))

    def _series(self) -> Iterator[tuple[float, Mapping[str, str]]]:
        for gap in self._gaps:
            yield gap.unexplained, {"arm": gap.arm, "signal": gap.signal}
