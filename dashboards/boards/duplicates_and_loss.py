"""Duplicates and loss: by hop, arm and effect; what was observed beside what was audited; the evidence."""

from typing import Any, Final

from dashboards import queries as q
from dashboards.layout import board
from dashboards.palette import BROKEN, GOOD, NEUTRAL
from dashboards.panels import Panel, Reading, chart, number, rows
from dashboards.sources import evidence, now, over_time

UID: Final = "lab-duplicates-and-loss"
LOST: Final = "delivery_audit_lost_total"
EXTRA: Final = "delivery_audit_extra_applications_total"
GHOSTS: Final = "delivery_audit_unexpected_total"


def duplicates_and_loss() -> dict[str, Any]:
    """The board."""
    return board(
        UID,
        "2 · Duplicates and loss",
        "Every loss and duplicate by hop, arm and effect; which decisions kept duplicates away; the evidence.",
        [
            (6, [(12, _lost_by_effect()), (12, _duplicated_by_effect())]),
            (5, [(6, _publish_lost()), (6, _publish_doubled()), (6, _ghosts()), (6, _retracted())]),
            (8, [(12, _lost()), (12, _duplicated())]),
            (8, [(8, _inbox()), (8, _accept()), (8, _charge())]),
            (8, [(8, _share()), (8, _redeliveries()), (8, _not_applied())]),
            (8, [(12, _observed()), (12, _gap())]),
            (11, [(24, _evidence())]),
            (11, [(24, _verdicts())]),
        ],
    )


def _lost_by_effect() -> Panel:
    reading = Reading(
        "Messages lost on the hop topic to effect, by arm and effect. Red: the arm promises that none is.",
        "0 where it is promised.",
        runbooks=("EventsLost",),
    )
    queries = [now(q.by_effect(LOST, "process"), "{{arm}} {{effect}}")]
    return number("Lost, by arm and effect", reading, queries, "short", promise="no_loss")


def _duplicated_by_effect() -> Panel:
    reading = Reading(
        "Applications beyond the first, by arm and effect. Red: the arm promises that there are none.",
        "0 where it is promised; email of at_least_once doubles with its charge.",
        runbooks=("EffectDuplicated",),
    )
    queries = [now(q.by_effect(EXTRA, "process"), "{{arm}} {{effect}}")]
    return number("Duplicated, by arm and effect", reading, queries, "short", promise="no_duplicate")


def _publish_lost() -> Panel:
    reading = Reading("Intents that never reached their topic and wait in no outbox.", "0 for outbox and cdc.")
    queries = [now(q.on_hop(LOST, "publish"), "{{arm}}")]
    return number("Lost between intent and topic", reading, queries, "short", promise="no_loss")


def _publish_doubled() -> Panel:
    reading = Reading(
        "Second records of one message id on a topic: a delete of the relay that was not confirmed.",
        "few after a kill of the relay, never lost ones. Dedup downstream takes them out.",
    )
    queries = [now(q.on_hop(EXTRA, "publish"), "{{arm}}")]
    return number("Duplicated on the topic", reading, queries, "short", promise="no_duplicate")


def _ghosts() -> Panel:
    reading = Reading(
        "Records and effects without an intent: something was published that was never committed.",
        "0; dual_write_before_commit makes them.",
        runbooks=("UnexpectedEffect",),
    )
    queries = [now(q.UNEXPECTED, "{{arm}}")]
    return number("Unexpected (ghosts), by arm", reading, queries, "short", promise="no_loss")


def _retracted() -> Panel:
    reading = Reading("Losses that were counted and then found after all: the auditor was too quick.", "0.")
    bounds = ((None, NEUTRAL), (1.0, BROKEN))
    return number("Losses taken back", reading, [now(q.RETRACTED, "{{arm}}")], "short", bounds=bounds)


def _lost() -> Panel:
    reading = Reading("Lost, over time, by arm: the effect that lost most. Compare with the fault windows.", "flat.")
    queries = [over_time(q.on_hop(LOST, "process"), "{{arm}}")]
    return chart("Lost over time, by arm", reading, queries, "short", steps=True)


def _duplicated() -> Panel:
    reading = Reading("Applications beyond the first, over time, by arm: the effect with most.", "flat.")
    queries = [over_time(q.on_hop(EXTRA, "process"), "{{arm}}")]
    return chart("Duplicated over time, by arm", reading, queries, "short", steps=True)


