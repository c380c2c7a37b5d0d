"""Every metric of the catalogue, as Prometheus has it from a lab in which everything happened.

SHOWN is the list: a metric that is not in it fails the suite.
"""

import subprocess
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Final

import pytest

from services.stack.parts import PARTS
from services.stack.prometheus import targets
from services.telemetry.catalogue import BOUNDS_S, METRICS, MOST_OF_A_LAB, MOST_OF_A_PROCESS, Metric
from tests.conftest import Lab
from tests.telemetry.conftest import Prometheus

pytestmark = pytest.mark.timeout(600)  # the first one waits for `told`

# Of each metric: queries that give something once it has appeared, and seen what it is there for.
SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "delivery.dedup.decisions": (
        'max_over_time({name}{{hop="accept",arm="outbox",decision="first"}}[15m]) > 0',
        'max_over_time({name}{{hop="accept",arm="outbox",decision="duplicate"}}[15m]) > 0',
        'max_over_time({name}{{hop="process",arm="effectively_once",decision="first"}}[15m]) > 0',
        'sum(max_over_time({name}{{hop="process",decision=~"duplicate|resumed"}}[15m])) > 0',
        'max_over_time({name}{{hop="charge",arm="effectively_once",decision="first"}}[15m]) > 0',
    ),
    "delivery.effects": (
        'max_over_time({name}{{arm="effectively_once",effect="charge",outcome="applied"}}[15m]) > 0',
        'max_over_time({name}{{arm="at_least_once",effect="charge",outcome="uncertain"}}[15m]) > 0',
        'max_over_time({name}{{arm="kafka_transactions",effect="output",outcome="applied"}}[15m]) > 0',
        'max_over_time({name}{{arm="stock_faust",effect="email",outcome="applied"}}[15m]) > 0',
        'max_over_time({name}{{arm="at_most_once",effect="record",outcome="applied"}}[15m]) > 0',
    ),
    "delivery.retries": (
        'sum(max_over_time({name}{{arm="at_least_once",tier="1s",reason="provider_error"}}[15m])) > 0',
    ),
    "delivery.dead_letters": (
        'sum(max_over_time({name}{{arm="effectively_once",reason="no_message_id"}}[15m])) > 0',
        'sum(max_over_time({name}{{arm="at_most_once",reason="no_message_id"}}[15m])) > 0',
    ),
    "delivery.redrives": ('max_over_time({name}{{arm="effectively_once",outcome="returned"}}[15m]) > 0',),
    "delivery.redeliveries": ('sum(max_over_time({name}{{arm="effectively_once"}}[15m])) > 0',),
    "delivery.offset_commits": ('count(max_over_time({name}{{part=~"arm.*",outcome="committed"}}[15m]) > 0) >= 4',),
    "delivery.rebalances": (
        "count(max by (arm) (max_over_time({name}[15m])) > 0) == 5",
        'count(max_over_time({name}{{part=~"retry[.].*"}}[15m]) > 0) == 2',
    ),
    "delivery.consumer_lag.messages": ("count(count by (arm) (last_over_time({name}[15m]))) == 5",),
    "delivery.consumer_lag": ("count(count by (arm) (last_over_time({name}[15m]) >= 0)) == 5",),
    "messaging.client.sent.messages": ('max_over_time({name}{{topic="orders.v1",outcome="confirmed"}}[15m]) > 0',),
    "messaging.client.consumed.messages": (
        'count(max_over_time({name}{{topic="orders.v1"}}[15m]) > 0) >= 5',
        'max_over_time({name}{{topic="payments.effectively_once.redelivery"}}[15m]) > 0',
    ),
    "messaging.process.duration": ("count(count by (arm) (last_over_time({name}_count[15m]) > 0)) == 5",),
    "delivery.end_to_end": ("count(count by (arm) (last_over_time({name}_count[15m]) > 0)) == 5",),
    "delivery.publish_delay": ('max_over_time({name}_count{{arm="outbox"}}[15m]) > 0',),
    "delivery.loop_lag": ('count({name}_count{{part!="auditor"}} > 0) >= 12',),
    "delivery.process_info": ('count({name}{{life=~"[0-9a-f-]{{36}}"}}) >= 13',),
    "delivery.counted_until_timestamp": ("count(time() - {name} < 60) >= 7",),
    "delivery.circuit.open": ("count({name} >= 0) == 4",),
    "delivery.telemetry.dropped": ("count({name}) >= 12",),
    "process.memory.usage": ("count({name} > 1e7) >= 13",),
    "process.cpu.time": ("count({name} > 0) >= 13",),
    "process.open_file_descriptors": ("count({name} > 5) >= 13",),
    "delivery.group_lag.messages": ("count({name}) == 40",),
    "delivery.group_lag": ("count(last_over_time({name}[1m])) == 40",),
    "delivery.group.committed_offsets": ('count(sum by (arm) ({name}{{topic="orders.v1"}}) > 0) == 5',),
    "delivery.topic.end_offsets": (
        'max_over_time({name}{{place="main",topic="orders.v1"}}[15m]) > 0',
        'max_over_time({name}{{place="retry",topic="payments.at_least_once.retry.1s"}}[15m]) > 0',
        'max_over_time({name}{{place="dead_letters",topic="payments.effectively_once.dlq"}}[15m]) > 0',
        'max_over_time({name}{{place="redelivery",topic="payments.effectively_once.redelivery"}}[15m]) > 0',
        'max_over_time({name}{{place="output"}}[15m]) > 0',
    ),
    "delivery.outbox.pending": ('count({name}{{arm="outbox"}}) == 3',),
    "delivery.outbox.oldest_age": ('count({name}{{arm="outbox"}}) == 3',),
    "delivery.dead_letters.depth": ('max_over_time({name}{{arm="effectively_once"}}[15m]) > 0',),
    "delivery.dead_letters.oldest_age": (
        "count({name}) == count(delivery_dead_letters_depth)",
        'max_over_time({name}{{arm="effectively_once"}}[15m]) > 0',
    ),
    "delivery.probe.last_success_timestamp": ("count(time() - {name} < 10) == 2",),
    "delivery.part_up": ('{name}{{part="kafka"}} == 1', '{name}{{part="arm.effectively_once"}} == 1'),
    "delivery.part_restarts": ('max_over_time({name}{{process="arm.effectively_once#0"}}[15m]) > 0',),
    "delivery.audit.messages": ('max_over_time({name}{{hop="process",state="applied_once"}}[15m]) > 0',),
    "delivery.audit.expected": ("sum({name}) > 0",),
    "delivery.audit.unexplained": ("{name} == 0",),
    "delivery.audit.lost": ("count({name}) > 10",),
    "delivery.audit.extra_applications": ("count({name}) > 10",),
    "delivery.audit.unexpected": ("count({name}) > 10",),
    "delivery.audit.retractions": ("count({name}) > 5",),
    "delivery.promise_info": ('{name}{{arm="effectively_once",effect="record",promise="no_loss"}} == 1',),
    "delivery.audit.last_success_timestamp": ("time() - {name} < 60",),
    "delivery.audit.telemetry_gap": ("count({name}) == 19",),
}
# Of these the default lab has no emitter: tests/telemetry/test_probe.py shows them, through a Prometheus, too.
ELSEWHERE: Final = {"delivery.slot_lag"}


