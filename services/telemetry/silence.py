"""Telemetry that is off: what `lab bench telemetry` compares the default with."""

from typing import Any

from services.telemetry.logs import Log
from services.telemetry.metrics import Look, Metrics


class SilentMetrics(Metrics):
    """Counts nothing. A scrape finds the series that every process begins with, at 0."""

    def add(self, name: str, amount: float, **labels: str) -> None: ...
    def set(self, name: str, value: float, **labels: str) -> None: ...
    def record(self, name: str, value_s: float, **labels: str) -> None: ...
    def observe(self, name: str, look: Look) -> None: ...


class SilentLog(Log):
    """Writes warnings and errors only."""

    def event(self, name: str, /, level: str = "info", **fields: Any) -> None:
        """Write one event, unless all went well."""
        if level != "info":
            super().event(name, level, **fields)
