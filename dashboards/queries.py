"""The PromQL of the boards, by what it answers. Names are those of the catalogue: a test parses each query.

Whose number it is (design, section 6): figures of loss, duplication and state are the auditor's; lag and depth are the
probe's; rates are what the processes counted themselves.
"""

from typing import Final, get_args

from dashboards.rules import LATEST
from services.domain.arms import DEFAULT_PUBLISHER, Hop

CONSUMERS: Final = 'arm=~"$arm"'
PUBLISHERS: Final = 'arm=~"$publisher"'
ANY: Final = 'arm=~"$arm|$publisher"'
_WINDOW: Final = "[$__rate_interval]"

# The arms that this lab runs, dead or alive: the supervisor knows of every process that is expected. The auditor has
# all arms that there are, and a 0 of one that never ran is no news. While the supervisor says nothing, all count.
_RUNNING: Final = (
    'label_replace(last_over_time(delivery_part_up[1m]), "arm", "$1", "part", "(?:arm|orders)[.](.+)") or '
    f'label_replace(last_over_time(delivery_part_up{{part="orders"}}[1m]), "arm", "{DEFAULT_PUBLISHER}", "", "") or '
    "delivery_audit_lost_total unless on () last_over_time(delivery_part_up[1m])"
)


def _running(expr: str) -> str:
    """Of the arms that run."""
    return f"(({expr}) and on (arm) ({_RUNNING}))"


# --- the auditor

LOST: Final = _running(f"max by (arm) (delivery_audit_lost_total{{{ANY}}})")
EXTRA: Final = _running(f"max by (arm) (delivery_audit_extra_applications_total{{{ANY}}})")
UNEXPECTED: Final = _running(f"max by (arm) (delivery_audit_unexpected_total{{{ANY}}})")
RETRACTED: Final = _running(f"max by (arm) (delivery_audit_retractions_total{{{ANY}}})")
UNEXPLAINED: Final = "sum(abs(delivery_audit_unexplained))"
# As AuditStale has it: a frozen auditor is not scraped, and its age is asked for most when its series are gone.
AUDIT_AGE_S: Final = f"time() - max(last_over_time(delivery_audit_last_success_timestamp_seconds[{LATEST}]))"
TELEMETRY_GAP: Final = _running(f"sum by (arm, signal) (delivery_audit_telemetry_gap{{{ANY}}})")


def since_ms(metric: str) -> str:
    """When the counter first rose within the range, in Unix milliseconds; 0 where it did not."""
    rose = f"max by (arm) (increase({metric}{{{ANY}}}[10s])) > 0"
    now = f"max by (arm) ({metric}{{{ANY}}})"
    return _running(f"1000 * min_over_time(timestamp({rose})[$__range:5s]) and on (arm) {now} or 0 * {now}")


LOST_SINCE_MS: Final = since_ms("delivery_audit_lost_total")
EXTRA_SINCE_MS: Final = since_ms("delivery_audit_extra_applications_total")

# What became of the expected messages: (states, heading) by the query's letter.
PATH_STATES: Final = {
    "A": (".+", "expected"),
    "B": ("applied_once", "applied once"),
    "C": ("duplicated", "duplicated"),
    "D": ("waiting", "waiting"),
    "E": ("dead_lettered", "dead-lettered"),
    "F": ("discarded", "discarded"),
    "G": ("uncertain", "uncertain"),
    "H": ("lost", "lost"),
}


def path(states: str) -> str:
    """Messages in these states, by hop, arm and effect."""
    return _in_order(_running(f'sum by (hop, arm, effect) (delivery_audit_messages{{{ANY}, state=~"{states}"}})'))


def _in_order(expr: str) -> str:
    """Numbers the hops, so that they sort as messages pass them."""
    for number, hop in enumerate(get_args(Hop), 1):
        expr = f'label_replace({expr}, "hop", "{number} {hop}", "hop", "{hop}")'
    return expr