def emitted() -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.emitted]


def test_every_metric_of_the_catalogue_has_a_test_that_makes_it_appear() -> None:
    assert {metric.name for metric in emitted()} <= SHOWN.keys() | ELSEWHERE
    assert SHOWN.keys() | ELSEWHERE <= METRICS.keys()


@pytest.mark.parametrize("metric", [m for m in emitted() if m.name not in ELSEWHERE], ids=lambda m: m.prometheus)
def test_a_metric_appears_in_prometheus(metric: Metric, told: Prometheus, lab: Lab) -> None:
    for query in SHOWN[metric.name]:
        promql = query.format(name=metric.prometheus)
        lab.until(lambda promql=promql: told.query(promql), promql)


def test_prometheus_has_no_metric_and_no_label_value_that_the_catalogue_lacks(told: Prometheus) -> None:
    known = {metric.prometheus: metric for metric in METRICS.values()}
    of_prometheus = {"instance", "part", "job", "le", "__name__"}
    strange = []
    for series in told.query('{instance!="",__name__!~"up|scrape_.+|target_info|ALERTS.*|.*:.*"}'):
        labels = series["metric"]
        name = labels["__name__"]
        metric = known.get(name) or known.get(name.rpartition("_")[0])  # of a histogram: _bucket, _sum, _count
        if metric is None:
            strange.append(name)
            continue
        process = labels["instance"].partition("#")[0]
        own = {label: value for label, value in labels.items() if label not in of_prometheus or label in metric.labels}
        if process == "supervisor" or metric.labels == ("life",):
            continue  # its labels are the parts there are; a life is drawn
        allowed = [dict(one) for emitter in metric.emitters if emitter.part == process for one in emitter.series()]
        if own not in allowed:
            strange.append(f"{process}: {name}{own}")
    assert not strange


def test_a_closed_label_set_is_there_at_0_before_anything_happened(told: Prometheus, lab: Lab) -> None:
    for query in (
        'delivery_dedup_decisions_total{hop="process",arm="effectively_once",decision="conflict"} == 0',
        'delivery_dedup_decisions_total{hop="charge",arm="kafka_transactions",decision="conflict"} == 0',
        'delivery_retries_total{arm="at_most_once",tier="in_place",reason="busy"} == 0',
    ):
        lab.until(lambda query=query: told.query(query), query)  # a scrape that failed makes a series stale


def test_a_part_label_of_the_supervisor_is_its_own_and_others_say_who_they_are(told: Prometheus, lab: Lab) -> None:
    def parts() -> set[str]:
        return {series["metric"]["part"] for series in told.query("delivery_part_up")}

    wanted = {"postgres", "ledger", "kafka", "prometheus", "relay", "arm.stock_faust"}
    lab.until(lambda: wanted <= parts(), lambda: f"{wanted}, there is {parts()}")
    assert not told.query('{exported_part!=""}')


def test_what_each_process_exposes_is_clean_and_within_its_bound(told: Prometheus, lab: Lab, promtool: str) -> None:
    running = set(lab.status()) | {"supervisor"}
    here = {name: at for name, at in targets(lab.home, PARTS).items() if name in running}
    sizes: Counter[str] = Counter()
    for process, address in here.items():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:  # our own server
            text = answer.read().decode()
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, ""), (process, checked.stderr)
        assert "otel_scope" not in text
        sizes[process] = sum(not line.startswith("#") for line in text.splitlines())
    assert len(sizes) >= 13
    assert max(sizes.values()) <= MOST_OF_A_PROCESS, sizes.most_common(3)
    assert sizes.total() <= MOST_OF_A_LAB, sizes


def test_the_histograms_have_the_bounds_of_the_catalogue(told: Prometheus, lab: Lab) -> None:
    buckets = 'messaging_process_duration_seconds_bucket{arm="at_least_once",le!="+Inf"}'

    def bounds() -> set[float]:
        return {float(series["metric"]["le"]) for series in told.query(buckets)}

    lab.until(lambda: bounds() == set(BOUNDS_S), lambda: f"{BOUNDS_S}, there is {bounds()}")
