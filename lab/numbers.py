"""docs/telemetry.md: every metric, and which number to trust for what. `python -m lab.numbers` writes it.

A test compares the file with what this module would write.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from lab.reference import section
from services.stack.prometheus import SCRAPE_ARMS_S, SCRAPE_S
from services.telemetry.catalogue import BOUNDS_S, METRICS, MOST_OF_A_LAB, MOST_OF_A_PROCESS, Metric

FILE: Final = Path(__file__).parent.parent / "docs" / "telemetry.md"

_TRUST: Final = (
    (
        "Was anything lost, or done twice?",
        "`lab audit`; live `delivery_audit_lost_total`, `delivery_audit_extra_applications_total`",
        "any counter of a process: it says what the process saw, and a process that dies takes its last counts along",
    ),
    (
        "How many dedup hits, effects, dead letters exactly?",
        "the rows: `dedup_hits`, `records` and `dead_letters` of the arm's schema, `applications` of the provider",
        "`increase()` of the counters: it extrapolates, and a SIGKILL costs what came after the last scrape",
    ),
    (
        "Do the counters tell the truth?",
        "`lab telemetry gap`, `delivery_audit_telemetry_gap`: 0 after the drain and one more scrape",
        "a gap that is explained: rows that came after the last scrape of their life, and rows whose writer had no "
        "answer (it counted `uncertain`, for the provider did not answer in time or was killed)",
    ),
    (
        "How far behind is an arm?",
        "`delivery_group_lag_messages`, `delivery_group_lag_seconds` (the probe's; a dead consumer's lag grows)",
        "`delivery_consumer_lag_*`: of living processes and their own partitions only. For `at_most_once` 0 does not "
        "mean done: it commits before its effects",
    ),
    (
        "Do records flow into the retry topics and dead letters?",
        "`delivery_topic_end_offsets_total` (offsets survive every SIGKILL)",
        "`delivery_retries_total`, `delivery_dead_letters_total`: for the reasons, not for alerts",
    ),
    (
        "Was something delivered again?",
        "the audit's `exercised`: offsets that the nemesis noted before a kill",
        "`delivery_redeliveries_total`: only what the process can know",
    ),
    (
        "Is a process up, did it restart?",
        "`delivery_part_up`, `delivery_part_restarts_total`",
        "`up`: a process that is back within a scrape was never down for it",
    ),
    (
        "How long does a message take?",
        "`delivery_end_to_end_seconds` for what is usual; a trace for one message",
        "its `_count` as a number of messages: it is one sample a chunk, and one for each special message",
    ),
)

_RULES: Final = (
    f"Metrics come by scrape alone: every {SCRAPE_ARMS_S} s from consumer arms, their lanes, the probe, the auditor "
    f"and the supervisor, every {SCRAPE_S} s from the rest. A second road would double every sum.",
    "Counters are there at 0, with all their series, from the start of a process. Histograms are classic, their "
    f"bounds {BOUNDS_S[0]:g} s and twice as much each time up to {BOUNDS_S[-1]:g} s; their series begin with the first "
    "sample.",
    f"No metric bears a message id, a key or a path. No process has more than {MOST_OF_A_PROCESS} series, a lab with "
    f"all arms not more than {MOST_OF_A_LAB:,}.",
    "A gauge never lies: while the broker or Postgres does not answer, and from 5 s after its last answer, the probe's "
    "figures of that store are absent, not old; `delivery_probe_last_success_timestamp_seconds` says since when.",
    "Every process start draws a life (`delivery_process_info`, `service_instance_id` of `target_info`). Rows in the "
    "stores bear the life that wrote them. What a life counted, by its last raw sample, is compared with its rows: "
    "those after `delivery_counted_until_timestamp_seconds` of that scrape may be missing (work was in hand), and "
    "effects without an answer (outcome `uncertain`) may be there or not. Whatever else differs is unexplained.",
)


def numbers() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Telemetry: which number to trust for what"
    yield ""
    yield "Made from the code by `make docs`; a test fails when it is out of date. `lab telemetry list` has it,"
    yield "and spans and log events, which [reference.md](reference.md) lists, too."
    yield from section("Which number for what", ("question", "trust", "not"), _TRUST)
    yield ""
    yield "## Rules"
    yield ""
    yield from (f"- {rule}" for rule in _RULES)
    yield from section("Metrics", ("Prometheus name", "of", "labels", "what it says"), map(_metric, METRICS.values()))


def _metric(metric: Metric) -> tuple[str, ...]:
    unit = f" in `{metric.unit}`" if metric.unit in ("s", "By") else f" of `{metric.unit}`"
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return (
        f"`{metric.prometheus}`",
        _owners(metric.owners),
        labels,
        f"{metric.description} ({metric.kind}{unit}, `{metric.name}`)",
    )


def _owners(parts: Iterable[str]) -> str:
    """The parts that emit it, alike ones together."""
    kinds = {"arm": "consumer arms", "retry": "lanes", "orders": "producers", "refunds": "producers"}
    words = dict.fromkeys(kinds.get(part.partition(".")[0], part) for part in parts)
    everything = {"consumer arms", "lanes", "producers", "provider", "probe", "auditor", "supervisor", "relay"}
    return "every process" if everything <= words.keys() else ", ".join(words)


def main() -> None:
    """Write the page."""
    FILE.write_text(numbers())


if __name__ == "__main__":
    main()
