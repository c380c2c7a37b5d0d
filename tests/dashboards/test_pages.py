"""The console's pages in a browser, over a small Prometheus: each board is drawn, nothing complains."""

import asyncio
import os
from pathlib import Path

import pytest

from dashboards.screenshots import CHROMIUM, take
from tests.dashboards.test_console import Served, served

__all__ = ["served"]

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
