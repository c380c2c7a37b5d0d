"""Logs: one JSON line an event, written through at once, so that a SIGKILL does not cost what happened before it.

No event can flood the file or end the service: each has a rate bound of its own, a full disk is borne, and what was
dropped is counted and said.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from services.telemetry.budget import Budget
from services.telemetry.catalogue import EVENTS

LINES_PER_S: Final = 1_000.0  # of one event on the average, and five seconds' worth at once
BURST: Final = 5_000
SAID_EVERY_S: Final = 1.0
DROPPED: Final = "log.dropped"
LAST: Final = "process.stopping"


class Log:
    """Writes events of the catalogue to a file descriptor opened with O_APPEND (several writers do not mix lines)."""

    def __init__(self, process: str, life: str, path: str = "") -> None:
        self._fd = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o640) if path else sys.stderr.fileno()
        self._fixed = {"service.name": process, "life": life}
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._budgets: dict[str, Budget] = {}
        self._dropped: Counter[str] = Counter()  # since it was said last
        self._said_at = 0.0
        self._clock = _Clock()
        self.on_drop: Callable[[int], None] = lambda _: None

    def event(self, name: str, /, level: str = "info", **fields: Any) -> None:
        """Write one event, unless there were too many of it. Raises KeyError when the catalogue does not know it."""
        budget = self._budgets.get(name)
        if budget is None:
            budget = self._budgets[EVENTS[name].name] = Budget(LINES_PER_S, BURST)
        if not budget.grant():
            self._drop(name)
            return
        if self._dropped and (name == LAST or time.monotonic() - self._said_at > SAID_EVERY_S):
            self._say_dropped()
        self._write(name, level, fields)

    def _write(self, name: str, level: str, fields: dict[str, Any]) -> None:
        line = {"time": self._clock.now(), "level": level, "event": name, **self._fixed, **fields}
        try:
            os.write(self._fd, self._encoder.encode(line) + b"\n")
        except OSError:  # the disk is full, mostly: the service goes on, and says later what it could not say
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._dropped[name] += 1
        self.on_drop(1)

    def _say_dropped(self) -> None:
        dropped, self._dropped = self._dropped, Counter()
        self._said_at = time.monotonic()
        self._write(DROPPED, "warning", {"count": dropped.total(), "events": dict(dropped)})

    def capture_logging(self, level: int = logging.WARNING) -> None:
        """Send the standard library's logging (of Faust, aiokafka, uvicorn) here, from `level` on."""
        logging.basicConfig(level=level, handlers=[_Handler(self)], force=True)


class _Clock:
    """Says the time, in UTC, as RFC 3339 has it. To make a datetime for each line is dear."""

    def __init__(self) -> None:
        self._at = (-1, "")  # a second and how it is written; one value, because threads share it

    def now(self) -> str:
        now, micros = divmod(time.time_ns() // 1_000, 1_000_000)
        second, text = self._at
        if now != second:
            text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._at = now, text
        return f"{text}.{micros:06}+00:00"


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        fields = {"logger": record.name, "message": text[:2000]}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)[-4000:]
        self._log.event("log.message", level=record.levelname.lower(), **fields)