def _inbox() -> Panel:
    reading = Reading(
        "Messages that the inbox of effectively_once met again: duplicate (skipped), resumed (an attempt that died), "
        "conflict (same id, other payload).",
        "0 without faults; a burst after a kill is what dedup is for.",
        runbooks=("DedupHitsSustained",),
    )
    queries = [over_time(q.decisions_per_s("process"), "{{arm}} {{decision}}")]
    return chart("Dedup hits per second: inbox", reading, queries, "cps")


def _accept() -> Panel:
    reading = Reading(
        "Requests that came again with a known Idempotency-Key.", "as many as the load repeats on purpose."
    )
    queries = [over_time(q.decisions_per_s("accept"), "{{arm}} {{decision}}")]
    return chart("Dedup hits per second: accept", reading, queries, "cps")


def _charge() -> Panel:
    reading = Reading(
        "Charges that the provider knew by their key and did not repeat. Only effectively_once sends keys.",
        "0 without faults.",
    )
    queries = [over_time(q.decisions_per_s("charge"), "{{arm}} {{decision}}")]
    return chart("Dedup hits per second: charge", reading, queries, "cps")


def _share() -> Panel:
    reading = Reading(
        "Share of duplicates in all decisions of the inbox. Sustained: something upstream publishes twice.",
        "below 1 %; a peak of seconds after a kill.",
        runbooks=("DedupHitsSustained",),
    )
    queries = [over_time(q.DUPLICATE_SHARE, "{{arm}}")]
    return chart("Share of duplicates, by arm", reading, queries, "percentunit", limit=0.01)


def _redeliveries() -> Panel:
    reading = Reading(
        "Records handed to an arm again within the rate window (20 s or more) before each point, as far as its process "
        "can know. An arm without an inbox forgets with its life, so this is a hint and never evidence.",
        "0 without faults and rebalances.",
    )
    return chart("Redeliveries within the window, by arm", reading, [over_time(q.REDELIVERED, "{{arm}}")], "short")


def _not_applied() -> Panel:
    reading = Reading("Effects that failed, were refused or are uncertain, a second.", "0 while the provider is well.")
    queries = [over_time(q.NOT_APPLIED_PER_S, "{{arm}} {{outcome}}")]
    return chart("Effects not applied per second, by arm", reading, queries, "cps")


def _observed() -> Panel:
    reading = Reading(
        "Applications as the living processes counted them, of the effect with most: a killed process takes its count "
        "with it, so the line falls. The audited figure beside it does not.",
        "a fall under a kill.",
    )
    queries = [over_time(q.OBSERVED, "{{arm}} observed", "A"), over_time(q.AUDITED, "{{arm}} audited", "B")]
    return chart("Applications, observed and audited, by arm", reading, queries, "short", steps=True)


def _gap() -> Panel:
    reading = Reading(
        "Rows in the stores that no counter accounts for, after what a killed process took with it is explained. "
        "Trust the audited figure where it is not 0.",
        "0 soon after the drain.",
        runbooks=("TelemetryGap",),
    )
    queries = [now(q.TELEMETRY_GAP, "{{arm}} {{signal}}")]
    bounds = ((None, GOOD), (1.0, BROKEN))
    return number("Telemetry gap, by arm and signal", reading, queries, "short", bounds=bounds)


def _evidence() -> Panel:
    reading = Reading(
        "Every message that was found lost, duplicated or unexpected within the range and was not taken back, with "
        "where it was last seen and why. `lab explain MESSAGE` tells its whole life, `lab trace MESSAGE` its trace.",
        "no row.",
        fault="something is lost or doubled (`lab demo`)",
        runbooks=("EventsLost", "EffectDuplicated"),
    )
    columns = {
        "found_at": "found", "state": "what", "hop": "hop", "arm": "arm", "effect": "effect", "message": "message",
        "many": "times", "last_seen": "last seen", "why": "why", "trace_id": "trace",
    }  # fmt: skip
    links = {"trace": ("The trace of the request", "${console}/traces/${__value.text}")}
    return rows("Evidence, message by message", reading, [evidence(q.FINDINGS)], columns, links=links)


def _verdicts() -> Panel:
    reading = Reading(
        "What each row promises, and whether the last pass of the auditor found it kept. The verdict of a run, which "
        "also asks what was exercised, is `lab run`'s.",
        "kept so far.",
    )
    columns = {
        "hop": "hop", "arm": "arm", "effect": "effect", "promises": "promises", "verdict": "verdict",
        "expected": "expected", "lost": "lost", "extra_applications": "extra", "unexpected": "unexpected",
        "unexplained": "unexplained",
    }  # fmt: skip
    bad = ("lost", "extra", "unexpected", "unexplained")
    return rows("Promises, kept or broken", reading, [evidence(q.VERDICTS)], columns, bad=bad)
