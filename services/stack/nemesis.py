"""The log of faults: one JSON line when a fault begins and one when it ends. The source for charts and verdicts."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from services.telemetry.logs import Log

By = Literal["cli", "failpoint", "scenario", "environment"]

_LOOK_EVERY_S: Final = 0.05


class Fault(msgspec.Struct):
    """One fault and its window, in Unix seconds; `ended` is None while it lasts.

    fault: kill, freeze, restart, arm, data. target: a process, a failpoint, a topic.
    """

    id: str
    fault: str
    target: str
    started: float
    by: By
    seed: int
    details: dict[str, Any]
    ended: float | None = None


class _End(msgspec.Struct):
    id: str
    ended: float
    details: dict[str, Any] = {}


class NemesisReader:
    """Reads a log as it grows. Lines that are cut or of another shape are skipped."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self.faults: dict[str, Fault] = {}
        self._path = path
        self._read_to = path.stat().st_size if from_end and path.exists() else 0

    def new(self) -> list[Fault]:
        """Take in what was written since the last time; returns the faults that began."""
        return [fault for line in self._lines() if (fault := self._take(line))]

    def _lines(self) -> Iterable[bytes]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._read_to)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return whole.splitlines()

    def _take(self, line: bytes) -> Fault | None:
        with contextlib.suppress(msgspec.DecodeError):
            fault = msgspec.json.decode(line, type=Fault)
            return self.faults.setdefault(fault.id, fault)
        with contextlib.suppress(msgspec.DecodeError):
            end = msgspec.json.decode(line, type=_End)
            if (begun := self.faults.get(end.id)) is not None:
                begun.ended = end.ended
                begun.details |= end.details
        return None


def read_faults(path: Path) -> list[Fault]:
    """Every fault of a log, in the order in which they began; none where there is no log."""
    reader = NemesisReader(path)
    reader.new()
    return list(reader.faults.values())


class NemesisLog:
    """Appends to `run/nemesis.jsonl`, written through at once. For the supervisor's loop."""

    def __init__(self, path: Path, seed: int, log: Log) -> None:
        self._seed = seed
        self._log = log
        self._open = [fault.id for fault in read_faults(path) if fault.ended is None]
        self._tasks: set[asyncio.Task[None]] = set()  # held, or they could be collected while they wait
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size:
            self._file.write(b"\n")  # the last line may be cut: a supervisor was killed
        self.end_all("a supervisor before this one")

    def begin(self, fault: str, target: str, by: By, *, ended: float | None = None, **details: Any) -> str:
        """A fault begins now; one without length has its end with it. Returns its id.

        Raises OSError when it cannot be written down: then it must not be carried out.
        """
        begun = Fault(uuid.uuid4().hex[:12], fault, target, time.time(), by, self._seed, details, ended)
        self._write(begun)
        self._say(begun.id, fault=fault, target=target, by=by, **details)
        if ended is None:
            self._open.append(begun.id)
        return begun.id

    def end(self, fault_id: str, *, after_s: float = 0.0, **details: Any) -> None:
        """The fault ends, or is known to end `after_s` from now. One that has ended is left as it is."""
        if fault_id not in self._open:
            return
        self._open.remove(fault_id)
        with contextlib.suppress(OSError):  # a full disk: the fault is over all the same, its window stays open
            self._write(_End(fault_id, time.time() + after_s, details))
        self._say(fault_id, fault="end", **details)

    def end_when(self, fault_id: str, over: Callable[[], bool]) -> None:
        """End the fault as soon as the condition holds."""
        task = asyncio.create_task(self._watch(fault_id, over), name=f"fault {fault_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def end_all(self, whose: str) -> None:
        """Nothing is left of the lab, so no fault lasts."""
        for fault_id in list(self._open):
            self.end(fault_id, why=f"{whose} ended")

    async def _watch(self, fault_id: str, over: Callable[[], bool]) -> None:
        while not over():  # noqa: ASYNC110  # states of a child, which nobody announces
            await asyncio.sleep(_LOOK_EVERY_S)
        self.end(fault_id)

    def _say(self, fault_id: str, **fields: Any) -> None:
        with contextlib.suppress(OSError):
            self._log.event("fault", id=fault_id, **fields)

    def _write(self, line: Fault | _End) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
