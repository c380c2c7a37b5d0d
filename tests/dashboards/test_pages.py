"""The console's pages in a browser, over a small Prometheus: each board is drawn, nothing complains."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from playwright.sync_api import Page, sync_playwright

from dashboards.screenshots import CHROMIUM, DRAWN_MS, OPTIONS, SIZE, take
from tests.dashboards.test_console import Served, notification, served

__all__ = ["served"]

Seen = TypeVar("Seen")
pytestmark = pytest.mark.skipif(not os.access(CHROMIUM, os.X_OK), reason="no Chromium here (a Debian package)")


async def test_every_board_is_drawn_without_an_error_of_a_script(served: Served, tmp_path: Path) -> None:
    complaints = await asyncio.to_thread(take, served.url, tmp_path)
    without_database = [text for text in complaints if "auditor's database does not answer" in text]
    assert complaints == without_database
    assert len(without_database) == 2  # evidence and promises: here is no database, and the page says so
    assert set(os.listdir(tmp_path)) - {"run"} == {
        "lab-overview.png", "lab-duplicates-and-loss.png", "lab-relay-and-kafka.png",
        "lab-retries-and-dead-letters.png", "lab-health.png", "received.png",
    }  # fmt: skip


async def look(served: Served, path: str, at: Callable[[Page], Seen]) -> Seen:
    """What is seen on a page once it is drawn."""

    def seen() -> Seen:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
            page = browser.new_page(viewport=SIZE)
            page.goto(served.url + path)
            page.wait_for_selector("main[data-drawn]", timeout=DRAWN_MS)
            found = at(page)
            browser.close()
        return found

    return await asyncio.to_thread(seen)


def panel(page: Page, title: str) -> str:
    """What a panel shows below its title."""
    return str(page.locator(".panel", has=page.get_by_text(title, exact=True)).locator(".body").first.inner_text())


async def test_a_dead_auditor_does_not_look_like_a_healthy_one(served: Served) -> None:
    served.prometheus.answers = {"delivery_audit_": []}
    titles = ("The law", "Age of the last audit", "Lost, by arm", "Losing since, by arm", "Lost so far, by arm")

    def at(page: Page) -> tuple[list[str], str]:
        colour = page.locator(".panel", has=page.get_by_text("The law", exact=True)).locator(".stat b")
        shown = [panel(page, title) for title in (*titles, "The path, hop by hop")]
        return shown, str(colour.evaluate("one => one.style.color"))

    assert await look(served, "/d/lab-overview", at) == (["no audit"] * 6, "rgb(224, 47, 68)")


async def test_what_is_null_is_an_empty_cell_and_a_rate_has_its_unit(served: Served) -> None:
    row = {"hop": "3 process", "arm": "a", "effect": "record"}
    served.prometheus.answers = {'state=~"waiting"': [], "delivery_audit_messages": [row]}
    cells = await look(served, "/d/lab-overview", lambda page: page.locator("td").all_inner_texts())
    assert cells == ["3 process", "a", "record", "3/s", "3", "3", "3", "", "3", "3", "3", "3"]


async def test_two_series_of_one_arm_are_a_whole_and_a_dashed_line(served: Served) -> None:
    served.prometheus.answers = {"": [{"arm": "outbox"}]}

    def at(page: Page) -> set[str]:
        chart = page.locator(".panel", has=page.get_by_text("Applications, observed and audited, by arm"))
        lines = chart.locator("path[stroke='#3FB8C8']")
        return {line.get_attribute("stroke-dasharray") or "" for line in lines.all()}

    assert await look(served, "/d/lab-duplicates-and-loss", at) == {"10 6", "none"}


async def test_a_page_received_shows_its_delay(served: Served) -> None:
    for status in ("firing", "resolved"):
        async with served.session.post(
            f"{served.url}/api/alerts", data=notification(status=status), headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 200

    def at(page: Page) -> dict[str, str]:
        head = page.locator("th").all_inner_texts()
        rows = [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]
        return {row[1]: row[head.index("delay")] for row in rows}

    delays = await look(served, "/received", at)
    assert delays["resolved"] == ""
    assert delays["page"].endswith((" s", " min", " h"))
