"""Relay and Kafka: the outbox, the publish delay, lag, commits and rebalances."""

from typing import Any, Final

from dashboards import queries as q
from dashboards.layout import board
from dashboards.palette import BROKEN, EXPECTED, GOOD
from dashboards.panels import Panel, Reading, bars, chart, number
from dashboards.sources import now, over_time, with_traces

UID: Final = "lab-relay-and-kafka"


def relay_and_kafka() -> dict[str, Any]:
    """The board."""
    return board(
        UID,
        "3 · Relay and Kafka",
        "From the outbox over the topics to the committed offsets: depth, age, delay, lag.",
        [
            (4, [(6, _pending_now()), (6, _age_now()), (6, _lag_now()), (6, _published_now())]),
            (8, [(8, _pending()), (8, _age()), (8, _delay())]),
            (8, [(6, _sent()), (6, _end_to_end()), (6, _process()), (6, _steps())]),
            (8, [(8, _lag_messages()), (8, _lag_seconds()), (8, _partitions())]),
            (8, [(6, _commits()), (6, _rebalances()), (6, _progress()), (6, _slot())]),
        ],
    )


def _pending_now() -> Panel:
    reading = Reading("Committed rows that are not published yet, over all publisher arms.", "near 0.")
    return number("Outbox rows waiting", reading, [now(f"sum({q.OUTBOX_PENDING})", "rows")], "short")


def _age_now() -> Panel:
    reading = Reading(
        "Age of the oldest row that is not published, over all publisher arms.",
        "below 1 s.",
        runbooks=("RelayStalled",),
    )
    bounds = ((None, GOOD), (1.0, EXPECTED), (5.0, BROKEN))
    queries = [now(f"max({q.OUTBOX_AGE_S})", "age")]
    return number("Age of the oldest outbox row", reading, queries, "s", bounds=bounds)


def _lag_now() -> Panel:
    reading = Reading(
        "Age of the first record that its group has not committed, over all consumer arms and partitions.",
        "about a second.",
        runbooks=("GroupLagGrowing",),
    )
    bounds = ((None, GOOD), (5.0, EXPECTED), (10.0, BROKEN))
    return number("Greatest lag in seconds", reading, [now(f"max({q.LAG_S})", "lag")], "s", bounds=bounds)


def _published_now() -> Panel:
    reading = Reading("Messages that the broker confirmed, a second, over all publisher arms.", "the rate of the load.")
    return number("Published per second", reading, [now(q.PUBLISHED_PER_S, "published")], "cps")


def _pending() -> Panel:
    reading = Reading("Committed rows that are not published yet.", "near 0: the relay empties it in milliseconds.")
    queries = [over_time(q.OUTBOX_PENDING, "{{arm}}")]
    return chart("Outbox rows waiting, by publisher arm", reading, queries, "short")


def _age() -> Panel:
    reading = Reading(
        "Age of the oldest row that is not published. Rising by a second a second: nobody publishes.",
        "below 1 s.",
        runbooks=("RelayStalled",),
    )
    queries = [over_time(q.OUTBOX_AGE_S, "{{arm}}")]
    return chart("Age of the oldest outbox row, by publisher arm", reading, queries, "s", limit=5)


def _delay() -> Panel:
    reading = Reading(
        "From the outbox row to the broker's confirmation, the oldest row of each batch.",
        "tens of milliseconds at the demo's rate.",
    )
    metric = "delivery_publish_delay_seconds"
    queries = [
        over_time(q.quantile(0.5, metric, q.PUBLISHERS), "{{arm}} p50", "A"),
        over_time(q.quantile(0.99, metric, q.PUBLISHERS), "{{arm}} p99", "B"),
    ]
    return chart("Publish delay, p50 and p99, by publisher arm", reading, queries, "s")


def _sent() -> Panel:
    reading = Reading("What the publishers sent, a second, by topic and outcome.", "confirmed only.")
    queries = [over_time(q.SENT_PER_S, "{{topic}} {{outcome}}")]
    return chart("Messages sent per second, by topic", reading, queries, "cps")


