"""Pages received: what Alertmanager sent, kept as JSON lines, and which fault each came after."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from services.stack.nemesis import Fault

KEPT: Final = 1_000
AFTER_S: Final = 120.0  # an alert that began within so long of a fault's begin is taken to come of it


class Alert(msgspec.Struct, frozen=True, rename="camel"):
    """One alert of a notification, as Alertmanager's webhook sends it."""

    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    starts_at: datetime
    ends_at: datetime
    fingerprint: str = ""


class Notification(msgspec.Struct, frozen=True):
    alerts: list[Alert]


class Page(msgspec.Struct, frozen=True):
    """One alert that was received, firing or resolved."""

    received: float  # Unix seconds
    name: str
    status: str
    severity: str
    labels: dict[str, str]
    summary: str
    runbook: str
    started: float
    delay_s: float  # from the begin of the alert to its receipt


class Received:
    """The last pages, oldest first. Each is written down before it is acknowledged."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.pages: deque[Page] = deque(_read(file), maxlen=KEPT)
        self._lines = len(self.pages)

    def take(self, body: bytes) -> int:
        """Keep the alerts of a notification; returns how many they are.

        Raises msgspec.DecodeError for a body that is none, OSError when they cannot be written down.
        """
        notification = msgspec.json.decode(body, type=Notification)
        pages = [_page(alert, time.time()) for alert in notification.alerts]
        with self._file.open("ab") as stream:
            stream.write(b"".join(msgspec.json.encode(page) + b"\n" for page in pages))
        self.pages.extend(pages)
        self._lines += len(pages)
        if self._lines > 2 * KEPT:
            self._shorten()
        return len(pages)

    def _shorten(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_bytes(b"".join(msgspec.json.encode(page) + b"\n" for page in self.pages))
        part.replace(self._file)
        self._lines = len(self.pages)


def cause(page: Page, faults: Iterable[Fault]) -> Fault | None:
    """The fault that an alert most likely comes of: the last that began before it did, and not long before."""
    near = [fault for fault in faults if 0 <= page.started - fault.started <= AFTER_S and fault.fault != "arm"]
    return max(near, key=lambda fault: fault.started, default=None)


def newest_first(pages: Iterable[Page], faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """The pages as the console shows them, each with its fault."""
    return [_shown(page, cause(page, faults)) for page in sorted(pages, key=lambda page: -page.received)]


def _shown(page: Page, fault: Fault | None) -> dict[str, Any]:
    came_of = None
    if fault is not None and page.status == "firing":
        came_of = {"fault": fault.fault, "target": fault.target, "after_s": round(page.received - fault.started, 1)}
    return {**msgspec.to_builtins(page), "cause": came_of}


def _page(alert: Alert, now: float) -> Page:
    kept = {key: value for key, value in alert.labels.items() if key not in ("alertname", "severity")}
    return Page(
        received=now,
        name=alert.labels.get("alertname", "?"),
        status=alert.status,
        severity=alert.labels.get("severity", ""),
        labels=kept,
        summary=alert.annotations.get("summary", ""),
        runbook=alert.annotations.get("runbook_url", ""),
        started=alert.starts_at.timestamp(),
        delay_s=round(now - alert.starts_at.timestamp(), 3),
    )


def _read(file: Path) -> list[Page]:
    if not file.exists():
        return []
    found = []
    for line in file.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Page))
        except msgspec.DecodeError:  # cut by a kill
            continue
    return found[-KEPT:]
