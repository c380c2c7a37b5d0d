"""Overview: one screen for a stranger."""

from collections.abc import Iterable
from typing import Any, Final

from dashboards import queries as q
from dashboards.layout import board
from dashboards.palette import BROKEN, EXPECTED, GLOSSES, GOOD
from dashboards.panels import Reading, chart, number, prose, rows, states
from dashboards.sources import cells, now, over_time
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS

UID: Final = "lab-overview"


def overview() -> dict[str, Any]:
    """The board."""
    return board(
        UID,
        "1 · Overview",
        "What is lost, what is doubled, where, and since when.",
        [
            (4, [(4, _law()), (3, _alerts()), (5, _audit_age()), (4, _accepted()), (4, _published()), (4, _applied())]),
            (6, [(12, _lost()), (12, _duplicated())]),
            (4, [(12, _lost_since()), (12, _duplicated_since())]),
            (5, [(12, _consumer_arms()), (12, _publisher_arms())]),
            (11, [(24, _path())]),
            (8, [(12, _lost_so_far()), (12, _duplicated_so_far())]),
            (8, [(12, _throughput()), (12, _waiting())]),
            (6, [(24, _firing())]),
        ],
    )


def _law() -> Any:
    reading = Reading(
        "Messages that no term of the law accounts for: expected = applied once + duplicated + waiting + "
        "dead-lettered + discarded + uncertain + lost. It closes when there are none.",
        "closes. While load runs, reads are not atomic: a number that stays is wrong, one that goes is not.",
    )
    words = {"0": "closes"}
    return number("The law", reading, [now(q.UNEXPLAINED, "unexplained")], "short", bounds=_zero_is_good(), words=words)


def _alerts() -> Any:
    reading = Reading("Alerts firing now, without Watchdog. *Pages received* in the console lists what was sent.", "0.")
    return number("Alerts firing", reading, [now(q.ALERTS_FIRING, "firing")], "short", bounds=_zero_is_good())


def _audit_age() -> Any:
    reading = Reading(
        "How long ago the auditor last judged everything. All figures of loss and duplication are that old.",
        "below 5 s.",
        runbooks=("AuditStale",),
    )
    bounds = ((None, GOOD), (5.0, EXPECTED), (10.0, BROKEN))
    return number("Age of the last audit", reading, [now(q.AUDIT_AGE_S, "age")], "s", bounds=bounds)


def _accepted() -> Any:
    reading = Reading("Requests that became an intent, a second, over all producers.", "the rate of the load.")
    return number("Accepted per second", reading, [now(q.ACCEPTED_PER_S, "accepted")], "cps")


def _published() -> Any:
    reading = Reading("Messages that the broker confirmed, a second, over all publisher arms.", "as accepted.")
    return number("Published per second", reading, [now(q.PUBLISHED_PER_S, "published")], "cps")


def _applied() -> Any:
    reading = Reading(
        "Records applied a second, of the slowest consumer arm. Every arm sees every message.", "as published."
    )
    return number("Slowest arm per second", reading, [now(q.APPLIED_SLOWEST_PER_S, "applied")], "cps")


def _lost() -> Any:
    reading = Reading(
        "Messages lost, by arm, as the auditor counts them (of several effects, the one that lost most). "
        "Amber: nobody promised otherwise. Red: a promise is broken.",
        "0 for every arm that promises it; at_most_once loses when it is killed between commit and effect.",
        runbooks=("EventsLost",),
    )
    return number("Lost, by arm", reading, [now(q.LOST, "{{arm}}")], "short", promise="no_loss")


def _duplicated() -> Any:
    reading = Reading(
        "Applications beyond the first, by arm, as the auditor counts them (of several effects, the one with most). "
        "Amber: nobody promised otherwise. Red: a promise is broken.",
        "0 for every arm that promises it; at_least_once doubles when it is killed between effect and commit.",
        runbooks=("EffectDuplicated",),
    )
    return number("Duplicated, by arm", reading, [now(q.EXTRA, "{{arm}}")], "short", promise="no_duplicate")


