"""Each alert on synthetic series, by promtool: it fires, it resolves, it is silent just below; resets, gaps, absences.

Series are written as promtool reads them: `0x30 3x60` is 31 times 0, then 61 times 3; `_` is none. A sample stands for
a second in the lab, and for 15 in production (SCRAPED_S); rules are evaluated every second in both.
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from dashboards import generate, rules
from dashboards.layout import CONSOLE
from dashboards.page import FILE, page
from dashboards.profiles import DEMO, PRODUCTION, PROFILES, Profile
from services.telemetry.catalogue import METRICS
from tests.dashboards.promql import faults_of
from tests.dashboards.tools import run

RUNBOOKS = Path(rules.__file__).parent / "runbooks"
ALERTS = list(rules.alerts(DEMO))
NAMES = list(dict.fromkeys(alert.name for alert in ALERTS))
SCRAPED_S = {DEMO: 1, PRODUCTION: 15}


class Firing(msgspec.Struct):
    """An alert that shall fire: its labels besides the name, and how its summary begins."""

    labels: dict[str, str]
    summary: str


class Case(msgspec.Struct):
    """A history, and what shall fire when: at a second, these and no others of the alert."""

    alert: str
    says: str
    series: dict[str, str]
    expected: dict[int, list[Firing]]


def row(metric: str, arm: str, effect: str = "record", **more: str) -> str:
    labels = {"hop": "process", "arm": arm, "effect": effect, **more}
    said = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{metric}{{{said}}}"


def fires(severity: str, summary: str, **labels: str) -> list[Firing]:
    return [Firing({"severity": severity, **labels}, summary)]


LOST = row("delivery_audit_lost_total", "effectively_once", instance="auditor")
NO_LOSS = {row("delivery_promise_info", "effectively_once", promise="no_loss"): "1x400"}
PROMISING = {"hop": "process", "arm": "effectively_once", "effect": "record"}
FREE_LOST = row("delivery_audit_lost_total", "at_most_once", instance="auditor")
FREE = {"hop": "process", "arm": "at_most_once", "effect": "record"}
EXTRA = row("delivery_audit_extra_applications_total", "effectively_once", instance="auditor")
GHOSTS = row("delivery_audit_unexpected_total", "effectively_once", instance="auditor")
EXPECTED = "delivery_audit_expected_total"
LETTERS = 'delivery_topic_end_offsets_total{place="dead_letters", arm="a", topic="t"}'
RETRIED = 'delivery_topic_end_offsets_total{place="retry", arm="a", topic="r"}'
COMMITTED = 'delivery_group_committed_offsets_total{arm="a", topic="orders.v1"}'
LAG = 'delivery_group_lag_seconds{arm="a", topic="orders.v1", partition="0"}'
DUPLICATES = 'delivery_dedup_decisions_total{hop="process", arm="a", decision="duplicate"}'
FIRST = 'delivery_dedup_decisions_total{hop="process", arm="a", decision="first"}'
REPEATED = 'delivery_dedup_decisions_total{hop="accept", arm="a", decision="duplicate"}'
ACCEPTED = 'delivery_dedup_decisions_total{hop="accept", arm="a", decision="first"}'
REDELIVERED = 'delivery_topic_end_offsets_total{place="redelivery", arm="a", topic="d"}'
DEPTH = 'delivery_dead_letters_depth{arm="a"}'
OLDEST = 'delivery_outbox_oldest_age_seconds{arm="outbox", source="orders"}'
SLOT = 'delivery_slot_lag_bytes{arm="cdc"}'
GAP = 'delivery_audit_telemetry_gap{arm="a", signal="record"}'
AUDITED = "delivery_audit_last_success_timestamp_seconds"
UP = 'delivery_part_up{part="relay", process="relay#0"}'
RESTARTS = 'delivery_part_restarts_total{part="relay", process="relay#0"}'


def lost(many: int) -> list[Firing]:
    return fires("page", f"LOST {many} at process, effectively_once, record: a promise is broken", **PROMISING)


def budget(metric: str, arm: str, alert: str, word: str) -> list[Case]:
    bad, all_ = row(metric, arm), row(EXPECTED, arm)
    labels = {"hop": "process", "arm": arm, "effect": "record", "window": "5m"}
    return [
        Case(
            alert,
            "2 % for minutes",
            {bad: "0+0.04x600", all_: "0+2x600"},
            {400: fires("page", f"2% of {arm}, record {word} within 5m: the budget is 0.1%", **labels)},
        ),
        Case(
            alert,
            "resolves a minute after the last, long before the long window is clean",
            {bad: "0+0.04x400 16x200", all_: "0+2x600"},
            {400: fires("page", f"2% of {arm}, record {word} within 5m: the budget is 0.1%", **labels), 470: []},
        ),
        Case(
            alert,
            "counters begin anew, and it burns on",
            {bad: "0+0.04x300 0+0.04x300", all_: "0+2x300 0+2x300"},
            {340: fires("page", f"2% of {arm}, record {word} within 5m: the budget is 0.1%", **labels)},
        ),
        Case(
            alert, "counters begin anew, and nothing burns", {bad: "90x300 0x300", all_: "900+2x300 0+2x300"}, {400: []}
        ),
        Case(alert, "1.4 % is just below 14.4 times the budget", {bad: "0+0.028x600", all_: "0+2x600"}, {400: []}),
        Case(alert, "one kill, over for a minute", {bad: "0x300 20x300", all_: "0+2x600"}, {400: []}),
        Case(alert, "half of too few events", {bad: "0+0.5x600", all_: "0+1x600"}, {400: []}),
        Case(alert, "no series", {}, {400: []}),
    ]


CASES = [
    Case(
        "EventsLost",
        "fires where no loss is promised, and resolves",
        {LOST: "0x30 3x60", **NO_LOSS},
        {30: [], 31: lost(3), 40: lost(3), 45: []},
    ),
    Case(
        "EventsLost",
        "a second loss half a minute later fires again",
        {LOST: "0x30 3x29 5x30", **NO_LOSS},
        {33: lost(3), 50: [], 62: lost(2), 75: []},
    ),
    Case(
        "EventsLost",
        "information where nothing is promised",
        {FREE_LOST: "0x30 7x60", **NO_LOSS},
        {32: fires("info", "LOST 7 at process, at_most_once, record (nothing is promised)", **FREE), 45: []},
    ),
    Case("EventsLost", "a lab that has lost before is calm", {LOST: "14x90", **NO_LOSS}, {5: [], 60: []}),
    Case(
        "EventsLost",
        "a rise while nobody scraped is seen after",
        {LOST: "0x30 _x120 3x30", **NO_LOSS},
        {100: [], 152: lost(3), 170: []},
    ),
    Case(
        "EventsLost", "a loss after the counter began anew", {LOST: "5x30 0x5 1x60", **NO_LOSS}, {33: [], 38: lost(1)}
    ),
    Case("EventsLost", "the counter begins anew, nothing is lost", {LOST: "5x30 0x60", **NO_LOSS}, {31: [], 50: []}),
    Case(
        "EventsLost",
        "a loss seconds after the series appeared is counted and not estimated",
        {LOST: "_x30 0x2 3x30", **NO_LOSS},
        {33: lost(3), 36: lost(3), 60: []},
    ),
    Case("EventsLost", "no series", NO_LOSS, {31: []}),
    Case(
        "EffectDuplicated",
        "fires where no duplicate is promised, and resolves",
        {EXTRA: "0x30 2x60", row("delivery_promise_info", "effectively_once", promise="no_duplicate"): "1x90"},
        {
            30: [],
            32: fires("page", "DOUBLED 2 at process, effectively_once, record: a promise is broken", **PROMISING),
            45: [],
        },
    ),
    Case(
        "EffectDuplicated",
        "a promise of no loss is none of no duplicate",
        {EXTRA: "0x30 2x60", **NO_LOSS},
        {32: fires("info", "DOUBLED 2 at process, effectively_once, record (nothing is promised)", **PROMISING)},
    ),
    Case("EffectDuplicated", "the counter begins anew", {EXTRA: "5x30 0x60"}, {32: [], 50: []}),
    Case("EffectDuplicated", "one that stays", {EXTRA: "9x90"}, {60: []}),
    Case(
        "UnexpectedEffect",
        "fires and resolves",
        {GHOSTS: "0x30 1x60", **NO_LOSS},
        {
            32: fires(
                "page", "1 without an intent at process, effectively_once, record: a promise is broken", **PROMISING
            ),
            45: [],
        },
    ),
    Case(
        "UnexpectedEffect",
        "information without a promise",
        {GHOSTS: "0x30 1x60"},
        {
            32: fires(
                "info", "1 without an intent at process, effectively_once, record (nothing is promised)", **PROMISING
            )
        },
    ),
    Case("UnexpectedEffect", "the counter begins anew", {GHOSTS: "5x30 0x60"}, {32: [], 50: []}),
    Case("UnexpectedEffect", "one that stays", {GHOSTS: "2x90", **NO_LOSS}, {5: [], 60: []}),
    *budget("delivery_audit_lost_total", "at_most_once", "LossBudgetBurn", "lost"),
    *budget("delivery_audit_extra_applications_total", "at_least_once", "DuplicateBudgetBurn", "doubled"),
    Case(
        "DedupHitsSustained",
        "one hit in ten, on and on",
        {DUPLICATES: "0+1x200", FIRST: "0+9x200"},
        {29: [], 120: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a")},
    ),
    Case(
        "DedupHitsSustained",
        "a burst of one kill",
        {DUPLICATES: "0x60 50x200", FIRST: "0+9x260"},
        {70: [], 95: [], 120: []},
    ),
    Case("DedupHitsSustained", "just below one in a hundred", {DUPLICATES: "0+0.1x300", FIRST: "0+10x300"}, {200: []}),
    Case(
        "DedupHitsSustained",
        "a replay sends again on purpose",
        {DUPLICATES: "0+1x200", FIRST: "0+9x200", REDELIVERED: "0+1x200"},
        {120: []},
    ),
    Case(
        "DedupHitsSustained",
        "resolves when the last is a quarter of a minute ago",
        {DUPLICATES: "0+1x120 120x80", FIRST: "0+9x200"},
        {119: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a"), 140: []},
    ),
    Case(
        "DedupHitsSustained",
        "counters begin anew, and it goes on",
        {DUPLICATES: "0+1x60 0+1x140", FIRST: "0+9x60 0+9x140"},
        {
            at: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a")
            for at in (62, 95, 150)
        },
    ),
    Case(
        "DedupHitsSustained",
        "counters begin anew, and there is none",
        {DUPLICATES: "500x60 0x200", FIRST: "0+9x60 0+9x200"},
        {62: [], 95: [], 150: []},
    ),
    Case(
        "DedupHitsSustained",
        "clients that ask again at accept",
        {REPEATED: "0+0.5x300", ACCEPTED: "0+9.5x300"},
        {60: [], 120: [], 280: []},
    ),
    Case(
        "DedupHitsSustained",
        "as many at process, and clients that ask again",
        {REPEATED: "0+0.5x300", ACCEPTED: "0+9.5x300", DUPLICATES: "0+0.5x300", FIRST: "0+9.5x300"},
        {120: fires("info", "5% of the decisions at process, a are duplicates", hop="process", arm="a")},
    ),
    Case("DedupHitsSustained", "no series", {FIRST: "0+9x200"}, {120: []}),
    Case(
        "DeadLetterInflow",
        "ten at once, and a minute later silence",
        {LETTERS: "0x30 10x120"},
        {30: [], 40: fires("page", "10 letters of a within a minute", arm="a"), 100: []},
    ),
    Case("DeadLetterInflow", "a single poison record", {LETTERS: "0x30 1x120"}, {40: []}),
    Case("DeadLetterInflow", "five are not more than five", {LETTERS: "0x60 5x120"}, {70: []}),
    Case(
        "DeadLetterInflow",
        "the topic begins anew, then eight",
        {LETTERS: "90x60 0x5 8x120"},
        {62: [], 70: fires("page", "8 letters of a within a minute", arm="a"), 140: []},
    ),
    Case("DeadLetterInflow", "the topic begins anew, and stays empty", {LETTERS: "90x60 0x120"}, {62: [], 100: []}),
    Case("DeadLetterInflow", "ten in five minutes, of which nobody was told", {LETTERS: "0x30 _x300 10x60"}, {340: []}),
    Case("DeadLetterInflow", "no series", {}, {40: []}),
    Case(
        "DeadLetterBacklog",
        "one left alone for a minute, until it is looked at",
        {DEPTH: "0x30 1x90 0x30"},
        {60: [], 95: fires("info", "1 letters of a are parked and nobody looks", arm="a"), 125: []},
    ),
    Case("DeadLetterBacklog", "redriven at once", {DEPTH: "0x30 9x50 0x60"}, {95: []}),
    Case(
        "GroupLagGrowing",
        "grows beyond ten seconds while others commit",
        {LAG: "0x10 0+1x60 0x30", COMMITTED: "0+1x120"},
        {22: [], 45: fires("page", "a is 34s behind and does not catch up", arm="a"), 80: []},
    ),
    Case(
        "GroupLagGrowing",
        "behind, and nobody commits",
        {LAG: "7x90", COMMITTED: "5x90"},
        {10: [], 40: fires("page", "a is 7s behind and does not catch up", arm="a")},
    ),
    Case(
        "GroupLagGrowing",
        "behind, and somebody commits again",
        {LAG: "7x90", COMMITTED: "5x50 5+9x40"},
        {40: fires("page", "a is 7s behind and does not catch up", arm="a"), 55: []},
    ),
    Case(
        "GroupLagGrowing",
        "the arm is gone, and its commits with it",
        {LAG: "7x90"},
        {40: fires("page", "a is 7s behind and does not catch up", arm="a")},
    ),
    Case("GroupLagGrowing", "a burst that drains", {LAG: "0x5 30-1x60", COMMITTED: "0+50x120"}, {30: [], 45: []}),
    Case(
        "GroupLagGrowing",
        "the topic begins anew, and is consumed",
        {LAG: "7x90", COMMITTED: "900+5x30 0+5x60"},
        {50: []},
    ),
    Case("GroupLagGrowing", "five seconds are not more than five", {LAG: "5x90", COMMITTED: "5x90"}, {60: []}),
    Case(
        "RetryStorm",
        "one in ten for a minute and a half",
        {RETRIED: "0+1x200", COMMITTED: "0+10x200"},
        {10: [], 100: fires("page", "a retries 10% of what it consumes", arm="a")},
    ),
    Case(
        "RetryStorm",
        "resolves as the share falls",
        {RETRIED: "0+1x100 100x100", COMMITTED: "0+10x200"},
        {100: fires("page", "a retries 10% of what it consumes", arm="a"), 135: []},
    ),
    Case(
        "RetryStorm",
        "topics begin anew, and it goes on",
        {RETRIED: "0+1x60 0+1x140", COMMITTED: "0+10x60 0+10x140"},
        {at: fires("page", "a retries 10% of what it consumes", arm="a") for at in (62, 100, 150)},
    ),
    Case(
        "RetryStorm",
        "topics begin anew, and nothing is retried",
        {RETRIED: "900x60 0x140", COMMITTED: "9000+10x60 0+10x140"},
        {62: [], 100: [], 150: []},
    ),
    Case("RetryStorm", "no series of what is consumed", {RETRIED: "0+1x200"}, {100: []}),
    Case("RetryStorm", "just below one in twenty", {RETRIED: "0+0.5x200", COMMITTED: "0+10x200"}, {100: []}),
    Case("RetryStorm", "one ambiguous time-out", {RETRIED: "0x60 1x140", COMMITTED: "0x200"}, {100: []}),
    Case(
        "RelayStalled",
        "the oldest row is six seconds old, then published",
        {OLDEST: "0x10 0+1x20 0x30"},
        {15: [], 17: fires("page", "the oldest row of outbox has waited 6s to be published", arm="outbox"), 40: []},
    ),
    Case(
        "RelayStalled",
        "a restart of the relay takes less",
        {OLDEST: "0x10 0+1x5 0x30"},
        {16: [], 20: []},
    ),
    Case(
        "SlotHoldingWal",
        "more than the bound, and let go",
        {SLOT: "0x10 67108864x30 0x10"},
        {5: [], 20: fires("page", "the slot of cdc holds 64MiB of the write-ahead log", arm="cdc"), 45: []},
    ),
    Case("SlotHoldingWal", "the bound itself", {SLOT: "33554432x30"}, {20: []}),
    Case(
        "AuditStale",
        "a frozen auditor is not scraped, and still missed",
        {AUDITED: "0+1x30 _x60 95+1x30"},
        {30: [], 40: [], 45: fires("page", "no audit for 15s: nobody sees what is lost"), 95: []},
    ),
    Case(
        "AuditStale",
        "an auditor that answers and does not audit",
        {AUDITED: "0+1x30 30x60"},
        {40: [], 45: fires("page", "no audit for 15s: nobody sees what is lost")},
    ),
    Case("AuditStale", "ten seconds are not more than ten", {AUDITED: "0+1x30 30x9 41+1x50"}, {40: [], 41: [], 60: []}),
    Case("AuditStale", "a lab without an auditor", {}, {45: []}),
    Case(
        "TelemetryGap",
        "rows that no counter knows",
        {GAP: "0x10 4x20 0x9"},
        {5: [], 15: fires("info", "4 rows of a, record that no counter knows", arm="a", signal="record"), 35: []},
    ),
    Case("TelemetryGap", "every row is known", {GAP: "0x60"}, {30: []}),
    Case(
        "PartDown",
        "held for five seconds, and back",
        {UP: "1x100 0x20 1x30"},
        {102: [], 105: fires("page", "relay#0 does not answer", process="relay#0"), 122: []},
    ),
    Case(
        "PartDown",
        "down for good",
        {UP: "1x100 0x200"},
        {250: fires("page", "relay#0 does not answer", process="relay#0")},
    ),
    Case("PartDown", "a restart within two seconds", {UP: "1x100 0x1 1x30"}, {101: [], 104: []}),
    Case(
        "PartDown",
        "a lab that starts again after a minute",
        {UP: "1x60 0x20 _x60 0x60 1x60"},
        {150: [], 170: [], 200: []},
    ),
    Case("PartDown", "a lab that starts", {UP: "0x40 1x60"}, {10: [], 40: []}),
    Case(
        "PartDown",
        "a part that never came",
        {UP: "0x200"},
        {60: [], 120: fires("page", "relay#0 does not answer", process="relay#0")},
    ),
    Case("PartDown", "no series", {}, {10: []}),
    Case(
        "PartRestarted",
        "once, and over",
        {RESTARTS: "0x30 1x60"},
        {30: [], 32: fires("info", "relay#0 was started again", process="relay#0"), 45: []},
    ),
    Case(
        "PartRestarted",
        "another supervisor counts from 0, and starts it again",
        {RESTARTS: "7x30 0x5 1x60"},
        {33: [], 38: fires("info", "relay#0 was started again", process="relay#0"), 50: []},
    ),
    Case("PartRestarted", "another supervisor counts from 0", {RESTARTS: "7x30 0x60"}, {32: [], 45: []}),
    Case("Watchdog", "always", {}, {0: fires("info", "always fires"), 90: fires("info", "always fires")}),
]


def risen(alert: str, metric: str, promise: str, page: str, info: str) -> list[Case]:
    """In production: a rise, where it breaks a promise and where it breaks none."""
    bad = row(metric, "effectively_once")
    promised = {row("delivery_promise_info", "effectively_once", promise=promise): "1x60"}
    paged, told = fires("page", page, **PROMISING), fires("info", info, **PROMISING)
    return [
        Case(alert, "fires, and resolves", {bad: "0x20 3x40", **promised}, {310: [], 320: paged, 610: paged, 630: []}),
        Case(alert, "information without a promise", {bad: "0x20 3x40"}, {310: [], 320: told, 610: told, 630: []}),
        Case(alert, "one that stays", {bad: "14x60", **promised}, {20: [], 310: [], 800: []}),
        Case(alert, "the counter begins anew", {bad: "14x20 0x40", **promised}, {320: [], 610: [], 800: []}),
    ]


def budget_in_production(metric: str, arm: str, alert: str, word: str) -> list[Case]:
    bad, all_ = row(metric, arm), row(EXPECTED, arm)

    def burns(share: str, *windows: str) -> list[Firing]:
        labels = {"hop": "process", "arm": arm, "effect": "record"}
        words = f"of {arm}, record {word} within"
        return [
            firing
            for window in windows
            for firing in fires("page", f"{share} {words} {window}: the budget is 0.1%", window=window, **labels)
        ]

    return [
        Case(
            alert,
            "2 % for an hour, then none",
            {bad: "0+0.6x240 144x160", all_: "0+30x400"},
            {3600: burns("2%", "1h", "6h"), 4800: burns("1.5%", "6h"), 5700: []},
        ),
        Case(alert, "1 % is for the long pair alone", {bad: "0+0.3x240", all_: "0+30x240"}, {3600: burns("1%", "6h")}),
        Case(alert, "half a per cent is just below both", {bad: "0+0.15x240", all_: "0+30x240"}, {900: [], 3600: []}),
        Case(alert, "one kill", {bad: "0x200 20x60", all_: "0+30x260"}, {3020: [], 3300: [], 3800: []}),
        Case(
            alert,
            "counters begin anew, and it burns on",
            {bad: "0+0.6x100 0+0.6x100", all_: "0+30x100 0+30x100"},
            {1520: burns("2%", "1h", "6h"), 1800: burns("2%", "1h", "6h")},
        ),
    ]


IN_PRODUCTION = [
    *risen(
        "EventsLost",
        "delivery_audit_lost_total",
        "no_loss",
        "LOST 3 at process, effectively_once, record: a promise is broken",
        "LOST 3 at process, effectively_once, record (nothing is promised)",
    ),
    *risen(
        "EffectDuplicated",
        "delivery_audit_extra_applications_total",
        "no_duplicate",
        "DOUBLED 3 at process, effectively_once, record: a promise is broken",
        "DOUBLED 3 at process, effectively_once, record (nothing is promised)",
    ),
    *risen(
        "UnexpectedEffect",
        "delivery_audit_unexpected_total",
        "no_loss",
        "3 without an intent at process, effectively_once, record: a promise is broken",
        "3 without an intent at process, effectively_once, record (nothing is promised)",
    ),
    *budget_in_production("delivery_audit_lost_total", "at_most_once", "LossBudgetBurn", "lost"),
    *budget_in_production("delivery_audit_extra_applications_total", "at_least_once", "DuplicateBudgetBurn", "doubled"),
    Case(
        "DedupHitsSustained",
        "one hit in ten, on and on, until it ends",
        {DUPLICATES: "0+15x40 600x40", FIRST: "0+135x80"},
        {
            120: [],
            300: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a"),
            600: fires("info", "10% of the decisions at process, a are duplicates", hop="process", arm="a"),
            680: [],
        },
    ),
    Case(
        "DedupHitsSustained",
        "clients that ask again at accept",
        {REPEATED: "0+7x80", ACCEPTED: "0+133x80"},
        {300: [], 600: [], 1100: []},
    ),
    Case(
        "DedupHitsSustained",
        "a burst of one kill",
        {DUPLICATES: "0x40 50x60", FIRST: "0+135x100"},
        {680: [], 740: [], 900: []},
    ),
    Case(
        "DedupHitsSustained",
        "counters begin anew, and there is none",
        {DUPLICATES: "500x40 0x40", FIRST: "0+135x40 0+135x40"},
        {620: [], 760: [], 1000: []},
    ),
    Case("DedupHitsSustained", "just below one in a hundred", {DUPLICATES: "0+1x80", FIRST: "0+100x80"}, {900: []}),
    Case(
        "DeadLetterInflow",
        "three at every scrape, for ten minutes",
        {LETTERS: "0+3x40 120x40"},
        {120: [], 300: fires("page", "12 letters of a within a minute", arm="a"), 680: []},
    ),
    Case("DeadLetterInflow", "ten at once", {LETTERS: "0x20 10x60"}, {330: [], 400: [], 500: []}),
    Case("DeadLetterInflow", "five a minute", {LETTERS: "0 1x2 2 3 4 5 6x2 7 8 9 10 11x2 12 13 14 15x40"}, {240: []}),
    Case("DeadLetterInflow", "the topic begins anew", {LETTERS: "90x40 0x40"}, {620: [], 740: []}),
    Case(
        "DeadLetterBacklog",
        "one left alone for an hour, until it is looked at",
        {DEPTH: "0x20 1x300 0x20"},
        {3910: [], 3920: fires("info", "1 letters of a are parked and nobody looks", arm="a"), 4835: []},
    ),
    Case("DeadLetterBacklog", "redriven within the hour", {DEPTH: "0x20 9x230 0x60"}, {3760: [], 3920: []}),
    Case(
        "GroupLagGrowing",
        "grows for minutes while others commit, then is gone",
        {LAG: "0x8 0+15x60 0x40", COMMITTED: "0+15x120"},
        {500: [], 545: fires("page", "a is 6m 45s behind and does not catch up", arm="a"), 1055: []},
    ),
    Case(
        "GroupLagGrowing",
        "behind, nobody commits, until somebody does",
        {LAG: "90x60", COMMITTED: "5x40 5+9x20"},
        {290: [], 320: fires("page", "a is 1m 30s behind and does not catch up", arm="a"), 635: []},
    ),
    Case("GroupLagGrowing", "a burst that drains", {LAG: "0x5 900-12x60", COMMITTED: "0+50x80"}, {400: [], 700: []}),
    Case(
        "GroupLagGrowing",
        "the topic begins anew, and is consumed",
        {LAG: "90x90", COMMITTED: "900+5x30 0+5x60"},
        {465: [], 900: []},
    ),
    Case("GroupLagGrowing", "a minute is not more than one", {LAG: "60x60", COMMITTED: "5x60"}, {400: [], 800: []}),
    Case(
        "RetryStorm",
        "one in ten for ten minutes",
        {RETRIED: "0+3x40 120x60", COMMITTED: "0+30x100"},
        {300: [], 500: fires("page", "a retries 10% of what it consumes", arm="a"), 800: []},
    ),
    Case("RetryStorm", "just below one in twenty", {RETRIED: "0+1x80", COMMITTED: "0+21x80"}, {700: [], 1100: []}),
    Case(
        "RetryStorm",
        "topics begin anew",
        {RETRIED: "900x40 0x40", COMMITTED: "9000+30x40 0+30x40"},
        {620: [], 1000: []},
    ),
    Case(
        "RelayStalled",
        "the oldest row waits for minutes, then is published",
        {OLDEST: "0x8 0+15x20 0x20"},
        {
            325: [],
            335: fires("page", "the oldest row of outbox has waited 3m 15s to be published", arm="outbox"),
            455: [],
        },
    ),
    Case("RelayStalled", "a restart of the relay takes less", {OLDEST: "0x8 0+15x6 0x20"}, {220: [], 235: [], 350: []}),
    Case(
        "SlotHoldingWal",
        "more than the bound, and let go",
        {SLOT: "0x10 536870912x30 0x10"},
        {160: [], 170: fires("page", "the slot of cdc holds 512MiB of the write-ahead log", arm="cdc"), 635: []},
    ),
    Case("SlotHoldingWal", "the bound itself", {SLOT: "268435456x30"}, {200: []}),
    Case(
        "AuditStale",
        "a frozen auditor is not scraped, and still missed",
        {AUDITED: "0+15x20 _x20 615+15x20"},
        {479: [], 490: fires("page", "no audit for 3m 10s: nobody sees what is lost"), 620: []},
    ),
    Case("AuditStale", "an audit within every scrape", {AUDITED: "0+15x60"}, {14: [], 149: [], 614: []}),
    Case(
        "TelemetryGap",
        "rows that no counter knows, for minutes",
        {GAP: "0x4 4x20 0x9"},
        {190: [], 200: fires("info", "4 rows of a, record that no counter knows", arm="a", signal="record"), 395: []},
    ),
    Case("TelemetryGap", "rows that the next scrapes explain", {GAP: "0x4 4x5 0x20"}, {160: [], 200: [], 300: []}),
    Case(
        "PartDown",
        "held for five minutes, and back",
        {UP: "1x40 0x20 1x20"},
        {670: [], 680: fires("page", "relay#0 does not answer", process="relay#0"), 935: []},
    ),
    Case(
        "PartDown",
        "a part that never came",
        {UP: "0x40"},
        {140: [], 160: fires("page", "relay#0 does not answer", process="relay#0")},
    ),
    Case("PartDown", "a restart within two scrapes", {UP: "1x40 0x1 1x20"}, {620: [], 644: [], 700: []}),
    Case("PartDown", "a lab that starts", {UP: "0x5 1x20"}, {80: [], 160: []}),
    Case(
        "PartDown",
        "a lab that starts again after two minutes",
        {UP: "1x40 0x2 _x8 0x6 1x20"},
        {770: [], 825: [], 840: [], 1000: []},
    ),
    Case(
        "PartRestarted",
        "once, and over",
        {RESTARTS: "0x20 1x40"},
        {310: [], 320: fires("info", "relay#0 was started again", process="relay#0"), 630: []},
    ),
    Case("PartRestarted", "another supervisor counts from 0", {RESTARTS: "7x20 0x40"}, {320: [], 630: []}),
    Case("Watchdog", "always", {}, {0: fires("info", "always fires"), 900: fires("info", "always fires")}),
]
TABLE = {
    profile: [*cases, *(Case(name, "no series at all", {}, {60: [], 400: []}) for name in NAMES if name != "Watchdog")]
    for profile, cases in ((DEMO, CASES), (PRODUCTION, IN_PRODUCTION))
}
by_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


@by_profile
@pytest.mark.parametrize("alert", NAMES)
def test_on_synthetic_series(profile: Profile, alert: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(_rules_of(profile, alert)))
    cases = [case for case in TABLE[profile] if case.alert == alert]
    # every second, as in both profiles; a case of an hour at every fifth, or it takes a quarter of a minute
    for step, hours in (("1s", False), ("5s", True)):
        tests = [_promtool_test(c, SCRAPED_S[profile]) for c in cases if (max(c.expected) >= 3_600) == hours]
        file = tmp_path / f"test-{step}.yml"
        file.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": tests}))
        run("promtool", "test", "rules", file)


def _rules_of(profile: Profile, alert: str) -> dict[str, Any]:
    """An alert, and what is recorded for it: hours of every rule at every second would take minutes."""
    (group,) = rules.group(profile)["groups"]
    mine = [rule for rule in group["rules"] if rule.get("alert") == alert]
    read = [rule for rule in group["rules"] if any(rule.get("record", "none") in one["expr"] for one in mine)]
    return {"groups": [{**group, "rules": [*read, *mine]}]}


def _promtool_test(case: Case, scraped_s: int) -> dict[str, Any]:
    wanted = [
        {
            "eval_time": f"{at}s",
            "alertname": case.alert,
            "exp_alerts": [
                {"exp_labels": firing.labels, "exp_annotations": _annotations(case.alert, firing)} for firing in firings
            ],
        }
        for at, firings in case.expected.items()
    ]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"name": case.says, "interval": f"{scraped_s}s", "input_series": series, "alert_rule_test": wanted}


def _annotations(alert: str, firing: Firing) -> Mapping[str, str]:
    summary = next(a.summary for a in ALERTS if a.name == "Watchdog") if alert == "Watchdog" else firing.summary
    return {"summary": summary, "runbook_url": f"{CONSOLE}/runbooks/{alert}"}


@by_profile
def test_every_alert_is_shown_to_fire_to_resolve_and_in_a_case_of_its_own_to_be_silent(profile: Profile) -> None:
    cases = TABLE[profile]
    assert {case.alert for case in cases if any(case.expected.values())} == set(NAMES)
    assert {case.alert for case in cases if _resolves(case)} == set(NAMES) - {"Watchdog"}
    silent = {case.alert for case in cases if not any(case.expected.values()) and not case.says.startswith("no series")}
    assert silent == set(NAMES) - {"Watchdog"}


def _resolves(case: Case) -> bool:
    moments = [bool(case.expected[at]) for at in sorted(case.expected)]
    return (True, False) in pairwise(moments)


@by_profile
def test_every_alert_on_a_counter_is_shown_one_that_begins_anew(profile: Profile) -> None:
    reading = {name for name in NAMES if "_total" in str(_rules_of(profile, name))}
    shown = {case.alert for case in TABLE[profile] if re.search("begins? anew|began anew|counts from 0", case.says)}
    assert reading == shown


def test_the_table_of_the_design_is_complete() -> None:
    assert NAMES == [
        "EventsLost", "EffectDuplicated", "UnexpectedEffect", "LossBudgetBurn", "DuplicateBudgetBurn",
        "DedupHitsSustained", "DeadLetterInflow", "DeadLetterBacklog", "GroupLagGrowing", "RetryStorm", "RelayStalled",
        "SlotHoldingWal", "AuditStale", "TelemetryGap", "PartDown", "PartRestarted", "Watchdog",
    ]  # fmt: skip


@by_profile
def test_a_rule_asks_for_nothing_that_nobody_emits(profile: Profile) -> None:
    recorded = {record.name: {"hop", "arm", "effect"} for record in rules.records(profile)}
    exprs = [*(record.expr for record in rules.records(profile)), *(alert.expr for alert in rules.alerts(profile))]
    assert [fault for expr in exprs for fault in faults_of(expr, recorded)] == []


@by_profile
def test_what_is_recorded_stands_before_the_alerts_that_read_it(profile: Profile) -> None:
    (group,) = rules.group(profile)["groups"]
    kinds = ["record" if "record" in rule else "alert" for rule in group["rules"]]
    assert kinds == sorted(kinds, reverse=True)
    assert group["interval"] == "1s"


@by_profile
def test_no_rule_uses_what_only_one_version_of_prometheus_reads_or_what_is_forbidden(profile: Profile) -> None:
    text = generate.files()[f"rules-{profile.name}.yml"]
    assert not re.search(r"\ble=|absent|info\(|limitk|double_exponential|holt_winters|@ ", text)


def test_both_profiles_have_the_same_alerts_and_severities() -> None:
    demo, production = ({(a.name, a.severity) for a in rules.alerts(profile)} for profile in PROFILES)
    assert demo == production


@by_profile
def test_a_rate_window_holds_four_scrapes_of_what_it_reads(profile: Profile) -> None:
    """In the lab arms, auditor, probe and supervisor are scraped every second, all others every five."""
    exprs = [*(record.expr for record in rules.records(profile)), *(alert.expr for alert in rules.alerts(profile))]
    windows = [
        found for expr in exprs for found in re.findall(r"(?:increase|min_over_time)\([^\[]*\[(\d+)([smh])\]", expr)
    ]
    assert windows
    assert min(int(n) * {"s": 1, "m": 60, "h": 3600}[unit] for n, unit in windows) >= 4 * SCRAPED_S[profile]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_a_summary_has_the_numbers(alert: rules.Alert) -> None:
    assert "$value" in alert.summary or alert.name in ("PartDown", "PartRestarted", "Watchdog")


def test_alerts_and_runbooks_are_one_to_one() -> None:
    assert sorted(file.stem for file in RUNBOOKS.glob("*.md")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_says_what_it_means_how_to_confirm_what_to_do_and_how_to_make_it_happen(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n\n")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Confirm", "What to do", "Make it happen here"]
    confirm = text.split("## ")[1]
    assert "panel" in confirm or name in ("DeadLetterBacklog", "Watchdog")
    assert "`lab " in text
    assert "```sh\nlab up" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_names_only_panels_and_metrics_that_there_are(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    for query in re.findall(r"^- Query: `(.*)`", text, re.MULTILINE):
        assert faults_of(query, {record.name: {"hop", "arm", "effect"} for record in rules.records(DEMO)}) == []
    boards = "".join(text for name, text in generate.files().items() if name.startswith("lab-"))
    titles = set(re.findall(r'^   "title": "(.*)"', boards, re.MULTILINE))
    for line in (line for line in text.splitlines() if "panel" in line and line.startswith("- ")):
        for shown in re.findall(r"\*([A-Z][^*]+)\*", line):
            assert any(title.startswith(shown) for title in titles), f"{name}: no panel {shown!r}"
    assert set(re.findall(r"/runbooks/(\w+)", text)) <= set(NAMES)
    assert set(re.findall(r"`(delivery_\w+)`", text)) <= {metric.prometheus for metric in METRICS.values()}


def test_promtool_and_amtool_are_content_with_what_is_committed() -> None:
    for profile in PROFILES:
        run("promtool", "check", "rules", generate.GENERATED / f"rules-{profile.name}.yml")
    run("amtool", "check-config", generate.GENERATED / "alertmanager.yml")


def test_no_two_rules_make_the_same_alert() -> None:
    for profile in PROFILES:
        most = Counter((a.name, a.severity, a.window) for a in rules.alerts(profile)).most_common(1)
        assert most[0][1] == 1


def test_the_page_of_alerts_is_what_the_code_would_write() -> None:
    assert FILE.read_text() == page(), "out of date: run `make docs`"
