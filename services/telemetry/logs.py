"""Logs: one JSON line an event, written through at once, so that a SIGKILL does not cost what happened before it."""

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.catalogue import EVENTS


class Log:
    """Writes events of the catalogue to a file descriptor opened with O_APPEND (several writers do not mix lines)."""

    def __init__(self, process: str, life: str, path: str = "") -> None:
        self._fd = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o640) if path else sys.stderr.fileno()
        self._fixed = {"service.name": process, "life": life}
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def event(self, name: str, /, level: str = "info", **fields: Any) -> None:
        """Write one event. Raises KeyError when the catalogue does not know it."""
        line = {"time": datetime.now(UTC).isoformat(), "level": level, "event": EVENTS[name].name, **self._fixed}
        os.write(self._fd, self._encoder.encode({**line, **fields}) + b"\n")

    def capture_logging(self, level: int = logging.WARNING) -> None:
        """Send the standard library's logging (of Faust, aiokafka, uvicorn) here, from `level` on."""
        logging.basicConfig(level=level, handlers=[_Handler(self)], force=True)


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
