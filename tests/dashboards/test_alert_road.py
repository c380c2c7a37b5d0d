"""The road of an alert, on the real servers: an auditor's counter rises, Prometheus, Alertmanager, the console.

Only these three parts run, without Kafka and Postgres; the auditor is an endpoint of the test.
"""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadtest.alerts import firing
from services.stack import control
from services.stack.debian import PACKAGES
from services.stack.parts import PARTS
from tests.conftest import Lab, free_home, say
from tests.dashboards.tools import tool
from tests.waiting import comes

ROW = 'hop="process",arm="effectively_once",effect="record"'


class Auditor(ThreadingHTTPServer):
    """Says how many are lost, in Prometheus's format."""

    lost = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: Auditor

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        lines = [
            f"delivery_audit_lost_total{{{ROW}}} {self.server.lost}",
            f'delivery_promise_info{{{ROW},promise="no_loss"}} 1',
        ]
        text = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Prometheus, Alertmanager and the console."""
    for name in ("promtool", "amtool"):
        tool(name)  # unpacks the packages, or skips
    assert all(package.find() for package in PACKAGES)
    home = free_home(tmp_path_factory.mktemp("road"))
    control.up(home, faults=False, seed=1, only=("prometheus", "alertmanager", "console"), say=say)
    try:
        yield Lab(home)
    finally:
        control.down(home, say)


@pytest.fixture(scope="module")
def auditor(road: Lab) -> Iterator[Auditor]:
    """An auditor that this lab's Prometheus scrapes."""
    with Auditor() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = road.home.run / "prometheus.yml"
        target = f'static_configs: [{{targets: ["127.0.0.1:{server.server_port}"]}}]'
        job = f"  - {{job_name: test, scrape_interval: 1s, {target}}}\n"
        file.write_text(file.read_text() + job)
        os.kill(road.status()["prometheus"]["pid"], signal.SIGHUP)
        yield server
        server.shutdown()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
        return json.load(answer)


def pages(road: Lab, name: str, status: str = "firing") -> list[dict[str, Any]]:
    """What the console received of an alert, oldest first."""
    received = get(f"{road.home.http_url(PARTS['console'])}/api/received")
    return [page for page in reversed(received) if (page["name"], page["status"]) == (name, status)]


def scraped(road: Lab) -> bool:
    query = "/api/v1/query?query=delivery_audit_lost_total"
    return bool(get(road.home.http_url(PARTS["prometheus"]) + query)["data"]["result"])


def test_watchdog_says_that_the_road_is_open(road: Lab) -> None:
    road.until(lambda: pages(road, "Watchdog"), "Watchdog", 180)
    assert "Watchdog" in now_firing(road)
    assert "EventsLost" not in now_firing(road)


def now_firing(road: Lab) -> set[str]:
    return firing(road.home.addresses()["LAB_PROMETHEUS"])


def losses(road: Lab, lost: int, status: str = "firing") -> list[dict[str, Any]]:
    """The pages of a loss of so many."""
    return [page for page in pages(road, "EventsLost", status) if page["summary"].startswith(f"LOST {lost} at ")]


def test_a_loss_is_a_page_within_seconds_and_a_second_loss_is_one_again(road: Lab, auditor: Auditor) -> None:
    """A loss is told of for 10 s after its scrape: on a machine that stands still for as long nobody hears of it.

    So of up to four losses, each of a number of its own, two must be paged, and one of them within seconds.
    """
    road.until(lambda: scraped(road), "the first scrape", 180)
    paged: dict[int, dict[str, Any]] = {}
    for lost in (3, 2, 5, 7):
        auditor.lost += lost
        if comes(lambda lost=lost: losses(road, lost), 30):
            road.until(
                lambda lost=lost: losses(road, lost, "resolved"), "its end, though the counter stays up", timeout_s=120
            )
            paged[lost] = losses(road, lost)[0]
        if len(paged) >= 2 and any(page["delay_s"] < 15 for page in paged.values()):
            break
    for lost, page in paged.items():
        assert page["severity"] == "page"
        assert page["summary"] == f"LOST {lost} at process, effectively_once, record: a promise is broken"
        assert page["runbook"] == f"{road.home.http_url(PARTS['console'])}/runbooks/EventsLost"
    assert len(paged) >= 2, pages(road, "EventsLost")
    assert min(page["delay_s"] for page in paged.values()) < 15


def test_what_fired_when_prometheus_died_does_not_fire_for_ever(road: Lab, auditor: Auditor) -> None:
    """Its page is never resolved, and a query tells of it for five minutes."""
    road.until(lambda: scraped(road), "the first scrape", 180)
    for lost in (11, 13, 17, 19):  # again, where the machine stood still for the ten seconds that it fires
        auditor.lost += lost
        if comes(lambda: "EventsLost" in now_firing(road), 30):
            break
    else:
        pytest.fail("no alert of four losses")
    road.killed_and_back("prometheus")
    road.until(lambda: "Watchdog" in now_firing(road), "the rules to be read again", 60)
    road.until(lambda: "EventsLost" not in now_firing(road), "the alert to be over", 60)


def test_a_restart_of_a_process_is_told(road: Lab) -> None:
    """By an Alertmanager that was just killed; again where it was back only after the alert, which lasts 10 s."""
    before = len(pages(road, "PartRestarted"))
    for _ in range(3):
        road.killed_and_back("alertmanager")
        if comes(lambda: len(pages(road, "PartRestarted")) > before, 30):
            return
    pytest.fail("no page of a restart in three")