def _end_to_end() -> Panel:
    reading = Reading(
        "From the intent to the end of its effects, p99: the oldest message of every chunk.",
        "below a second; seconds under a kill, as long as the session time-out.",
    )
    queries = [over_time(q.quantile(0.99, "delivery_end_to_end_seconds", q.CONSUMERS), "{{arm}}")]
    return chart("End to end latency, p99, by arm", reading, queries, "s")


def _process() -> Panel:
    reading = Reading("How long an arm worked on a chunk, p99.", "follows the provider's latency.")
    queries = [over_time(q.quantile(0.99, "messaging_process_duration_seconds", q.CONSUMERS), "{{arm}}")]
    return chart("Time for a chunk, p99, by arm", reading, queries, "s")


def _steps() -> Panel:
    reading = Reading(
        "How long each step of a trace took, p99, from the spans that were kept. A dot is an exemplar: click it to see "
        "its trace.",
        "milliseconds; what waits for the provider follows it.",
        fault="the stack runs in containers with Tempo (deploy/full.env)",
    )
    return chart("Time of a step, p99, from traces", reading, [with_traces(q.STEPS_P99, "{{span_name}}")], "s")


def _lag_messages() -> Panel:
    reading = Reading(
        "Records between each group's committed offset and the topic's end, dead consumers included. For at_most_once "
        "0 does not mean done: it commits first.",
        "a saw of one second's load; a ramp that ends with its fault.",
        runbooks=("GroupLagGrowing",),
    )
    return chart("Lag in messages, by arm", reading, [over_time(q.LAG_MESSAGES, "{{arm}}")], "short")


def _lag_seconds() -> Panel:
    reading = Reading(
        "Age of the first record that the group has not committed.",
        "about a second.",
        runbooks=("GroupLagGrowing",),
    )
    return chart("Lag in seconds, by arm", reading, [over_time(q.LAG_S, "{{arm}}")], "s", limit=10)


def _partitions() -> Panel:
    reading = Reading("Where the lag is now. One long bar: one partition or one key is stuck.", "short bars, alike.")
    queries = [now(f"topk(12, {q.LAG_BY_PARTITION})", "{{arm}} {{topic}}/{{partition}}")]
    return bars("Lag in messages now, by partition, the 12 longest", reading, queries, "short")


def _commits() -> Panel:
    reading = Reading("Offset commits a second. None while lag grows: the arm is frozen, stuck or gone.", "no failed.")
    queries = [over_time(q.COMMITS_PER_S, "{{arm}} {{outcome}}")]
    return chart("Offset commits per second, by arm", reading, queries, "cps")


def _rebalances() -> Panel:
    reading = Reading(
        "How often a group gave a process of the arm its partitions anew, within the rate window; each process counts "
        "for itself, the retry lane's too. Not whole numbers: increases are extrapolated. Work waits meanwhile, and "
        "what was in hand may come again.",
        "0; a bump where a process started, ended or was killed. One without such a cause: a process stood still for "
        "longer than the session time-out, and its group went on without it.",
    )
    return chart("Rebalances within the window, by arm", reading, [over_time(q.REBALANCES, "{{arm}}")], "short")


def _progress() -> Panel:
    reading = Reading(
        "Records that each group has committed, a second, by the broker's own account: no kill takes it away.",
        "as fast as the topics grow.",
    )
    queries = [
        over_time(q.COMMITTED_PER_S, "{{arm}}", "A"),
        over_time(f"sum({q.ENDS_PER_S})", "all topics grow", "B"),
    ]
    return chart("Records committed per second, by arm", reading, queries, "cps")


def _slot() -> Panel:
    reading = Reading(
        "Write-ahead log that the slot of cdc holds back for its reader. Unbounded, it fills the disk.",
        "some hundred kilobytes.",
        fault="the publisher arm cdc runs (`lab up --publishers outbox,cdc`)",
        runbooks=("SlotHoldingWal",),
    )
    queries = [over_time(q.SLOT_LAG_BYTES, "{{arm}}")]
    return chart("Write-ahead log held back, by publisher arm", reading, queries, "bytes", limit=32 * 2**20)
