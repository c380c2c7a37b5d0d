"""Metrics: instruments made from the catalogue, read by a Prometheus scrape."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from services.telemetry.catalogue import BOUNDS_S, METRICS, Metric

KEPT_SAMPLES: Final = 1_000  # of a histogram, until a scrape asks for them

Look = Callable[[], Iterable[tuple[float, Mapping[str, str]]]]  # value and labels of each series


class Metrics:
    """All instruments of one process; they know the catalogue's names and labels only.

    A counter of the catalogue is there at 0 from the start, with every series that the process's part can have: an
    `increase()` does not see a series that begins at 1.
    """

    def __init__(self, process: str, life: str) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        resource = Resource.create({"service.name": process, "service.instance.id": life})
        # Spans are made after the fact, so none is current when a sample is taken: looking for one costs for nothing.
        exemplars = AlwaysOffExemplarFilter()
        self._provider = MeterProvider(metric_readers=[reader], resource=resource, exemplar_filter=exemplars)
        self._meter = self._provider.get_meter("delivery-lab")
        self._instruments: dict[str, Any] = {}
        self._histograms: list[_Histogram] = []
        self._totals: dict[tuple[Any, ...], _Total] = {}  # of counters' series, by name and labels in the order given
        self._labels: set[tuple[str, ...]] = set()  # name and label names that were found in order
        self._in_hand: dict[int, float] = {}  # when each piece of work in hand began, in the order of their beginnings
        self._pieces = 0
        self._part = process.partition("#")[0]
        self._declare()

    def emits(self, name: str) -> bool:
        """Whether this process's part is one that emits the metric."""
        return self._part in METRICS[name].owners

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Add to a counter. Raises KeyError for a name or labels that the catalogue lacks."""
        series = (name, *labels.items())
        if (total := self._totals.get(series)) is None:
            total = self._totals[series] = self._instrument(name, labels).total(labels)
        total.add(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Raises KeyError for a name or labels that the catalogue lacks."""
        self._instrument(name, labels).set(value, labels)

    def record(self, name: str, value_s: float, **labels: str) -> None:
        """Record a sample of a histogram. Raises KeyError for a name or labels that the catalogue lacks."""
        self._instrument(name, labels).record(value_s, labels)

    def observe(self, name: str, look: Look) -> None:
        """Ask `look` at each scrape. Of a gauge, a series that it does not give is absent; a counter must only rise.

        Raises KeyError for a name that the catalogue lacks, ValueError when it is made already.
        """
        metric = METRICS[name]
        if name in self._instruments:
            raise ValueError(f"{name} is made already")

        def callback(_: CallbackOptions) -> list[Observation]:
            return [Observation(value, labels) for value, labels in look()]

        make = (
            self._meter.create_observable_counter if metric.kind == "counter" else self._meter.create_observable_gauge
        )
        self._instruments[name] = make(name, [callback], metric.unit, metric.description)

    def begin(self) -> int:
        """Some work that causes effects begins; they are counted by the time of its `end`, which takes the answer."""
        self._pieces += 1
        self._in_hand[self._pieces] = time.time()
        return self._pieces

    def end(self, piece: int) -> None:
        """What the work caused is counted."""
        del self._in_hand[piece]

    def counted_until(self) -> float:
        """Unix time: all effects of before it are in the counters."""
        return next(iter(self._in_hand.values()), time.time())

    def exposition(self) -> bytes:
        """What a scrape is answered, in Prometheus's text format."""
        for histogram in self._histograms:
            histogram.count()
        return generate_latest(self._registry)

    def _declare(self) -> None:
        for metric in METRICS.values():
            if metric.kind == "counter" and metric.emitted and not metric.observed:
                for emitter in metric.emitters:
                    for labels in emitter.series() if emitter.part == self._part else ():
                        self.add(metric.name, 0, **labels)

    def _instrument(self, name: str, labels: Mapping[str, str]) -> Any:
        if (name, *labels) not in self._labels:
            metric = METRICS[name]
            if set(labels) != set(metric.labels):
                raise KeyError(f"{name} has the labels {metric.labels}, not {tuple(labels)}")
            self._labels.add((name, *labels))
        if name not in self._instruments:
            self._instruments[name] = self._make(METRICS[name])
        return self._instruments[name]

    def _make(self, metric: Metric) -> Any:
        if metric.kind == "histogram":
            histogram = _Histogram(
                self._meter.create_histogram(
                    metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=BOUNDS_S
                )
            )
            self._histograms.append(histogram)
            return histogram
        if metric.kind == "gauge":
            return self._meter.create_gauge(metric.name, metric.unit, metric.description)
        counter = _Counter()
        self._meter.create_observable_counter(metric.name, [counter.look], metric.unit, metric.description)
        return counter


class _Histogram:
    """The samples of a histogram, handed to the SDK's when a scrape asks, many at once.

    The SDK takes long for one. One by one between other work, with cold caches, they were the dearest part of the
    telemetry of a slow arm (`lab bench telemetry --of consume`).
    """

    def __init__(self, counted: Any) -> None:
        self._counted = counted
        self._kept: deque[tuple[float, Mapping[str, str]]] = deque()

    def record(self, value_s: float, labels: Mapping[str, str]) -> None:
        self._kept.append((value_s, labels))
        if len(self._kept) >= KEPT_SAMPLES:
            self.count()

    def count(self) -> None:
        while self._kept:
            try:
                sample = self._kept.popleft()
            except IndexError:  # another thread took the last one
                return
            self._counted.record(*sample)


class _Counter:
    """The sums of a counter, looked at by a scrape. The SDK's own counter takes six times as long for an addition."""

    def __init__(self) -> None:
        self._totals: dict[frozenset[tuple[str, str]], _Total] = {}

    def total(self, labels: Mapping[str, str]) -> "_Total":
        return self._totals.setdefault(frozenset(labels.items()), _Total(labels))

    def look(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(total.value, total.labels) for total in list(self._totals.values())]


class _Total:
    """The sum of one series."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.value: float = 0
        self._lock = threading.Lock()  # exporters count what they drop in threads of their own

    def add(self, amount: float) -> None:
        with self._lock:
            self.value += amount