def _labelled(expr: str, **labels: str) -> str:
    for label, value in labels.items():
        expr = f'label_replace({expr}, "{label}", "{value}", "", "")'
    return expr


_ACCEPTED: Final = f'rate(delivery_dedup_decisions_total{{hop="accept", decision="first", {PUBLISHERS}}}{_WINDOW})'
_ARRIVED: Final = f'rate(delivery_topic_end_offsets_total{{place="main", {PUBLISHERS}}}{_WINDOW})'
_APPLIED: Final = f'rate(delivery_effects_total{{outcome="applied", {CONSUMERS}}}{_WINDOW})'
PATH_REF: Final = "I"
PATH_PER_S: Final = _in_order(
    f"({_labelled(f'sum by (arm) ({_ACCEPTED})', hop='accept', effect='intent')}"
    f" or {_labelled(f'sum by (arm) ({_ARRIVED})', hop='publish', effect='publication')}"
    f" or {_labelled(f'sum by (arm, effect) ({_APPLIED})', hop='process')})"
    ' and on (hop, arm, effect) delivery_audit_messages{state="applied_once"}'  # a row without an audit says nothing
)  # what passes the hops a second: as the processes counted it; on topics, by their end offsets


# --- what the processes counted themselves

ACCEPTED_PER_S: Final = f'sum(rate(delivery_dedup_decisions_total{{hop="accept", decision="first"}}{_WINDOW}))'
PUBLISHED_PER_S: Final = f'sum(rate(messaging_client_sent_messages_total{{outcome="confirmed"}}{_WINDOW}))'
APPLIED_PER_S: Final = (
    f'sum by (arm) (rate(delivery_effects_total{{{CONSUMERS}, effect="record", outcome="applied"}}{_WINDOW}))'
)
APPLIED_SLOWEST_PER_S: Final = f"min({APPLIED_PER_S})"

# --- the probe

OUTBOX_PENDING: Final = f"sum by (arm) (delivery_outbox_pending{{{PUBLISHERS}}})"
LAG_MESSAGES: Final = f"sum by (arm) (delivery_group_lag_messages{{{CONSUMERS}}})"

# --- alerts

ALERTS: Final = 'max by (alertname, arm) (ALERTS{alertstate="firing", alertname!="Watchdog"})'
ALERTS_FIRING: Final = 'count(ALERTS{alertstate="firing", alertname!="Watchdog"}) or vector(0)'

# --- Duplicates and loss


def by_effect(metric: str, hop: str, effect: str = ".*") -> str:
    """A counter of the auditor on one hop, by arm and effect."""
    arms = CONSUMERS if hop == "process" else PUBLISHERS
    return _running(f'sum by (arm, effect) ({metric}{{hop="{hop}", effect=~"{effect}", {arms}}})')


def on_hop(metric: str, hop: str) -> str:
    """A counter of the auditor on one hop, by arm: of several effects, the one with most."""
    return f"max by (arm) ({by_effect(metric, hop)})"


def decisions_per_s(hop: str) -> str:
    """Dedup decisions other than `first`, in one of the three places where one is made."""
    arms = PUBLISHERS if hop == "accept" else CONSUMERS
    kept = f'hop="{hop}", decision!="first", {arms}'
    return f"sum by (arm, decision) (rate(delivery_dedup_decisions_total{{{kept}}}{_WINDOW}))"


DUPLICATE_SHARE: Final = (
    f'sum by (arm) (rate(delivery_dedup_decisions_total{{hop="process", decision="duplicate", {CONSUMERS}}}{_WINDOW}))'
    f' / (sum by (arm) (rate(delivery_dedup_decisions_total{{hop="process", {CONSUMERS}}}{_WINDOW})) > 0)'
    f' or 0 * sum by (arm) (delivery_dedup_decisions_total{{hop="process", {CONSUMERS}}})'
)
REDELIVERED: Final = f"sum by (arm) (increase(delivery_redeliveries_total{{{CONSUMERS}}}{_WINDOW}))"
NOT_APPLIED_PER_S: Final = (
    f'sum by (arm, outcome) (rate(delivery_effects_total{{{CONSUMERS}, outcome=~"failed|refused|uncertain"}}{_WINDOW}))'
)
OBSERVED: Final = f'max by (arm) (sum by (arm, effect) (delivery_effects_total{{{CONSUMERS}, outcome="applied"}}))'
AUDITED: Final = (
    f'max by (arm) (sum by (arm, effect) (delivery_audit_messages{{hop="process", {CONSUMERS}, '
    f'state=~"applied_once|duplicated"}}) + {by_effect("delivery_audit_extra_applications_total", "process")})'
)

