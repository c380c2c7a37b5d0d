"""The compose stack's Locust, started here with its own command: it waits until somebody starts a load on its page."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from loadtest.ledger import ledger_file, outcomes, read
from loadtest.totals import read_snapshot, snapshot_file
from tests.integration.processes import ROOT, free_port
from tests.integration.test_load import Api, serving
from tests.waiting import until


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


@pytest.fixture
async def page(api: Api, tmp_path: Path) -> AsyncIterator[str]:
    """Its address."""
    locust = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["locust"]
    port = free_port()
    here = {
        "/app/loadtest/locustfile.py": str(ROOT / "loadtest" / "locustfile.py"),
        "0.0.0.0": "127.0.0.1",  # noqa: S104
        "21031": str(port),
    }
    arms = [arm.partition("=")[0] for arm in locust["environment"]["LAB_LOAD_PUBLISHERS"].split(",")]
    settings = {
        "LAB_HOME": str(tmp_path),
        "LAB_LOAD_ORDERS": api.url,
        "LAB_LOAD_REFUNDS": api.url,
        "LAB_LOAD_PUBLISHERS": ",".join(f"{arm}={api.url}" for arm in arms),
    }
    for folder in ("ledger", "runs"):  # the supervisor has made them
        (tmp_path / folder).mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(here.get(word, word) for word in locust["command"][1:]),
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)


@pytest.mark.timeout(300)
async def test_nothing_is_sent_before_somebody_starts_a_load_and_then_all_of_it_is_in_a_ledger(
    page: str, api: Api, tmp_path: Path
) -> None:
    async with aiohttp.ClientSession(page) as session:

        async def answers() -> bool:
            try:
                async with session.get("/") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until(answers, "Locust's page")
        async with session.get("/stats/requests") as answer:
            assert (await answer.json())["state"] == "ready", "it waits; natively it starts by itself"
        assert not api.received
        assert not list((tmp_path / "ledger").iterdir())

        form = {"user_count": "1", "spawn_rate": "1", "rate": "20", "duration_s": "2", "run": "by-hand"}
        async with session.post("/swarm", data=form) as answer:
            assert (await answer.json())["success"]

        def over() -> bool:
            totals = read_snapshot(snapshot_file(tmp_path, "by-hand"))
            return totals is not None and totals.carried_out

        await until(over, "the end of the load")
    asked = {f"by-hand-{number}" for number in range(40)}
    assert outcomes(list(read(ledger_file(tmp_path, "by-hand")))).keys() == asked == api.received.keys()
    assert {headers["lab-run"] for headers in api.headers} == {"by-hand"}
