"""A gentle load that keeps the pages alive: a few requests a second, every one in a ledger of its own run.

`python -m loadtest.gentle`, the part `load`: nobody starts it but `lab scale load 1`, and the end of the tour.
"""

import asyncio
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import uvloop

from loadtest.ledger import Answer, Ledger, ledger_file
from loadtest.plan import Plan, Request, default_run, requests
from services.bootstrap import Process, start_process
from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import EFFECTS_HEADER, RUN_HEADER
from services.stack.home import Home
from services.stack.parts import PARTS
from services.telemetry.admin import serve_admin

RATE: Final = 5.0
ATTEMPTS: Final = 5
_HOURS: Final = 12.0  # then it ends: a lab that was forgotten does not fill the disk
_AGAIN_S: Final = 1.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
_MOST_IN_FLIGHT: Final = 50


class Gentle:
    """One run of the gentle load."""

    def __init__(self, plan: Plan, ledger: Ledger, urls: Mapping[str, str], session: aiohttp.ClientSession) -> None:
        self._plan, self._ledger, self._urls, self._session = plan, ledger, urls, session
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send the plan; what finds too many under way is not sent, and said so."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for request in requests(self._plan):
            await asyncio.sleep(max(0.0, begun + request.at_s - loop.time()))
            for arm, url in self._targets(request):
                if len(self._under_way) >= _MOST_IN_FLIGHT:
                    self._ledger.not_sent(request.key, request.kind.name, "too many requests are in flight", arm)
                    continue
                task = asyncio.create_task(self._carry(request, arm, url))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    def _targets(self, request: Request) -> Iterator[tuple[str, str]]:
        for arm in PUBLISHER_ARMS.values():
            if request.kind in arm.kinds and (url := self._urls.get(arm.producer(request.kind))):
                yield arm.name, url + request.kind.path

    async def _carry(self, request: Request, arm: str, url: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            self._ledger.call(request.key, request.kind.name, attempt, arm)
            answer = await self._send(request, url)
            if self._ledger.answer(request.key, request.kind.name, attempt, answer, arm) != "unknown":
                return
            await asyncio.sleep(_AGAIN_S * attempt)

    async def _send(self, request: Request, url: str) -> Answer:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": request.key,
            RUN_HEADER: self._plan.run,
            EFFECTS_HEADER: ",".join(request.effects),
        }
        try:
            async with self._session.post(
                url, data=msgspec.json.encode(request.payload), headers=headers, timeout=_TIMEOUT
            ) as response:
                await response.read()
                replayed = response.headers.get("Idempotent-Replayed") == "true"
                return Answer(response.status, replayed, "Retry-After" in response.headers)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer()


def plan() -> Plan:
    """What is sent: every effect of every order, and no unreliable clients."""
    return Plan(
        run=f"gentle-{default_run(1)}"[:48], rate=RATE, duration_s=_HOURS * 3_600, effects_share=1.0, timeout_share=0.0,
        reset_share=0.0,
    )  # fmt: skip


async def run(process: Process) -> None:
    """Send until SIGTERM, or until the plan is over. What is in flight then is unknown, as its ledger says."""
    settings, stopping = process.settings, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    admin = await serve_admin(settings.bind, settings.admin_port, process.metrics, lambda: "")
    sent = plan()
    ledger = Ledger(ledger_file(Path(settings.home), sent.run), sent.run)
    producers = {arm.producer(kind) for name in settings.publishers.split(",") for arm in [PUBLISHER_ARMS[name]]
                 for kind in arm.kinds}  # fmt: skip
    home = Home.from_environment()
    urls = {name: home.http_url(PARTS[name]) for name in producers}
    async with aiohttp.ClientSession() as session:
        sending = asyncio.create_task(Gentle(sent, ledger, urls, session).run())
        asked = asyncio.create_task(stopping.wait())
        await asyncio.wait({sending, asked}, return_when=asyncio.FIRST_COMPLETED)
        process.log.event("process.stopping")
        await asked  # a plan that is over is no defect: it stays, and sends nothing
        sending.cancel()
    await admin.cleanup()
    ledger.close()


if __name__ == "__main__":
    uvloop.run(run(start_process()))
