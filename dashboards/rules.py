"""The rules: what is recorded, and the alerts of design.md section 6, in two profiles of thresholds.

Recording rules stand in the same group before the alerts that read them, so an alert sees this second's value.
Everything here is PromQL that Prometheus 2.42 and 3 read alike: no exact `le`, no `absent()`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from dashboards.layout import CONSOLE
from dashboards.profiles import Profile, Window

Severity = Literal["page", "info"]

# Budgets are declared where an arm may lose or double, and still shall not do so often: (metric, arm).
BUDGET: Final = 0.001
_PROMISED: Final = 'and on (hop, arm, effect) (delivery_promise_info{{promise="{promise}"}} == 1)'
_NOT_PROMISED: Final = 'unless on (hop, arm, effect) (delivery_promise_info{{promise="{promise}"}} == 1)'
_PER_ROW: Final = "hop, arm, effect"
LATEST: Final = "15m"  # a gap in the scrapes of up to so long hides no rise: the value before it is still compared with


class Record(msgspec.Struct, frozen=True):
    """A recording rule: `level:metric:operation`."""

    name: str
    expr: str


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of an alert; an alert whose severity goes by the promise has two."""

    name: str
    expr: str
    severity: Severity
    summary: str  # with numbers
    hold: str = "0s"
    window: str = ""  # tells rules of one name and severity apart


def records(profile: Profile) -> Iterator[Record]:
    """What alerts read, and boards may."""
    for short in ("lost", "extra_applications", "unexpected"):
        yield Record(
            f"hop_arm_effect:delivery_audit_{short}:rise",
            _rise(f"delivery_audit_{short}_total", _PER_ROW, profile.rise, LATEST),
        )
    yield Record(
        "arm:delivery_retried_share:ratio",
        _share(
            f'sum by (arm) (increase(delivery_topic_end_offsets_total{{place="retry"}}[{profile.storm_window}]))',
            "sum by (arm) (increase(delivery_group_committed_offsets_total"
            f'{{topic=~".*[.]v1"}}[{profile.storm_window}]))',
        ),
    )
    yield Record(
        "hop_arm:delivery_dedup_duplicates:ratio",
        _share(
            "sum by (hop, arm) (increase(delivery_dedup_decisions_total"
            f'{{decision="duplicate"}}[{profile.hits_window}]))',
            f"sum by (hop, arm) (increase(delivery_dedup_decisions_total[{profile.hits_window}]))",
        ),
    )


def _rise(metric: str, by: str, over: str, gap: str) -> str:
    """How much a counter rose, as a whole number: exact, over resets, and over gaps in the scrapes of up to `gap`.

    The first half compares with the value before the window, if somebody scraped so lately; the second with the least
    value within it, for a counter that began anew or has just appeared. increase() would estimate fractions.
    """
    kept = f"sum by ({by})"
    return (
        f"{kept} ({metric} - last_over_time({metric}[{gap}] offset {over}) > 0)"
        f" or {kept} ({metric} - min_over_time({metric}[{over}]))"
    )