def _lost_since() -> Any:
    reading = Reading("When the first loss within the chosen range was found, by arm.", "never.")
    words = {"0": "never"}
    return number("Losing since, by arm", reading, [now(q.LOST_SINCE_MS, "{{arm}}")], "dateTimeFromNow", words=words)


def _duplicated_since() -> Any:
    reading = Reading("When the first duplicate within the chosen range was found, by arm.", "never.")
    queries, words = [now(q.EXTRA_SINCE_MS, "{{arm}}")], {"0": "never"}
    return number("Duplicating since, by arm", reading, queries, "dateTimeFromNow", words=words)


def _path() -> Any:
    reading = Reading(
        "Every hop of the path: client to intent (accept), intent to topic (publish), topic to effect (process). "
        "Of every expected message the row says where it is now; per second is what passes this hop.",
        "expected = applied once; waiting moves with the load and is 0 soon after it.",
    )
    columns = {"hop": "hop", "arm": "arm", "effect": "effect", f"Value #{q.PATH_REF}": "per second"}
    columns |= {f"Value #{ref}": heading for ref, (_, heading) in q.PATH_STATES.items()}
    queries = [cells(q.path(state), ref) for ref, (state, _) in q.PATH_STATES.items()]
    queries.append(cells(q.PATH_PER_S, q.PATH_REF))
    units, bad = {"per second": "cps"}, ("lost", "duplicated")
    return rows("The path, hop by hop", reading, queries, columns, by="hop", units=units, bad=bad)


def _lost_so_far() -> Any:
    reading = Reading(
        "The lost count of every arm over time. A step under a fault window is what that fault cost.",
        "flat.",
    )
    return chart("Lost so far, by arm", reading, [over_time(q.LOST, "{{arm}}")], "short", steps=True)


def _duplicated_so_far() -> Any:
    reading = Reading(
        "Applications beyond the first, over time. A step under a fault window is what that fault cost.",
        "flat.",
    )
    return chart("Duplicated so far, by arm", reading, [over_time(q.EXTRA, "{{arm}}")], "short", steps=True)


def _throughput() -> Any:
    reading = Reading("Records applied a second by every arm, as the arms themselves count them.", "equal lines.")
    return chart("Applied per second, by arm", reading, [over_time(q.APPLIED_PER_S, "{{arm}}")], "cps")


def _waiting() -> Any:
    reading = Reading(
        "Messages held and not yet applied: in the outbox, and on the topics ahead of each arm's committed offset. "
        "For at_most_once 0 does not mean done: it commits first.",
        "near 0; a ramp that ends with its fault.",
        runbooks=("GroupLagGrowing", "RelayStalled"),
    )
    queries = [over_time(q.OUTBOX_PENDING, "{{arm}} in the outbox", "A"), over_time(q.LAG_MESSAGES, "{{arm}}", "B")]
    return chart("Waiting: outbox and lag in messages, by arm", reading, queries, "short")


def _firing() -> Any:
    reading = Reading("Which alerts fired when.", "no band but none.", fault="a fault fires an alert")
    words = {"1": ("firing", BROKEN)}
    return states("Alerts firing, over time", reading, [over_time(q.ALERTS, "{{alertname}} {{arm}}")], words)


def _consumer_arms() -> Any:
    return _glosses("Consumer arms: all on the same records, each with its own effects", CONSUMER_ARMS)


def _publisher_arms() -> Any:
    return _glosses("Publisher arms: from an intent to its topic", PUBLISHER_ARMS)


def _glosses(title: str, arms: Iterable[str]) -> Any:
    return prose(title, "\n".join(f"- **{arm}**: {GLOSSES[arm]}" for arm in arms))


def _zero_is_good() -> tuple[tuple[float | None, str], ...]:
    return ((None, GOOD), (1.0, BROKEN))
