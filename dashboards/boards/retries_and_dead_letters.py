"""Retries and dead letters: tiers, reasons, depth, the circuit, redrives."""

from typing import Any, Final

from dashboards import queries as q
from dashboards.layout import board
from dashboards.palette import BROKEN, EXPECTED, GOOD
from dashboards.panels import Panel, Reading, bars, chart, number, states
from dashboards.sources import now, over_time
from services.domain.failure_policy import TIERS

UID: Final = "lab-retries-and-dead-letters"


def retries_and_dead_letters() -> dict[str, Any]:
    """The board."""
    return board(
        UID,
        "4 · Retries and dead letters",
        "What failed and may pass, what never will, and what was sent again.",
        [
            (5, [(8, _depth()), (8, _waiting_now()), (8, _arrived())]),
            (5, [(8, _oldest()), (16, _circuits())]),
            (8, [(8, _inflow()), (8, _tiers()), (8, _reasons())]),
            (8, [(8, _waiting()), (8, _share()), (8, _letters_per_minute())]),
            (8, [(8, _letter_reasons()), (8, _redrives()), (8, _redelivery())]),
        ],
    )


def _depth() -> Panel:
    reading = Reading(
        "Letters that are parked now: neither redriven nor discarded. `lab dlq list` shows them.",
        "0.",
        runbooks=("DeadLetterBacklog",),
    )
    bounds = ((None, GOOD), (1.0, EXPECTED), (100.0, BROKEN))
    return number("Dead letters parked, by arm", reading, [now(q.DEPTH, "{{arm}}")], "short", bounds=bounds)


def _oldest() -> Panel:
    reading = Reading(
        "How long ago the oldest of the parked letters was set down: how long nobody has looked. A letter that was "
        "redriven and came back is as old as before.",
        "0; minutes while somebody looks into it.",
        runbooks=("DeadLetterBacklog",),
    )
    bounds = ((None, GOOD), (1.0, EXPECTED))
    queries = [now(q.OLDEST_LETTER_S, "{{arm}}")]
    return number("Age of the oldest parked letter, by arm", reading, queries, "s", bounds=bounds)


def _waiting_now() -> Panel:
    reading = Reading("Messages in the retry tiers now.", "0.", runbooks=("RetryStorm",))
    bounds = ((None, GOOD), (1.0, EXPECTED))
    queries = [now(q.RETRY_WAITING_BY_ARM, "{{arm}}")]
    return number("Waiting in retry tiers, by arm", reading, queries, "short", bounds=bounds)


def _arrived() -> Panel:
    reading = Reading("Letters that ever went to each dead letter topic.", "0.", runbooks=("DeadLetterInflow",))
    bounds = ((None, GOOD), (1.0, EXPECTED))
    queries = [now(q.DEAD_LETTERS, "{{arm}}")]
    return number("Dead letters ever, by arm", reading, queries, "short", bounds=bounds)


def _circuits() -> Panel:
    reading = Reading(
        "Whether the circuit breaker holds back the calls to the provider: in an outage nobody calls but for a trial "
        "now and then, and waiting costs no attempt. Arms without tiers have none.",
        "green.",
        runbooks=("RetryStorm",),
    )
    words = {"0": ("calls pass", GOOD), "1": ("calls held back", EXPECTED)}
    return states("Circuit to the provider, by arm", reading, [over_time(q.CIRCUITS, "{{arm}}")], words)


def _inflow() -> Panel:
    reading = Reading(
        "Messages that went to a retry tier, a second, by the topics' end offsets: no kill takes them away.",
        "0 while the provider is well.",
        runbooks=("RetryStorm",),
    )
    return chart("Retries per second, by arm", reading, [over_time(q.RETRY_INFLOW_PER_S, "{{arm}}")], "cps")


def _tiers() -> Panel:
    reading = Reading(
        "To which tier messages went; in_place is a statement or call repeated at once. at_most_once and stock_faust "
        "have no tiers: a retry cannot repair what was dropped.",
        "0; with a brownout the first tier, then the later ones.",
    )
    queries = [over_time(q.RETRIES_PER_S, "{{arm}} {{tier}}")]
    return chart("Retries per second, by tier", reading, queries, "cps")


def _reasons() -> Panel:
    reading = Reading("Why messages are tried again.", "0.")
    queries = [over_time(q.RETRY_REASONS_PER_S, "{{reason}}")]
    return chart("Retries per second, by reason", reading, queries, "cps", stacked=True)


def _waiting() -> Panel:
    reading = Reading("How many wait in each tier.", "0, and back to it after a brownout.")
    tiers = zip("ABC", (tier.name for tier in TIERS), strict=True)
    queries = [over_time(q.waiting_in_tier(tier), f"{{{{arm}}}} {tier}", ref) for ref, tier in tiers]
    return chart("Waiting in retry tiers, by arm and tier", reading, queries, "short")


def _share() -> Panel:
    reading = Reading(
        "Records that went to the retry tiers as a share of those committed from the orders and refunds. at_least_once "
        "and effectively_once only: nobody else has tiers.",
        "0; above 5 % for long is a storm.",
        runbooks=("RetryStorm",),
    )
    queries = [over_time(q.RETRY_SHARE, "{{arm}}")]
    return chart("Share of retries, by arm", reading, queries, "percentunit", limit=0.05)


def _letters_per_minute() -> Panel:
    reading = Reading(
        "Letters a minute, by the topics' end offsets.", "0; single ones are data.", runbooks=("DeadLetterInflow",)
    )
    queries = [over_time(q.DEAD_LETTERS_PER_MIN, "{{arm}}")]
    return chart("Dead letters per minute, by arm", reading, queries, "short", limit=5)


def _letter_reasons() -> Panel:
    reading = Reading(
        "Why letters were set down, as the living processes counted it.",
        "no bar.",
        fault="a message is dead-lettered (`lab fault inject orders.v1 poison`)",
    )
    return bars("Dead letters, by arm and reason", reading, [now(q.DEAD_LETTER_REASONS, "{{arm}} {{reason}}")], "short")


def _redrives() -> Panel:
    reading = Reading(
        "Redriven letters by what became of them: applied (or met again and skipped), deferred, returned.",
        "none returned.",
    )
    queries = [over_time(q.REDRIVES, "{{arm}} {{outcome}}")]
    return chart("Redriven letters, by arm and outcome", reading, queries, "short", steps=True)


def _redelivery() -> Panel:
    reading = Reading("Redriven and replayed records that the arm has not taken yet.", "0; a ramp during a replay.")
    queries = [over_time(q.REDELIVERY_WAITING, "{{arm}}")]
    return chart("Waiting for redelivery, by arm", reading, queries, "short")
