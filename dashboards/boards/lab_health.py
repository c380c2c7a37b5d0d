"""Lab health: processes, memory, restarts, and whether telemetry itself can be trusted."""

from typing import Any, Final

from dashboards import queries as q
from dashboards.layout import board
from dashboards.palette import BROKEN, EXPECTED, GOOD, NEUTRAL
from dashboards.panels import Panel, Reading, bars, chart, number, states
from dashboards.sources import now, over_time

UID: Final = "lab-health"


def lab_health() -> dict[str, Any]:
    """The board."""
    return board(
        UID,
        "5 · Lab health",
        "Whether the lab itself is well, and whether what it says can be trusted.",
        [
            (4, [(4, _up()), (4, _down()), (4, _restarts()), (4, _targets_down()), (4, _dropped()), (4, _series())]),
            (12, [(24, _processes())]),
            (8, [(12, _memory()), (12, _cpu())]),
            (8, [(8, _loop()), (8, _files()), (8, _restarted())]),
            (8, [(8, _scrapes()), (8, _dropping()), (8, _ages())]),
        ],
    )


def _up() -> Panel:
    reading = Reading("Processes that answer their readiness probe.", "all that were started.")
    return number("Processes ready", reading, [now(q.PARTS_UP, "ready")], "short", bounds=((None, NEUTRAL),))


def _down() -> Panel:
    reading = Reading("Processes that are expected and do not answer.", "0.", runbooks=("PartDown",))
    bounds = ((None, GOOD), (1.0, BROKEN))
    return number("Processes down", reading, [now(q.PARTS_DOWN, "down")], "short", bounds=bounds)


def _restarts() -> Panel:
    reading = Reading("How often the supervisor started a process again.", "0.", runbooks=("PartRestarted",))
    bounds = ((None, GOOD), (1.0, EXPECTED))
    return number("Restarts", reading, [now(q.RESTARTS, "restarts")], "short", bounds=bounds)


def _targets_down() -> Panel:
    reading = Reading("Processes that Prometheus cannot read.", "0; a restart within a second is not seen here.")
    bounds = ((None, GOOD), (1.0, BROKEN))
    return number("Scrapes failing", reading, [now(q.TARGETS_DOWN, "targets")], "short", bounds=bounds)


def _dropped() -> Panel:
    reading = Reading("Spans, log lines and samples given up rather than waited for.", "0 at the demo's rate.")
    bounds = ((None, GOOD), (1.0, EXPECTED))
    return number("Telemetry dropped", reading, [now(q.DROPPED, "{{signal}}")], "short", bounds=bounds)


def _series() -> Panel:
    reading = Reading("Series that Prometheus reads at each scrape, of all processes.", "a few thousand, constant.")
    return number("Series scraped", reading, [now(q.SERIES, "series")], "short")


def _processes() -> Panel:
    reading = Reading("Every process, ready or not, over time.", "green.", runbooks=("PartDown",))
    words = {"1": ("ready", GOOD), "0": ("not ready", BROKEN)}
    return states("Processes, ready or not", reading, [over_time(q.PARTS, "{{process}}")], words)


def _memory() -> Panel:
    reading = Reading("Resident memory of every Python process.", "50 to 150 MB, flat; the bound is 400 MiB.")
    return chart("Memory, by process", reading, [over_time(q.MEMORY_BYTES, "{{instance}}")], "bytes", filled=False)


def _cpu() -> Panel:
    reading = Reading("Processor time, in cores.", "a few percent of a core each at the demo's rate.")
    return chart(
        "Processor use, by process", reading, [over_time(q.CPU_CORES, "{{instance}}")], "percentunit", filled=False
    )


def _loop() -> Panel:
    reading = Reading("How late the event loop wakes up, p99. High: the process is starved.", "below 50 ms.")
    return chart(
        "Event loop lag, p99, by process", reading, [over_time(q.LOOP_LAG_P99_S, "{{instance}}")], "s", filled=False
    )


def _files() -> Panel:
    reading = Reading("Open files and sockets.", "flat.")
    return chart("Open files, by process", reading, [over_time(q.FILES_OPEN, "{{instance}}")], "short", filled=False)


def _restarted() -> Panel:
    reading = Reading(
        "Restarts within the last scrapes, by process.",
        "no bar.",
        fault="a process is killed (`lab kill relay`)",
        runbooks=("PartRestarted",),
    )
    return bars("Restarts just now, by process", reading, [now(q.RESTARTED, "{{process}}")], "short")


def _scrapes() -> Panel:
    reading = Reading("How long a scrape took.", "some ten milliseconds.")
    return chart("Scrape duration, by process", reading, [over_time(q.SCRAPE_S, "{{instance}}")], "s", filled=False)


def _dropping() -> Panel:
    reading = Reading(
        "Telemetry given up, a second, by process.",
        "nothing.",
        fault="telemetry is dropped (a trace store that is down)",
    )
    queries = [over_time(q.DROPPED_PER_S, "{{instance}} {{signal}}")]
    return chart("Telemetry dropped per second, by process", reading, queries, "cps")


def _ages() -> Panel:
    reading = Reading(
        "Age of what the probe last had of each store, and of the last audit.",
        "a second or two.",
        runbooks=("AuditStale",),
    )
    queries = [over_time(q.PROBE_AGE_S, "probe: {{store}}", "A"), over_time(q.AUDIT_AGE_S, "auditor", "B")]
    return chart("Age of the probe's and the auditor's figures", reading, queries, "s", limit=10)
