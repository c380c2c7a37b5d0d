"""`python -m dashboards.page` writes docs/alerts.md: the table of alerts, its thresholds, and what was measured."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dashboards import rules
from dashboards.profiles import DEMO, PRODUCTION
from loadtest.drills import DRILLS, LIMIT_S, calm, measured, median_s, query_of

FILE: Final = Path(__file__).parents[1] / "docs" / "alerts.md"
_HEAD: Final = f"""# Alerts

Made by `make docs` from dashboards/rules.py and docs/alerts.json; a test fails when it is out of date. The rules are
[rules-demo.yml](../dashboards/generated/rules-demo.yml), which the lab's Prometheus reads, and
[rules-production.yml](../dashboards/generated/rules-production.yml), the same with thresholds for production.

A broken promise is a *page*; the same where nothing was promised is *info*. What each fires on and is silent for is
shown on synthetic series by promtool (tests/dashboards/test_rules.py): fires, resolves, silent just below, counters
that begin anew, gaps in the scrapes, no series. promtool 2.42 checks both files, Prometheus 2.42 runs the first;
Prometheus 3, of the compose stack, has not read them here.

The delay is from the begin of the fault, as the nemesis log has it, to the receipt by the console
(`lab alerts test`, on two shared cores). Of loss, duplicates, dead letters and a part that is down the median of five
rounds shall be at most {LIMIT_S:g} s. No fault makes an arm break its promise, so where one is broken its store was
tampered with. An effect that was taken away there (`EventsLost` as a page) is found by counting. The drill takes a
young one, which the auditor knows; for one that lies 5,000 rows back all is read again, the longer the more there is.
"""


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "| alert | severity | holds for, demo | production | median delay | measured |"
    yield "| --- | --- | --- | --- | --- | --- |"
    production, results = list(rules.alerts(PRODUCTION)), measured()
    for name, drill in DRILLS.items():
        demo = [alert for alert in rules.alerts(DEMO) if (alert.name, alert.severity) == (drill.alert, drill.severity)]
        later = next(alert.hold for alert in production if alert.name == drill.alert)
        rounds = results.get(name, [])
        median = f"{median_s(rounds):.1f} s" if rounds else "not measured"
        seen = ", ".join(f"{one.delay_s:.1f}" for one in rounds)
        book = f"[{drill.alert}](../dashboards/runbooks/{drill.alert}.md)"
        yield f"| {book} | {drill.severity} | {demo[0].hold} | {later} | {median} | {seen} |"
    yield ""
    yield "## How each was made to fire"
    yield ""
    yield "The command, what the page said, and what the query of the runbook answered then (at most three series)."
    yield ""
    for name, drill in DRILLS.items():
        how = "; ".join(f"`{command}`" for command in drill.strike) or "it always does"
        last = results[name][-1] if results.get(name) else None
        said = f" · *{last.summary}*" if last else ""
        shown = f" · `{query_of(drill.alert)}` → {last.shown}" if last and last.shown else ""
        yield f"- **{name}**: {how}{said}{shown}"
    yield from _calm()


def _calm() -> Iterator[str]:
    yield ""
    yield "## Calm"
    yield ""
    seen = calm()
    came = "; ".join(seen.pages) or "no alert but Watchdog"
    yield (
        f"`lab alerts calm`, {seen.at}: {seen.minutes:g} minutes at {seen.rate:g} requests a second without a fault, "
        f"on a lab that had lost {seen.lost_before} effects before: {came}."
    )


def main() -> None:
    """Write the page."""
    FILE.write_text(page())


if __name__ == "__main__":
    main()
