"""The shared lab after it was made to do everything that it can tell of, and its Prometheus."""

import json
import urllib.parse
import urllib.request
from typing import Any

import msgspec
import pytest

from services.stack.debian import PROMETHEUS
from services.stack.parts import PARTS
from tests.conftest import Lab

RUN = "telemetry"


class Prometheus(msgspec.Struct, frozen=True):
    """Prometheus's HTTP API."""

    url: str

    def query(self, promql: str) -> list[Any]:
        """The series that an instant query gives: each with `metric` and `value`."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  # our own server
            document = json.load(answer)
        assert document["status"] == "success", document
        result: list[Any] = document["data"]["result"]
        return result


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool, which comes with Prometheus."""
    found = PROMETHEUS.find("promtool")
    if found is None:
        pytest.skip(PROMETHEUS.how_to)
    return str(found)


@pytest.fixture(scope="session")
def scraped(lab: Lab) -> Prometheus:
    """The lab's Prometheus."""
    if PROMETHEUS.find() is None:
        pytest.skip(PROMETHEUS.how_to)
    return Prometheus(lab.home.http_url(PARTS["prometheus"]))


@pytest.fixture(scope="session")
def told(lab: Lab, scraped: Prometheus) -> Prometheus:
    """After load with keys sent twice, a provider that fails, bad records, a redrive and two kills."""
    lab.ready()
    lab.arm("provider.before_applying", "error:http_500", "count=20", "arm=at_least_once")
    lab.cli("fault", "arm", "process.after_record_before_commit", "kill", "count=1", "arm=arm.effectively_once")
    lab.cli("load", "--rate", "40", "--duration", "5s", "--run", RUN)
    for words in (("poison", "--count", "2", "--run", RUN), ("duplicate", "--count", "3", "--run", RUN)):
        lab.until(  # each is made of a record, and the first may still be on its way
            lambda words=words: lab.run("fault", "inject", *words).returncode == 0, f"{words} to be injected", 120
        )
    poisoned = ("--arm", "effectively_once", "--reason", "no_message_id")

    def parked() -> bool:
        listed = json.loads(lab.cli("dlq", "list", *poisoned, "--limit", "1000", "--json"))["letters"]
        return any(letter["run"] == RUN for letter in listed)

    lab.until(parked, "a letter of effectively_once", 180)
    lab.cli("dlq", "redrive", *poisoned, "--why", "a test")
    lab.sweep()  # what is still armed would strike another test's messages
    return scraped