# --- Relay and Kafka

OUTBOX_AGE_S: Final = f"max by (arm) (delivery_outbox_oldest_age_seconds{{{PUBLISHERS}}})"
SENT_PER_S: Final = f"sum by (topic, outcome) (rate(messaging_client_sent_messages_total{_WINDOW})) > 0"
SLOT_LAG_BYTES: Final = f"max by (arm) (delivery_slot_lag_bytes{{{PUBLISHERS}}})"
LAG_S: Final = f"max by (arm) (delivery_group_lag_seconds{{{CONSUMERS}}})"
LAG_BY_PARTITION: Final = f"max by (arm, topic, partition) (delivery_group_lag_messages{{{CONSUMERS}}})"
COMMITS_PER_S: Final = f"sum by (arm, outcome) (rate(delivery_offset_commits_total{{{CONSUMERS}}}{_WINDOW}))"
ENDS_PER_S: Final = f'sum by (topic) (rate(delivery_topic_end_offsets_total{{place="main"}}{_WINDOW}))'
COMMITTED_PER_S: Final = f"sum by (arm) (rate(delivery_group_committed_offsets_total{{{CONSUMERS}}}{_WINDOW}))"


def quantile(share: float, metric: str, arms: str) -> str:
    """A quantile of a histogram, by arm."""
    return f"histogram_quantile({share}, sum by (arm, le) (rate({metric}_bucket{{{arms}}}{_WINDOW})))"


REBALANCES: Final = f"sum by (arm) (increase(delivery_rebalances_total{{{CONSUMERS}}}{_WINDOW}))"
# Tempo's metrics generator makes it of spans, with exemplars.
STEPS_P99: Final = (
    f"histogram_quantile(0.99, sum by (span_name, le) (rate(traces_spanmetrics_latency_bucket{_WINDOW})))"
)

# --- Retries and dead letters

RETRIES_PER_S: Final = f"sum by (arm, tier) (rate(delivery_retries_total{{{CONSUMERS}}}{_WINDOW}))"
RETRY_REASONS_PER_S: Final = f"sum by (reason) (rate(delivery_retries_total{{{CONSUMERS}}}{_WINDOW}))"
RETRY_INFLOW_PER_S: Final = (
    f'sum by (arm) (rate(delivery_topic_end_offsets_total{{place="retry", {CONSUMERS}}}{_WINDOW}))'
)


def _behind(place: str, by: str) -> str:
    """Records of topics in this place that their group has not committed: the probe's lag is of the main topics."""
    ends = f'sum by ({by}) (delivery_topic_end_offsets_total{{place="{place}", {CONSUMERS}}})'
    topics = 'topic=~"payments[.].*[.]' + ('retry[.].*"' if place == "retry" else 'redelivery"')
    return f"{ends} - sum by ({by}) (delivery_group_committed_offsets_total{{{topics}, {CONSUMERS}}})"


def waiting_in_tier(tier: str) -> str:
    """Records of a retry tier that their group has not committed, by arm."""
    kept = f'topic=~"payments[.].*[.]retry[.]{tier}", {CONSUMERS}'
    ends = f'sum by (arm) (delivery_topic_end_offsets_total{{place="retry", {kept}}})'
    return f"{ends} - sum by (arm) (delivery_group_committed_offsets_total{{{kept}}})"


