"""Observed against audited, on real processes: 0 without faults, and after a SIGKILL what came after the scrape."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Lab
from tests.telemetry.conftest import Prometheus

pytestmark = pytest.mark.timeout(1200)
ARM = "arm.effectively_once#0"


Gaps = Callable[..., dict[tuple[str, str], Any]]


@pytest.fixture
def gaps(lab: Lab) -> Gaps:
    """The answer of `lab telemetry gap`, by arm and signal; asserts that nothing is unexplained.

    Of what the lab did since the test began: a life that an earlier one killed may be unexplained for good, where the
    machine was too slow for a scrape. So a scrape may be late here, too. Asked again when Prometheus or a database
    did not answer.
    """
    lab.drain()
    began = time.time()

    def ask(explains_s: float = 60) -> dict[tuple[str, str], Any]:
        def answered() -> Any:
            # the window moves on while a scrape is waited for, and must not lose the last one before the test
            window = ("--window", f"{time.time() - began + 90:.0f}s", "--explains", f"{explains_s:.0f}s")
            return json.loads(lab.cli("telemetry", "gap", "--timeout", "60s", "--json", *window))

        answer = lab.until(answered, "the telemetry gap to be read", 180)
        assert answer["unexplained"] == 0
        return {(one["arm"], one["signal"]): one for one in answer["signals"]}

    return ask


def lives(scraped: Prometheus) -> dict[str, str]:
    """The life of each process that answers now."""
    info = scraped.query("delivery_process_info")
    return {series["metric"]["instance"]: series["metric"]["life"] for series in info}


def test_without_faults_every_living_process_has_counted_every_row_that_it_wrote(
    lab: Lab, told: Prometheus, gaps: Gaps
) -> None:
    lab.cli("load", "--rate", "30", "--duration", "3s")
    lab.drain()

    def uncounted() -> list[Any]:
        """Lives that lack a row, but for those whose writer had no answer: a slow provider, a store that was killed."""
        found, living = gaps(), set(lives(told).values())
        lacking = [one for gap in found.values() for one in gap["lives"] if one["life"] in living]
        return [one for one in lacking if one["rows"] != one["counted"] + one["unanswered"]]

    lab.until(lambda: not uncounted(), lambda: f"one more scrape; not counted: {uncounted()}")
    found = gaps()
    for arm in ("at_least_once", "effectively_once", "at_most_once", "stock_faust", "kafka_transactions"):
        assert found[arm, "record"]["rows"] > 0
    assert found["effectively_once", "charge"]["rows"] > 0


def test_what_a_sigkill_takes_along_is_exactly_what_was_applied_after_the_last_scrape(
    lab: Lab, told: Prometheus, gaps: Gaps
) -> None:
    before = lab.until(lambda: lives(told).get(ARM), f"{ARM} to be scraped")  # a failed scrape makes a series stale
    frozen = time.time()
    lab.cli("freeze", "prometheus")
    try:
        lab.cli("load", "--rate", "30", "--duration", "2s")
        lab.drain()
        lab.cli("kill", ARM)
    finally:
        lab.cli("thaw", "prometheus")
    lab.until(lambda: lives(told).get(ARM, before) != before, "the next life to be scraped")
    found = gaps(time.time() - frozen + 60)  # it goes on for as long as it takes to drain
    for signal in ("record", "charge"):
        (life,) = (one for one in found["effectively_once", signal]["lives"] if one["life"] == before)
        assert life["rows"] - life["counted"] == life["after_scrape"] + life["unanswered"]
        assert life["after_scrape"] > 0
        assert life["process"] == ARM
