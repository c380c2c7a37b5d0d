"""The catalogue: what Prometheus calls each metric, and which series a process may have."""

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.stack.parts import PARTS
from services.telemetry.catalogue import (
    BOUNDS_S,
    METRICS,
    MOST_OF_A_LAB,
    MOST_OF_A_PROCESS,
    OTHER_ARM,
    SERVICES,
    Metric,
)
from services.telemetry.metrics import KEPT_SAMPLES, Metrics


def series_of(metric: Metric, part: str) -> int:
    """How many series a part's emitters of a metric can make."""
    each = len(BOUNDS_S) + 3 if metric.kind == "histogram" else 1  # buckets, +Inf, sum, count
    return each * sum(sum(1 for _ in emitter.series()) for emitter in metric.emitters if emitter.part == part)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.prometheus)
def test_prometheus_sees_the_name_that_the_catalogue_says(metric: Metric) -> None:
    metrics = Metrics("adhoc", "a-life")
    labels = dict.fromkeys(metric.labels, "a")
    emit = {"counter": metrics.add, "gauge": metrics.set, "histogram": metrics.record}[metric.kind]
    emit(metric.name, 1, **labels)
    families = {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}
    family = metric.prometheus.removesuffix("_total")  # the parser names a counter's family without it
    assert family in families
    assert families[family].documentation == metric.description
    names = {sample.name for sample in families[family].samples}
    if metric.kind == "histogram":
        assert names == {f"{family}_bucket", f"{family}_sum", f"{family}_count"}
    else:
        assert names == {metric.prometheus}


def test_every_sample_of_a_histogram_is_counted_and_few_are_kept() -> None:
    metrics, name = Metrics("adhoc", "a-life"), "messaging.process.duration"
    for _ in range(2 * KEPT_SAMPLES + 1):
        metrics.record(name, 0.5, arm="a")
    (histogram,) = metrics._histograms
    assert len(histogram._kept) == 1
    families = {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}
    values = {sample.name: sample.value for sample in families[METRICS[name].prometheus].samples}
    assert values[f"{METRICS[name].prometheus}_count"] == 2 * KEPT_SAMPLES + 1
    assert values[f"{METRICS[name].prometheus}_sum"] == KEPT_SAMPLES + 0.5


def test_no_two_instruments_have_one_name() -> None:
    most = Counter(metric.prometheus for metric in METRICS.values()).most_common(1)
    assert most[0][1] == 1, most


def test_every_metric_says_what_it_is_in_which_unit_and_who_emits_it() -> None:
    for metric in METRICS.values():
        assert metric.description.endswith("."), metric.name
        assert metric.unit in ("s", "By") or (metric.unit[0] + metric.unit[-1] == "{}"), metric.name
        assert metric.emitters, metric.name
        for emitter in metric.emitters:
            assert emitter.part in PARTS or emitter.part in (*SERVICES, "supervisor"), emitter.part


def test_the_labels_of_a_metric_are_those_of_its_series() -> None:
    for metric in METRICS.values():
        for emitter in metric.emitters:
            assert set(emitter.values) <= set(metric.labels), metric.name


def test_no_label_is_open_ended() -> None:
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert not labels & {"message_id", "key", "path", "url", "trace_id", "run"}
    assert labels - {"life", "part", "process"} == {
        label for metric in METRICS.values() for emitter in metric.emitters for label in emitter.values
    }


def most_of(part: str) -> int:
    """All the series that a part may ever have, `target_info` among them."""
    processes = sum(found.replicas for found in PARTS.values() if found.kind != "task")
    own = 2 * processes if part == "supervisor" else 0  # of its two metrics, a series a process
    return 1 + own + sum(series_of(metric, part) for metric in METRICS.values() if part in metric.owners)


@pytest.mark.parametrize("part", [*SERVICES, "supervisor"])
def test_no_process_can_have_more_series_than_the_bound(part: str) -> None:
    assert most_of(part) <= MOST_OF_A_PROCESS


def test_a_lab_with_all_arms_has_no_more_series_than_is_stated() -> None:
    assert sum(map(most_of, (*SERVICES, "supervisor"))) <= MOST_OF_A_LAB


def test_an_account_that_no_arm_has_is_one_value() -> None:
    decisions = METRICS["delivery.dedup.decisions"]
    (provider,) = (e for e in decisions.emitters if e.part == "provider")
    assert OTHER_ARM in provider.values["arm"]
