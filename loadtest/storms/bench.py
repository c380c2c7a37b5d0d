"""A lab under proof: its load, its faults, what its stores say, and the findings."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.run import Load, plan_for, start_plan
from loadtest.storms.proof import Finding, Proof
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.audit import AuditRow
from services.domain.verdict import promises_of
from services.stack import client
from services.stack.drain import Arms, drain
from services.stack.home import Home
from services.stack.nemesis import NemesisReader
from services.storage.postgres import connect

READY_S: Final = 120.0
DRAIN_S: Final = 180.0
CAUGHT_UP_S: Final = 600.0
LOOK_S: Final = 0.2
_LAB: Final = Path(sys.executable).with_name("lab")


class Stopped(Exception):
    """The proof cannot go on; the message says what was waited for, or what failed."""


class Bench:
    """One proof under way."""

    def __init__(self, home: Home, proof: Proof, seed: int, say: Callable[[str], None]) -> None:
        self.home, self.proof, self.seed, self.say = home, proof, seed, say
        self.findings: list[Finding] = []
        self.acknowledged = 0
        self.kafka = home.addresses()["LAB_KAFKA"]
        self._nemesis = NemesisReader(home.nemesis_log, from_end=True)

    # -- findings -----------------------------------------------------------------------------------------------------

    def found(self, what: str, seen: object, holds: bool | None = None) -> None:
        """Note what was seen, and whether it is what is promised."""
        self.findings.append(Finding(what, str(seen), holds))
        self.say(f"  {'' if holds is None else 'ok ' if holds else 'BROKEN '}{what}: {seen}")

    @property
    def faults(self) -> int:
        """How many processes were killed, frozen or restarted so far."""
        self._nemesis.new()
        return sum(fault.fault in ("kill", "freeze", "restart") for fault in self._nemesis.faults.values())

    # -- the lab ------------------------------------------------------------------------------------------------------

    def cli(self, *words: str, exits: Sequence[int] = (0,), timeout_s: float = 600) -> Any:
        """What `lab WORDS --json` answers; None where it answers nothing. Raises Stopped at another exit code."""
        done = subprocess.run(
            [str(_LAB), *words], env=self._environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode not in exits:
            raise Stopped(f"lab {' '.join(words)} exits {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout) if done.stdout.startswith("{") else None

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LAB_HOME": str(self.home.path), "LAB_PORT_BASE": str(self.home.port_base)}

    def act(self, action: str, *names: str, hold: bool = False) -> None:
        """Kill, freeze, thaw or restart processes at once."""
        client.act(self.home, action, *names, hold=hold, by="scenario")

    def arm(self, failpoint: str, action: str) -> None:
        client.arm(self.home, failpoint, action, by="scenario")

    def passed(self, failpoint: str) -> dict[str, int]:
        """How often each process has passed an armed failpoint."""
        passes = client.failpoints(self.home)["passes"]
        return {one["process"]: one["passes"] for one in passes if one["failpoint"] == failpoint}

    def scale(self, part: str, replicas: int) -> None:
        client.call(self.home, "POST", "/scale", {"name": part, "replicas": replicas})

    def processes(self) -> dict[str, dict[str, Any]]:
        """What the supervisor says of each process."""
        return {process["name"]: process for process in client.status(self.home)["processes"]}

    def all_ready(self, timeout_s: float = READY_S) -> float:
        """Wait until every process is ready by itself; returns how long it took."""

        def late() -> list[str]:
            return [f"{p['name']} ({p['state']})" for p in self.processes().values() if not p["ready"]]

        return self.until(lambda: not late(), lambda: f"{', '.join(late())} to be ready", timeout_s)

    def until(self, condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float) -> float:
        """Wait for a condition; returns how long it took. Raises Stopped with what was waited for."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout_s:
                raise Stopped(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}")
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def log(self, process: str, event: str) -> list[dict[str, Any]]:
        """The events of this name in a process's log."""
        file = self.home.log_file(process)
        lines = file.read_bytes().splitlines() if file.exists() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [entry for entry in found if entry.get("event") == event]

    # -- load and stores ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, rate: float, duration_s: float, **plan: Any) -> Iterator[Load]:
        """Send requests until the block ends, for `duration_s` at most; `plan`: other fields of the plan."""
        urls = client.status(self.home)["urls"]
        chosen = msgspec.structs.replace(
            plan_for(self.home, rate=rate, duration_s=duration_s, seed=self.seed), **plan
        )  # fmt: skip
        self.say(f"  load: {rate:g} requests a second, run {chosen.run}")
        load = start_plan(self.home, chosen, urls)
        try:
            self.until(lambda: load.snapshot().sent or load.poll() is not None, "the load's first request", 60)
            yield load
        finally:
            totals = load.stop()
            self.acknowledged += totals.acknowledged
            self.say(f"  load: {totals.acknowledged} of {totals.sent} acknowledged, {totals.not_sent} not sent")

    def load_whole(self, rate: float, duration_s: float, **plan: Any) -> str:
        """Send a load to its end; returns the run."""
        with self.load(rate, duration_s, **plan) as load:
            load.wait(duration_s + 120)
        return load.plan.run

    def drained(self, timeout_s: float = DRAIN_S) -> float:
        """Wait until nothing waits that anybody promises anything about; returns how long it took."""
        began = time.monotonic()
        promising = [CONSUMER_ARMS[name] for name in self.proof.consumers if any(CONSUMER_ARMS[name].promises.values())]
        arms = Arms([PUBLISHER_ARMS[name] for name in self.proof.publishers], promising)
        postgres = self.home.postgres_url("postgres")
        if left := asyncio.run(drain(postgres, self.kafka, timeout_s, lambda _: None, arms)):
            raise Stopped(f"not drained after {timeout_s:g} s: {'; '.join(map(str, left))}")
        return time.monotonic() - began

    def rows(self, database: str, query: str, *arguments: object, server: str = "postgres") -> list[Any]:
        """What a query finds in one of the lab's databases."""

        async def fetch() -> list[Any]:
            connection = await connect(self.home.postgres_url(server), database, name="storms")
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def value(self, database: str, query: str, *arguments: object, server: str = "postgres") -> Any:
        return self.rows(database, query, *arguments, server=server)[0][0]

    # -- the verdict --------------------------------------------------------------------------------------------------

    def audited(self, run: str, *, drain_s: float = DRAIN_S) -> dict[str, AuditRow]:
        """Drain, audit the run, and note whether every promise held; returns the rows by their names."""
        drained_s = self.drained(drain_s)
        self.found("drains by itself", f"{drained_s:.0f} s after the load", True)
        rows = [
            msgspec.convert(row, AuditRow) for row in self.cli("audit", "--json", "--run", run, exits=(0, 1))["rows"]
        ]
        broken = [f"{row.name}: {why}" for row in rows for why in violations(row)]
        messages = max(row.expected for row in rows)
        self.found("promises of every row", "; ".join(broken) or f"held, {messages:,} messages", not broken)
        for row in rows:
            if damage := harm(row):
                self.found(f"besides, {row.name}", damage)
        return {row.name: row for row in rows}


def violations(row: AuditRow) -> Iterator[str]:
    """What breaks a promise in a row that was audited after a drain."""
    promises = promises_of(row)
    kept: dict[str, tuple[str, ...]] = {
        "no_loss": ("lost", "waiting", "dead_lettered"),
        "no_duplicate": ("duplicated",),
    }
    counts = [count for promise in sorted(promises) for count in kept[promise]]
    for count in [*counts, "unexplained", *(["unexpected"] if promises else [])]:
        if many := getattr(row, count):
            yield f"{many} {count.replace('_', '-')}"


def harm(row: AuditRow) -> str:
    """What became of messages otherwise, where nothing was promised about it."""
    promised = {"no_loss": ("lost", "dead_lettered"), "no_duplicate": ("duplicated",)}
    known = {count for promise in promises_of(row) for count in promised[promise]}
    counts = ("lost", "duplicated", "unexpected", "waiting", "dead_lettered", "uncertain")
    seen = {count: getattr(row, count) for count in counts if count not in known}
    return ", ".join(f"{many:,} {count.replace('_', '-')}" for count, many in seen.items() if many)
