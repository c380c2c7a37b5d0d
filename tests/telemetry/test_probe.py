"""The probe on the real stack: a dead consumer's lag grows, and while a store is away its figures are absent."""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import ORDERS
from services.stack import prometheus
from services.stack.debian import PROMETHEUS
from services.storage.postgres import connect
from services.storage.slots import drop_slot, ensure_slot
from tests.conftest import Infra, Lab
from tests.integration.processes import ROOT, free_port
from tests.telemetry.conftest import Prometheus
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)
LAG = 'max(delivery_group_lag_seconds{arm="at_most_once"})'


def value(scraped: Prometheus, promql: str) -> float | None:
    found = scraped.query(promql)
    return float(found[0]["value"][1]) if found else None


def test_the_lag_of_a_dead_consumer_grows_in_messages_and_in_seconds(lab: Lab, told: Prometheus) -> None:
    lab.cli("kill", "arm.at_most_once#0", "--hold")
    try:
        lab.cli("load", "--rate", "20", "--duration", "2s")
        behind = 'sum(delivery_group_lag_messages{arm="at_most_once"}) >= 30'
        lab.until(lambda: told.query(behind), behind)
        first = value(told, LAG)
        lab.until(lambda: (value(told, LAG) or 0) > (first or 0) + 1.5, "the lag in seconds to grow")
        own = 'delivery_consumer_lag_messages{arm="at_most_once"}'
        lab.until(lambda: not told.query(own), "the lag by its own account, which nobody gives, to be absent")
    finally:
        lab.cli("restart", "arm.at_most_once#0")
    lab.until(lambda: value(told, LAG) == 0, "the lag to be 0 again")


@pytest.mark.parametrize(
    ("server", "away", "stays"),
    [
        ("kafka", "delivery_group_lag_messages", "delivery_outbox_pending"),
        ("postgres", "delivery_outbox_pending", "delivery_group_lag_messages"),
    ],
)
def test_figures_of_a_store_that_does_not_answer_are_absent_and_the_others_stay(
    lab: Lab, told: Prometheus, server: str, away: str, stays: str
) -> None:
    lab.until(lambda: told.query(away) and told.query(stays), "both stores to have answered")
    before = lab.status()["probe"]["restarts"]
    lab.cli("freeze", server)
    try:
        lab.until(lambda: not told.query(away) and told.query(stays), f"{away} to be absent and {stays} to stay")
    finally:
        lab.cli("thaw", server)
    lab.until(lambda: told.query(away), f"{away} to be back")
    assert lab.status()["probe"]["restarts"] == before
    lab.ready()


async def test_the_log_that_a_slot_holds_back_appears_in_prometheus(infra: Infra, tmp_path: Path) -> None:
    binary = PROMETHEUS.find()
    if binary is None:
        pytest.skip(PROMETHEUS.how_to)
    connection = await connect(infra.postgres, PUBLISHER_ARMS["cdc"].database(ORDERS), name="t")
    await ensure_slot(connection)
    admin, own = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(prometheus.configuration({"probe": f"127.0.0.1:{admin}"}, "127.0.0.1:9"))
    words = [
        f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{own}", "--log.level=error",
    ]  # fmt: skip
    settings = {
        "LAB_PROCESS": "probe", "LAB_POSTGRES": infra.postgres, "LAB_KAFKA": infra.kafka,
        "LAB_ADMIN_PORT": str(admin), "LAB_PUBLISHERS": "outbox,cdc", "LAB_LOG_FILE": str(tmp_path / "log"),
        "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"],
    }  # fmt: skip
    probe = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.probe", env=settings, cwd=ROOT)
    server = await asyncio.create_subprocess_exec(str(binary), *words)
    try:
        await until(lambda: _found(f"http://127.0.0.1:{own}", 'delivery_slot_lag_bytes{arm="cdc"} >= 0'), timeout_s=60)
    finally:
        for process in (probe, server):
            process.kill()
            await process.wait()
        await drop_slot(connection)
        await connection.close()


async def _found(url: str, promql: str) -> bool:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/v1/query", params={"query": promql}) as answer,
        ):
            return bool((await answer.json())["data"]["result"])
    except (aiohttp.ClientError, KeyError):
        return False
