"""Observed against audited, on real processes: 0 without faults, and after a SIGKILL what came after the scrape."""

import json
from typing import Any

import pytest

from tests.conftest import Lab
from tests.telemetry.conftest import Prometheus

pytestmark = pytest.mark.timeout(180)
ARM = "arm.effectively_once#0"


def gaps(lab: Lab, *more: str) -> dict[tuple[str, str], Any]:
    """The answer of `lab telemetry gap`, by arm and signal; asserts that nothing is unexplained."""
    answer = json.loads(lab.cli("telemetry", "gap", "--timeout", "20s", "--json", *more))
    assert answer["unexplained"] == 0
    return {(one["arm"], one["signal"]): one for one in answer["signals"]}


def lives(scraped: Prometheus) -> dict[str, str]:
    """The life of each process that answers now."""
    info = scraped.query("delivery_process_info")
    return {series["metric"]["instance"]: series["metric"]["life"] for series in info}


def settle(lab: Lab) -> None:
    lab.cli("drain", "--timeout", "60s", timeout_s=90)


def test_without_faults_every_living_process_has_counted_every_row_that_it_wrote(lab: Lab, told: Prometheus) -> None:
    lab.cli("load", "--rate", "30", "--duration", "3s")
    settle(lab)

    def all_counted() -> bool:
        found, living = gaps(lab), set(lives(told).values())
        return not [one for gap in found.values() for one in gap["lives"] if one["life"] in living]

    lab.until(all_counted, "one more scrape", timeout_s=20)
    found = gaps(lab)
    for arm in ("at_least_once", "effectively_once", "at_most_once", "stock_faust", "kafka_transactions"):
        assert found[arm, "record"]["rows"] > 0
    assert found["effectively_once", "charge"]["rows"] > 0


def test_what_a_sigkill_takes_along_is_exactly_what_was_applied_after_the_last_scrape(
    lab: Lab, told: Prometheus
) -> None:
    settle(lab)
    before = lives(told)[ARM]
    lab.cli("freeze", "prometheus")
    try:
        lab.cli("load", "--rate", "30", "--duration", "2s")
        settle(lab)
        lab.cli("kill", ARM)
    finally:
        lab.cli("thaw", "prometheus")
    lab.until(lambda: lives(told).get(ARM, before) != before, "the next life to be scraped")
    found = gaps(lab, "--explains", "60s")  # Prometheus was away for longer than it takes to miss a scrape
    for signal in ("record", "charge"):
        (life,) = (one for one in found["effectively_once", signal]["lives"] if one["life"] == before)
        assert life["rows"] - life["counted"] == life["after_scrape"] > 0
        assert life["process"] == ARM