CIRCUITS: Final = f"max by (arm) (delivery_circuit_open{{{CONSUMERS}}})"
RETRY_WAITING_BY_ARM: Final = _behind("retry", "arm")
RETRY_SHARE: Final = (
    f'sum by (arm) (rate(delivery_topic_end_offsets_total{{place="retry", {CONSUMERS}}}{_WINDOW})) / '
    f'(sum by (arm) (rate(delivery_group_committed_offsets_total{{topic=~".*[.]v1", {CONSUMERS}}}{_WINDOW})) > 0)'
)
DEPTH: Final = f"sum by (arm) (delivery_dead_letters_depth{{{CONSUMERS}}})"
OLDEST_LETTER_S: Final = f"max by (arm) (delivery_dead_letters_oldest_age_seconds{{{CONSUMERS}}})"
DEAD_LETTERS: Final = f'sum by (arm) (delivery_topic_end_offsets_total{{place="dead_letters", {CONSUMERS}}})'
DEAD_LETTERS_PER_MIN: Final = (
    f'60 * sum by (arm) (rate(delivery_topic_end_offsets_total{{place="dead_letters", {CONSUMERS}}}{_WINDOW}))'
)
DEAD_LETTER_REASONS: Final = f"sum by (arm, reason) (delivery_dead_letters_total{{{CONSUMERS}}}) > 0"
REDRIVES: Final = f"sum by (arm, outcome) (delivery_redrives_total{{{CONSUMERS}}})"
REDELIVERY_WAITING: Final = _behind("redelivery", "arm")

# --- Lab health

PARTS_UP: Final = "sum(delivery_part_up)"
PARTS_DOWN: Final = "count(delivery_part_up == 0) or vector(0)"
PARTS: Final = "max by (process) (delivery_part_up)"
RESTARTS: Final = "sum(delivery_part_restarts_total)"
RESTARTED: Final = f"sum by (process) (increase(delivery_part_restarts_total{_WINDOW})) > 0"
MEMORY_BYTES: Final = "max by (instance) (process_memory_usage_bytes)"
CPU_CORES: Final = f"sum by (instance) (rate(process_cpu_time_seconds_total{_WINDOW}))"
FILES_OPEN: Final = "max by (instance) (process_open_file_descriptors)"
LOOP_LAG_P99_S: Final = (
    f"histogram_quantile(0.99, sum by (instance, le) (rate(delivery_loop_lag_seconds_bucket{_WINDOW})))"
)
TARGETS_DOWN: Final = "count(up == 0) or vector(0)"
TARGETS: Final = "max by (instance) (up)"
SCRAPE_S: Final = "max by (instance) (scrape_duration_seconds)"
DROPPED: Final = "sum by (signal) (delivery_telemetry_dropped_total)"
DROPPED_PER_S: Final = f"sum by (instance, signal) (rate(delivery_telemetry_dropped_total{_WINDOW})) > 0"
SERIES: Final = "sum(scrape_samples_post_metric_relabeling)"
PROBE_AGE_S: Final = "time() - max by (store) (delivery_probe_last_success_timestamp_seconds)"

# --- the auditor's database

_THESE_ARMS: Final = "arm ~ '^(${arm:regex}|${publisher:regex})$'"
FINDINGS: Final = f"""
SELECT found_at, state, hop, arm, effect, message, many, coalesce(last_seen, at[1]) AS last_seen, why, trace_id
FROM findings WHERE gone_at IS NULL AND {_THESE_ARMS} AND $__timeFilter(found_at)
ORDER BY found_at DESC LIMIT 200
""".strip()  # noqa: S608  # Grafana puts the values in; here they are names of arms
VERDICTS: Final = f"""
SELECT hop, arm, effect, coalesce(nullif(promises, ''), 'nothing') AS promises, coalesce(verdict, '') AS verdict,
       expected, lost, extra_applications, unexpected, unexplained
FROM verdicts WHERE {_THESE_ARMS}
ORDER BY array_position(ARRAY['accept', 'publish', 'process'], hop), arm, effect
""".strip()  # noqa: S608
