"""`python -m services.auditor`: the composition root of the auditor. It passes over everything about once a second.

No failpoints: it shares no code with what it judges, and what struck it would prove nothing.
"""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Awaitable
from typing import Final

import msgspec
import uvloop
from aiohttp import web

from services.auditor.audit import Unreachable, audit
from services.auditor.explaining import explain, trace
from services.auditor.findings import Findings, Totals, now
from services.auditor.gap import GapReader
from services.auditor.gap_watch import GapWatch
from services.auditor.history import key_of
from services.auditor.live import GRACE_S, Live, Pass, When
from services.auditor.stores import Stores
from services.auditor.taking import Taking
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.audit import AuditDocument, AuditRow
from services.settings import Settings, read_settings
from services.telemetry.admin import serve_admin
from services.telemetry.catalogue import METRICS, audit_states
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from services.telemetry.vitals import observe_vitals

EVERY_S: Final = 1.0
AT_MOST_S: Final = 4.0  # between two passes, however long they take
REMEMBERED: Final = 10_000  # messages of each publisher in memory; older ones that are settled lie on the shelf
_SHARE: Final = 12  # a pass may take one part in so many of the time
_FIRST_PASS_S: Final = 15.0  # of what a lab's start waits for it
_TELL_EVERY_S: Final = 20.0  # the logs are read again for it
_COUNTERS: Final = {
    "lost": "delivery.audit.lost",
    "duplicated": "delivery.audit.extra_applications",
    "unexpected": "delivery.audit.unexpected",
}


class Auditor:
    """Passes, what they found, and the figures that say it."""

    def __init__(self, settings: Settings, metrics: Metrics, log: Log) -> None:
        self._settings, self._metrics, self._log = settings, metrics, log
        consumers = settings.consumers.split(",") if settings.consumers else list(CONSUMER_ARMS)
        self.publishers = [arm for arm in PUBLISHER_ARMS.values() if arm.name in settings.publishers.split(",")]
        self.consumers = [arm for arm in CONSUMER_ARMS.values() if arm.name in consumers]
        self._stores = Stores(settings, None)
        self._taking = Taking(settings, self.publishers, self.consumers)
        audited = [*(arm.name for arm in self.publishers), *(arm.name for arm in self.consumers)]
        self._findings = Findings(settings, audited)
        self._counted: dict[tuple[str, ...], int] = {}
        self._promised = False  # written down
        self._read: Live | None = None  # the reading of the stores that findings are compared with, and since when
        self._read_at: float | None = None
        self.rows: list[AuditRow] = []
        self.at = now()
        self.took_s = 0.0
        self._began = time.monotonic()

    @property
    def waits_for(self) -> str:
        """Its first pass; but a lab that holds a lot is not kept waiting for that."""
        patient = not self.rows and time.monotonic() - self._began < _FIRST_PASS_S
        return "its first pass" if patient else ""

    async def recall(self) -> None:
        """Bring the counters to where they stood: before anybody can see them stand at 0. Waits for the database."""
        self._promise()
        while True:
            try:
                self._count(await self._findings.totals())
            except Unreachable as error:
                self._log.event("audit.failed", "warning", why=str(error))
                await asyncio.sleep(EVERY_S)
            else:
                return

    async def run(self) -> None:
        """Pass after pass, until it is cancelled. A store that is away ends a pass; the next one goes on from there."""
        while True:
            began, work_s = time.monotonic(), time.process_time()
            try:
                await self._pass()
            except Unreachable as error:
                self._log.event("audit.failed", "warning", why=str(error))
            cost_s = time.process_time() - work_s
            pause_s = 0.0 if self._taking.behind else min(AT_MOST_S, max(EVERY_S, _SHARE * cost_s))
            await asyncio.sleep(max(0.02, pause_s - (time.monotonic() - began)))

    async def _pass(self) -> None:
        began, began_at = time.monotonic(), time.time()
        held = await self._taking.look()
        if self._taking.behind:  # half of it is not there: nothing is judged by that, but what is applied is put away
            await self._findings.write(self._taking.live.settle(held))
            self._taking.live.forget(REMEMBERED, held.answers)
            return
        done = self._taking.live.judge(held, When(began_at, time.time()))
        await self._findings.write(done.found)
        await self._reconcile()
        self.rows, self.at = done.rows, now()
        if done.found:
            self._count(await self._findings.totals())
        await self._findings.write_rows(self.at, self.rows)
        if not self._promised:
            await self._findings.write_promises(self.rows)
            self._promised = True
        self._taking.live.forget(REMEMBERED, held.answers)
        self._show(done)
        self.took_s = round(time.monotonic() - began, 3)

    async def _reconcile(self) -> None:
        """Once everything was read anew, and the grace is over: what was found before and is not found now is gone."""
        live = self._taking.live
        if live is not self._read:
            self._read, self._read_at = live, time.monotonic()
        elif self._read_at is not None and time.monotonic() - self._read_at > GRACE_S + 2 * AT_MOST_S:
            self._read_at = None
            await self._findings.reconcile(live.standing())
            self._count(await self._findings.totals())

    async def tell(self) -> None:
        """Look into what was found, now and then, some at a time, until it is cancelled.

        Beside the passes: the logs are read again for it, and a loss shall not wait for the story of the one before.
        """
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            try:
                await self._tell()
            except Unreachable as error:
                self._log.event("audit.failed", "warning", why=str(error))

    async def _tell(self) -> None:
        if self._read is not self._taking.live:  # what is half read knows not where the messages lie
            return
        if untold := await self._findings.untold():
            for item in untold:
                at = self._taking.live.places_of(item.arm, key_of(item.message_id or ""))
                item.at = [str(place) for place in at]
            await trace(self._stores, untold, self.publishers)
            await explain(self._stores, self._taking.client, untold, self.consumers, self.publishers)
            await self._findings.tell(untold)

    async def final(self, run: str | None) -> AuditDocument:
        """A whole audit of a run, or of all; it is kept. Raises Unreachable."""
        document = await asyncio.to_thread(
            lambda: asyncio.run(audit(self._settings, run, arms=self.consumers, publishers=self.publishers))
        )
        await self._findings.keep(document)
        return document

    async def live(self) -> AuditDocument:
        """The last pass, in the shape of an audit of all runs. Raises Unreachable."""
        return AuditDocument(
            at=self.at,
            closes=not any(row.unexplained for row in self.rows),
            rows=self.rows,
            dead_letter_causes={},
            evidence=await self._findings.standing(),
            evidence_left_out={},
            run=None,
            out_of_scope=0,
            undecodable=self._taking.live.undecodable,
            ledger_lines_skipped=self._taking.client.skipped,
            truncated=self._taking.truncated,
            took_s=self.took_s,
        )

    async def close(self) -> None:
        """Let go of every store."""
        await self._taking.close()
        await self._findings.close()

    def _promise(self) -> None:
        for emitter in METRICS["delivery.promise_info"].emitters:
            for labels in emitter.series():
                self._metrics.set("delivery.promise_info", 1, **labels)

    def _count(self, totals: Totals) -> None:
        """Bring the counters to where the findings stand."""
        for ((hop, arm, effect), state), many in totals.found.items():
            if self._is_ours(hop, arm):
                self._rise(_COUNTERS[state], many, hop=hop, arm=arm, effect=effect)
        for (hop, arm), many in totals.taken_back.items():
            if self._is_ours(hop, arm):
                self._rise("delivery.audit.retractions", many, hop=hop, arm=arm)

    def _is_ours(self, hop: str, arm: str) -> bool:
        return arm in (CONSUMER_ARMS if hop == "process" else PUBLISHER_ARMS)

    def _rise(self, name: str, many: int, **labels: str) -> None:
        before = self._counted.get((name, *labels.values()), 0)
        if many > before:
            self._metrics.add(name, many - before, **labels)
            self._counted[name, *labels.values()] = many

    def _show(self, done: Pass) -> None:
        for row in done.rows:
            place = {"hop": row.hop, "arm": row.arm, "effect": row.effect}
            for state in audit_states(row.hop, row.arm):
                self._metrics.set("delivery.audit.messages", getattr(row, state), **place, state=state)
            if row.hop == "process":
                self._rise("delivery.audit.expected", row.expected, **place)
        self._metrics.set("delivery.audit.unexplained", sum(row.unexplained for row in done.rows))
        self._metrics.set("delivery.audit.last_success_timestamp", time.time())


