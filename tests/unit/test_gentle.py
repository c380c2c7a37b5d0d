"""The gentle load sends what its plan says to every producer, writes it down, and ends when it is asked to."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from loadtest.ledger import outcomes, read
from services.stack.parts import GUESTS, PARTS
from tests.conftest import free_home


@pytest.fixture
async def producers(tmp_path: Path) -> AsyncIterator[tuple[int, list[str]]]:
    """Producers that accept everything; what they were sent, by path."""
    base, sent = free_home(tmp_path).port_base, list[str]()

    async def accept(request: web.Request) -> web.Response:
        assert request.headers["Idempotency-Key"]
        sent.append(request.path)
        return web.json_response({}, status=201)

    runners = []
    for name in ("orders", "refunds"):
        app = web.Application()
        app.add_routes([web.post(f"/{name}", accept)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", base + PARTS[name].port).start()
        runners.append(runner)
    yield base, sent
    for runner in runners:
        await runner.cleanup()


async def test_it_sends_and_writes_down_until_sigterm(producers: tuple[int, list[str]], tmp_path: Path) -> None:
    base, sent = producers
    admin = base + GUESTS["load"].admin_port
    environment = {
        **os.environ, "LAB_PROCESS": "load#0", "LAB_HOME": str(tmp_path), "LAB_PORT_BASE": str(base),
        "LAB_ADMIN_PORT": str(admin), "LAB_LOG_FILE": str(tmp_path / "load.log"), "LAB_SUPERVISOR": "",
        "LAB_PUBLISHERS": "outbox", "LAB_ZIPKIN": "",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", GUESTS["load"].module, env=environment)
    try:
        async with asyncio.timeout(60), ClientSession() as session:
            while len(sent) < 10:
                assert process.returncode is None
                await asyncio.sleep(0.1)
            async with session.get(f"http://127.0.0.1:{admin}/readyz") as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
    (ledger,) = (tmp_path / "ledger").iterdir()
    told = outcomes(read(ledger))
    assert len(told) >= 10
    assert list(told.values()).count("acknowledged") >= 10
    assert ledger.stem.startswith("gentle-")
