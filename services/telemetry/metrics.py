"""Metrics: instruments made from the catalogue, read by a Prometheus scrape."""

from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import REGISTRY, generate_latest

from services.telemetry.catalogue import METRICS


class Metrics:
    """All instruments of one process; `add` and `set` know the catalogue's names only."""

    def __init__(self, process: str, life: str) -> None:
        reader = PrometheusMetricReader(scope_info_enabled=False)
        resource = Resource.create({"service.name": process, "service.instance.id": life})
        self._provider = MeterProvider(metric_readers=[reader], resource=resource)
        self._meter = self._provider.get_meter("delivery-lab")
        self._instruments: dict[str, Any] = {}

    def add(self, name: str, amount: int, **labels: str) -> None:
        """Add to a counter. Raises KeyError for a name that the catalogue lacks."""
        self._instrument(name).add(amount, labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Raises KeyError for a name that the catalogue lacks."""
        self._instrument(name).set(value, labels)

    def exposition(self) -> bytes:
        """What a scrape is answered, in Prometheus's text format."""
        return generate_latest(REGISTRY)

    def _instrument(self, name: str) -> Any:
        if name not in self._instruments:
            metric = METRICS[name]
            make = self._meter.create_counter if metric.kind == "counter" else self._meter.create_gauge
            self._instruments[name] = make(name, unit=metric.unit, description=metric.description)
        return self._instruments[name]