def api(auditor: Auditor) -> list[web.RouteDef]:
    """GET /audit?run=R (a whole one), GET /live (the last pass)."""

    async def answer(asked: Awaitable[AuditDocument]) -> web.Response:
        try:
            return web.Response(body=msgspec.json.encode(await asked), content_type="application/json")
        except Unreachable as error:
            return web.json_response({"error": str(error)}, status=503)

    async def whole(request: web.Request) -> web.Response:
        return await answer(auditor.final(request.query.get("run")))

    async def live(_: web.Request) -> web.Response:
        return await answer(auditor.live())

    return [web.get("/audit", whole), web.get("/live", live)]


async def run(settings: Settings) -> None:
    """Audit until SIGTERM or SIGINT. A loop that ends before is a defect: raised, so that a new life is started."""
    life = str(uuid.uuid4())
    log, metrics = Log(settings.process, life, settings.log_file), Metrics(settings.process, life)
    log.capture_logging()
    log.event("process.started", pid=os.getpid())
    observe_vitals(metrics, life)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    os.environ["SQLITE_TMPDIR"] = settings.home  # all that a lab writes lies in its folder
    auditor = Auditor(settings, metrics, log)
    await auditor.recall()
    admin = await serve_admin(
        settings.bind, settings.admin_port, metrics, lambda: auditor.waits_for, more=api(auditor)
    )  # fmt: skip
    passes = asyncio.create_task(auditor.run(), name="passes")
    telling = asyncio.create_task(auditor.tell(), name="telling")
    reader = GapReader(settings.postgres, settings.ledger, settings.prometheus)
    watch = asyncio.create_task(GapWatch(reader, auditor.consumers, metrics).run(), name="telemetry gap")
    signalled = asyncio.create_task(stopping.wait(), name="signal")
    done, _ = await asyncio.wait([signalled, passes, telling, watch], return_when=asyncio.FIRST_COMPLETED)
    log.event("process.stopping")
    for loop in (passes, telling, watch):
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await loop
    await auditor.close()
    await admin.cleanup()
    for task in done:
        task.result()


if __name__ == "__main__":
    uvloop.run(run(read_settings()))