def _share(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def alerts(profile: Profile) -> Iterator[Alert]:
    """The table, in its order."""
    yield from _by_promise(
        "EventsLost",
        "hop_arm_effect:delivery_audit_lost:rise > 0",
        "no_loss",
        'LOST {{ $value | printf "%.0f" }} at {{ $labels.hop }}, {{ $labels.arm }}, {{ $labels.effect }}',
    )
    yield from _by_promise(
        "EffectDuplicated",
        "hop_arm_effect:delivery_audit_extra_applications:rise > 0",
        "no_duplicate",
        'DOUBLED {{ $value | printf "%.0f" }} at {{ $labels.hop }}, {{ $labels.arm }}, {{ $labels.effect }}',
    )
    yield from _by_promise(
        "UnexpectedEffect",
        "hop_arm_effect:delivery_audit_unexpected:rise > 0",
        "no_loss",
        '{{ $value | printf "%.0f" }} without an intent at {{ $labels.hop }}, {{ $labels.arm }}, {{ $labels.effect }}',
    )
    for window in profile.burn:
        yield _burn("LossBudgetBurn", "delivery_audit_lost_total", "at_most_once", "lost", window)
        yield _burn(
            "DuplicateBudgetBurn", "delivery_audit_extra_applications_total", "at_least_once", "doubled", window
        )
    yield Alert(
        name="DedupHitsSustained",
        # Still going on: one burst stays in the long window for longer than the alert waits, and in the short one not.
        # A replay or a redrive sends again on purpose: then the hits are what dedup is for. At accept they always are:
        # an Idempotency-Key answers clients that ask again, and some do on any day.
        expr=(
            'hop_arm:delivery_dedup_duplicates:ratio{hop!="accept"} > 0.01 and on (hop, arm) (sum by (hop, arm) '
            f'(increase(delivery_dedup_decisions_total{{decision="duplicate"}}[{profile.hits_window}])) >= 5) '
            "and on (hop, arm) (sum by (hop, arm) "
            f'(increase(delivery_dedup_decisions_total{{decision="duplicate"}}[{profile.hits_lately}])) > 0) '
            'unless on (arm) (sum by (arm) (increase(delivery_topic_end_offsets_total{place="redelivery"}'
            f"[{profile.hits_window}])) > 0)"
        ),
        severity="info",
        hold=profile.hits_for,
        summary="{{ $value | humanizePercentage }} of the decisions at {{ $labels.hop }}, {{ $labels.arm }} "
        "are duplicates",
    )
    yield Alert(
        name="DeadLetterInflow",
        # Exact: increase() estimates more than five of five, and of four when it sees four scrapes.
        expr="(" + _rise('delivery_topic_end_offsets_total{place="dead_letters"}', "arm", "1m", "1m") + ") > 5",
        severity="page",
        hold=profile.inflow_for,
        summary='{{ $value | printf "%.0f" }} letters of {{ $labels.arm }} within a minute',
    )
    yield Alert(
        name="DeadLetterBacklog",
        expr="max by (arm) (delivery_dead_letters_depth) > 0",
        severity="info",
        hold=profile.backlog_for,
        summary='{{ $value | printf "%.0f" }} letters of {{ $labels.arm }} are parked and nobody looks',
    )
    yield Alert(
        name="GroupLagGrowing",
        expr=(
            f"(max by (arm) (delivery_group_lag_seconds) > {profile.lag_s} "
            "and max by (arm) (delivery_group_lag_seconds) > "
            f"max by (arm) (delivery_group_lag_seconds offset {profile.lag_before})) "
            f"or (max by (arm) (delivery_group_lag_seconds) > {profile.lag_without_commits_s} unless on (arm) "
            "(sum by (arm) (increase(delivery_group_committed_offsets_total"
            f"[{profile.commits_window}])) > 0))"
        ),
        severity="page",
        hold=profile.lag_for,
        summary="{{ $labels.arm }} is {{ $value | humanizeDuration }} behind and does not catch up",
    )
    yield Alert(
        name="RetryStorm",
        expr=(
            "arm:delivery_retried_share:ratio > 0.05 and on (arm) (sum by (arm) "
            f'(increase(delivery_topic_end_offsets_total{{place="retry"}}[{profile.storm_window}])) >= 10)'
        ),
        severity="page",
        hold=profile.storm_for,
        summary="{{ $labels.arm }} retries {{ $value | humanizePercentage }} of what it consumes",
    )
    yield Alert(
        name="RelayStalled",
        expr=f"max by (arm) (delivery_outbox_oldest_age_seconds) > {profile.outbox_age_s}",
        severity="page",
        hold=profile.outbox_for,
        summary="the oldest row of {{ $labels.arm }} has waited {{ $value | humanizeDuration }} to be published",
    )
    yield Alert(
        name="SlotHoldingWal",
        expr=f"max by (arm) (delivery_slot_lag_bytes) > {profile.slot_bytes}",
        severity="page",
        summary="the slot of {{ $labels.arm }} holds {{ $value | humanize1024 }}B of the write-ahead log",
    )
    yield Alert(
        name="AuditStale",
        # last_over_time: a frozen auditor is not scraped, and its own series are gone when they are needed most.
        expr=(
            f"time() - max(last_over_time(delivery_audit_last_success_timestamp_seconds[{LATEST}]))"
            f" > {profile.audit_age_s}"
        ),
        severity="page",
        hold=profile.audit_for,
        summary="no audit for {{ $value | humanizeDuration }}: nobody sees what is lost",
    )
    yield Alert(
        name="TelemetryGap",
        expr="sum by (arm, signal) (delivery_audit_telemetry_gap) != 0",
        severity="info",
        hold=profile.gap_for,
        summary='{{ $value | printf "%.0f" }} rows of {{ $labels.arm }}, {{ $labels.signal }} that no counter knows',
    )
    yield Alert(
        name="PartDown",
        # A lab that starts is not down: it was up within the minute, or has had a minute and a half to become so: known
        # at 18 moments of five seconds, however often it is scraped. The inner range keeps a stop from counting: a
        # plain series lives on for minutes after its last sample.
        expr=(
            "max by (process) (delivery_part_up) == 0 and (max by (process) (max_over_time(delivery_part_up[1m])) == 1 "
            "or max by (process) (count_over_time(present_over_time(delivery_part_up[30s])[90s:5s])) >= 18)"
        ),
        severity="page",
        hold=profile.down_for,
        summary="{{ $labels.process }} does not answer",
    )
    yield Alert(
        name="PartRestarted",
        expr=f"sum by (process) (increase(delivery_part_restarts_total[{profile.rise}])) > 0",
        severity="info",
        summary="{{ $labels.process }} was started again",
    )
    yield Alert(
        name="Watchdog",
        expr="vector(1)",
        severity="info",
        summary="always fires: when this page stops coming, alerting itself is broken",
    )


def _by_promise(name: str, expr: str, promise: str, summary: str) -> Iterator[Alert]:
    """A broken promise is a page; the same where nothing was promised is worth knowing."""
    broken = f"{expr} {_PROMISED.format(promise=promise)}"
    yield Alert(name=name, expr=broken, severity="page", summary=f"{summary}: a promise is broken")
    kept = f"{expr} {_NOT_PROMISED.format(promise=promise)}"
    yield Alert(name=name, expr=kept, severity="info", summary=f"{summary} (nothing is promised)")


def _burn(name: str, metric: str, arm: str, word: str, window: Window) -> Alert:
    """A budget that burns too fast, over a long window (it matters) and a short one (it still does)."""
    row = f'hop="process", arm="{arm}"'

    def share(over: str) -> str:
        bad = f"sum by ({_PER_ROW}) (increase({metric}{{{row}}}[{over}]))"
        return f"{bad} / ({_expected(row, over)} > 0)"

    limit = f"{window.factor:g} * {BUDGET:g}"
    enough = f"{_expected(row, window.short)} >= 100"
    return Alert(
        name=name,
        expr=f"{share(window.long)} > {limit} and {share(window.short)} > {limit} and {enough}",
        severity="page",
        window=window.long,
        summary=f"{{{{ $value | humanizePercentage }}}} of {arm}, {{{{ $labels.effect }}}} {word} "
        f"within {window.long}: the budget is {BUDGET:.1%}",
    )


def _expected(row: str, over: str) -> str:
    return f"sum by ({_PER_ROW}) (increase(delivery_audit_expected_total{{{row}}}[{over}]))"


def group(profile: Profile) -> dict[str, Any]:
    """The rule file of a profile, as Prometheus reads it."""
    rules: Sequence[dict[str, Any]] = [
        *({"record": record.name, "expr": record.expr} for record in records(profile)),
        *(_alert(alert) for alert in alerts(profile)),
    ]
    return {"groups": [{"name": f"delivery-{profile.name}", "interval": "1s", "rules": list(rules)}]}


def _alert(alert: Alert) -> dict[str, Any]:
    held = {"for": alert.hold} if alert.hold != "0s" else {}
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **held,
        "labels": {"severity": alert.severity, **({"window": alert.window} if alert.window else {})},
        "annotations": {"summary": alert.summary, "runbook_url": f"{CONSOLE}/runbooks/{alert.name}"},
    }
