"""How much CPU time the processes of a round took."""

import contextlib
import time
from collections.abc import Mapping
from typing import Final

import psutil

from loadtest.bench.answer import Measured

_CPUCLOCK_SCHED: Final = 2  # of Linux's clock ids of processes


class Meter:
    """Runs from its making on. CPU times are whole processes' (all threads); Postgres's are its whole tree's."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._cpu_s = self._read()
        self._began = time.monotonic()
        self._ended: float | None = None

    def done(self) -> None:
        """The work is done: what follows is not counted as time, only as CPU."""
        self._ended = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return (self._ended or time.monotonic()) - self._began

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since the start, by name."""
        now = self._read()
        return {name: now[name] - before for name, before in self._cpu_s.items()}

    def measured(self, messages: int, noun: str) -> Measured:
        """The rate, and the CPU time a message of each process."""
        cpu = {f"CPU us per {noun}, {name}": s / messages * 1e6 for name, s in self.cpu_s().items()}
        return Measured({f"{noun}s per second": messages / self.elapsed_s, **cpu})

    def _read(self) -> dict[str, float]:
        return {name: _cpu_s(process) for name, process in self._processes.items()}


def _cpu_s(process: psutil.Process) -> float:
    """Of the process, of its children that have ended, and of those that live."""
    times = process.cpu_times()
    total = _clock_s(process.pid) + times.children_user + times.children_system
    for child in process.children():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += _clock_s(child.pid)
    return float(total)


def _clock_s(pid: int) -> float:
    """A process's own CPU clock, clock_getcpuclockid(3): /proc counts in ticks of 10 ms. Raises OSError: none such."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
