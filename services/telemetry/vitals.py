"""What every process says of itself: which life it is, its memory, processor time, open files, its event loop's lag."""

import asyncio
import os
import resource
import time
from collections.abc import Iterator, Mapping
from typing import Final

from services.telemetry.metrics import Metrics

LOOP_EVERY_S: Final = 0.25
_PAGE: Final = resource.getpagesize()


def observe_vitals(metrics: Metrics, life: str) -> None:
    """Report the process itself at every scrape."""

    def alone(value: float) -> Iterator[tuple[float, Mapping[str, str]]]:
        yield value, {}

    metrics.set("delivery.process_info", 1, life=life)
    metrics.observe("process.memory.usage", lambda: alone(_resident_bytes()))
    metrics.observe("process.cpu.time", lambda: alone(time.process_time()))
    metrics.observe("process.open_file_descriptors", lambda: alone(_open_files()))


async def watch_loop(metrics: Metrics) -> None:
    """Sample how late the running loop wakes up, until cancelled."""
    while True:
        due = time.monotonic() + LOOP_EVERY_S
        await asyncio.sleep(LOOP_EVERY_S)
        metrics.record("delivery.loop_lag", max(0.0, time.monotonic() - due))


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * _PAGE


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
