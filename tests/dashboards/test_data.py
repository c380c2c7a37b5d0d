"""Every panel has data while load runs; one that is empty without a fault says so."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from loadtest import run as load
from services.stack.parts import PARTS
from tests.conftest import Lab


def panels_without_data(lab: Lab) -> Iterator[str]:
    """Of all boards, by what the console would show of the last five minutes."""
    url = lab.home.http_url(PARTS["console"])
    for board in get(f"{url}/api/boards"):
        definition = get(f"{url}/api/boards/{board['uid']}")["board"]
        asked = urllib.parse.urlencode({"from": time.time() - 300, "to": time.time()})
        shown = get(f"{url}/api/boards/{board['uid']}/data?{asked}")["panels"]
        for panel in definition["panels"]:
            if panel["type"] == "text" or "Empty unless: " in panel["description"]:
                continue
            answer = shown[str(panel["id"])]
            if answer.get("error") or not (answer.get("series") or answer.get("table", {}).get("rows")):
                yield f"{board['title']}: {panel['title']} {answer.get('error', '')}"


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # our own
        return json.load(answer)


@pytest.mark.timeout(900)  # the lab starts before it
def test_every_panel_has_data_while_load_runs(lab: Lab) -> None:
    sent = load.start(lab.home, rate=20, duration_s=300)
    lacking: list[str] = []
    try:
        deadline = time.monotonic() + 240
        while (lacking := list(panels_without_data(lab))) and time.monotonic() < deadline:
            time.sleep(1)
    finally:
        sent.stop()
    assert lacking == []
