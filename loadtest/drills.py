"""Alert drills: make each alert fire on a running lab, and measure from the fault to its receipt.

The commands are those of the alert's runbook (a test holds the two together). `docs/alerts.json` keeps what was
measured, so that a drill goes on where it stopped.
"""

import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from loadtest.alerts import firing, series
from services.stack.client import status
from services.stack.home import Home
from services.stack.nemesis import Fault, read_faults

FILE: Final = Path(__file__).parent.parent / "docs" / "alerts.json"
CALM: Final = FILE.with_name("calm.json")
RUNBOOKS: Final = Path(__file__).parent.parent / "dashboards" / "runbooks"
LIMIT_S: Final = 15.0  # of the median, for the alerts of which several rounds are measured
ROUNDS: Final = 5
CALM_MINUTES: Final = 30.0
RATE: Final = 20.0  # requests a second meanwhile: three effects each, one after another, are what stock_faust can do
_LOOK_S: Final = 0.2
_CALM_S: Final = 150.0  # an alert that fires already gets so long to end
_COMMAND_S: Final = 60.0
_SHOWN: Final = 3

Say = Callable[[str], None]


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """How an alert is made to fire, as the commands of its runbook, and what ends it again."""

    alert: str
    strike: tuple[str, ...]
    undo: tuple[str, ...] = ()
    rounds: int = 1
    within_s: float = 60.0  # how long is waited for the page
    publishers: tuple[str, ...] = ()  # besides the default one
    severity: Literal["page", "info"] = "page"
    about: str = ""  # what the page must name: the alert may fire of others meanwhile
    of_a_promise: bool = False  # an alert that is information elsewhere

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"{self.alert}/{self.severity}" if self.of_a_promise else self.alert


DRILLS: Final = {
    drill.name: drill
    for drill in (
        Drill(alert="Watchdog", strike=(), severity="info"),
        Drill(
            alert="EventsLost",
            strike=("lab fault arm process.after_commit_before_effect kill count=1 arm=at_most_once",),
            undo=("lab fault clear",),
            rounds=ROUNDS,
            severity="info",
        ),
        Drill(
            alert="EffectDuplicated",
            strike=("lab fault arm process.after_record_before_commit kill count=1 arm=at_least_once",),
            undo=("lab fault clear",),
            rounds=ROUNDS,
            severity="info",
        ),
        Drill(alert="DeadLetterInflow", strike=("lab fault inject poison --count 8",), rounds=ROUNDS),
        Drill(
            alert="PartDown",
            strike=("lab kill relay --hold",),
            undo=("lab restart relay",),
            rounds=ROUNDS,
        ),
        Drill(alert="PartRestarted", strike=("lab kill relay",), severity="info"),
        Drill(alert="RelayStalled", strike=("lab freeze relay",), undo=("lab thaw relay",)),
        Drill(
            alert="GroupLagGrowing",
            strike=("lab freeze arm.at_least_once",),
            undo=("lab thaw arm.at_least_once",),
            within_s=90,
            about="at_least_once",
        ),
        Drill(alert="AuditStale", strike=("lab freeze auditor",), undo=("lab thaw auditor",)),
        Drill(alert="DeadLetterBacklog", strike=("lab fault inject poison",), within_s=120, severity="info"),
        Drill(
            alert="RetryStorm",
            strike=("lab fault arm provider.before_applying error:http_503 p=0.3",),
            undo=("lab fault clear",),
            within_s=150,
        ),
        Drill(
            alert="DedupHitsSustained",
            strike=("lab fault arm publish.after_produce_before_delete error:database p=0.5",),
            undo=("lab fault clear",),
            within_s=150,
            severity="info",
        ),
        Drill(
            alert="LossBudgetBurn",
            strike=("lab fault arm process.after_commit_before_effect kill p=0.2 arm=at_most_once",),
            undo=("lab fault clear",),
            within_s=240,
        ),
        Drill(
            alert="DuplicateBudgetBurn",
            strike=("lab fault arm process.after_record_before_commit kill p=0.2 arm=at_least_once",),
            undo=("lab fault clear",),
            within_s=240,
        ),
        Drill(
            alert="TelemetryGap",
            strike=("lab freeze prometheus", "sleep 20", "lab kill arm.effectively_once", "lab thaw prometheus"),
            within_s=120,
            severity="info",
        ),
        Drill(
            alert="UnexpectedEffect",
            strike=("lab fault arm accept.after_produce_before_commit kill count=1",),
            undo=("lab fault clear",),
            publishers=("dual_write_before_commit",),
            severity="info",
        ),
        Drill(
            alert="SlotHoldingWal",
            strike=("lab kill cdc --hold",),
            undo=("lab restart cdc",),
            publishers=("cdc",),
            within_s=600,
        ),
        # last, because what no process did looks like a gap in the telemetry, too
        Drill(
            alert="EventsLost",
            strike=("lab fault tamper remove effectively_once --effect record",),
            rounds=ROUNDS,
            of_a_promise=True,
        ),
        Drill(
            alert="EffectDuplicated",
            strike=("lab fault tamper repeat effectively_once --effect charge",),
            rounds=ROUNDS,
            of_a_promise=True,
        ),
        Drill(
            alert="UnexpectedEffect",
            strike=("lab fault tamper invent effectively_once --effect charge",),
            of_a_promise=True,
        ),
    )
}


class Measured(msgspec.Struct, frozen=True):
    """One round: from the fault to the receipt of the page."""

    delay_s: float
    fault: str
    severity: str
    summary: str
    at: str
    shown: str = ""  # what the runbook's query answered then


class Calm(msgspec.Struct, frozen=True):
    """Load without faults on a lab that had lost messages before, and who was paged all the same."""

    minutes: float
    rate: float
    lost_before: int
    pages: list[str]
    at: str


class NotFired(Exception):
    """The page did not come in time, or the lab cannot play the drill; the message says which."""


def measured(file: Path = FILE) -> dict[str, list[Measured]]:
    """What is written down, by drill."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, list[Measured]]) if file.exists() else {}


def keep(results: dict[str, list[Measured]], file: Path = FILE) -> None:
    """Write it down, whole or not at all."""
    _write({name: results[name] for name in DRILLS if name in results}, file)


def _write(document: Any, file: Path) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    part.replace(file)


def todo(names: Collection[str], results: dict[str, list[Measured]]) -> Iterator[tuple[Drill, int]]:
    """The drills that lack rounds, or of which nobody saw what the runbook shows, and how many."""
    for name, drill in DRILLS.items():
        rounds = results.get(name, ())
        left = max(drill.rounds - len(rounds), int(not any(one.shown for one in rounds)))
        if (not names or name in names) and left:
            yield drill, left


def calm(file: Path = CALM) -> Calm:
    """The last calm that was played."""
    return msgspec.json.decode(file.read_bytes(), type=Calm)


def keep_calm(one: Calm, file: Path = CALM) -> None:
    """Write it down."""
    _write(one, file)


def query_of(alert: str) -> str:
    """What the alert's runbook has one ask Prometheus. Raises ValueError when it does not have exactly one query."""
    (found,) = re.findall(r"^- Query: `(.+)`", (RUNBOOKS / f"{alert}.md").read_text(), re.MULTILINE)
    return str(found)


def median_s(rounds: Collection[Measured]) -> float:
    return statistics.median(one.delay_s for one in rounds)


class Range:
    """Where drills are played: a running lab with faults allowed, under load."""

    def __init__(self, home: Home, say: Say) -> None:
        self._home = home
        self._say = say
        self._now = status(home)
        if "console" not in self._now["urls"]:
            raise NotFired("the lab is not up, or has no console: `lab up --faults`")

    def can(self, drill: Drill) -> bool:
        """Whether this lab has the publisher arms that a drill needs."""
        running = {process["name"] for process in self._now["processes"]}
        return all(f"orders.{arm}" in running for arm in drill.publishers)

    def play(self, drill: Drill) -> Measured:
        """One round: wait for calm, strike, wait for the page, undo. Raises NotFired."""
        if not drill.strike:
            return self._seen(drill)
        # Pages do not tell: a lab that goes down leaves its last alert open.
        self._wait(lambda: drill.alert not in self.firing(), _CALM_S, f"{drill.alert} fires already and does not end")
        began = time.time()
        try:
            for command in drill.strike:
                self._strike(command)
            page = self._wait(lambda: self._page(drill, began), drill.within_s, f"{drill.alert} did not come")
            shown = self._shown(drill)
        finally:
            for command in drill.undo:
                if said := self._run(command):
                    self._say(f"  {command}: {said}")
        fault = self._fault(began, page["started"])
        delay_s = round(page["received"] - fault.started, 2)
        return _measured(page, delay_s, f"{fault.fault} {fault.target}", shown)

    def _seen(self, drill: Drill) -> Measured:
        """Of the alert that always fires: the delay is from the begin of the alert."""
        page = self._wait(lambda: self._page(drill, 0.0), drill.within_s, f"{drill.alert} did not come")
        return _measured(page, page["delay_s"], "none", self._shown(drill))

    def series(self, query: str) -> dict[str, float]:
        """What Prometheus answers now, by labels. Raises NotFired."""
        with self._prometheus():
            return series(self._home.addresses()["LAB_PROMETHEUS"], query)

    def _shown(self, drill: Drill) -> str:
        """What the runbook's query answers now: the greatest of its series, at most three."""
        greatest = sorted(self.series(query_of(drill.alert)).items(), key=lambda one: -one[1])[:_SHOWN]
        return "; ".join(f"{labels}: {value:g}" if labels else f"{value:g}" for labels, value in greatest)

    def firing(self) -> set[str]:
        """The names of the alerts that fire now. Raises NotFired."""
        with self._prometheus():
            return firing(self._home.addresses()["LAB_PROMETHEUS"])

    @contextmanager
    def _prometheus(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise NotFired(f"Prometheus does not answer ({error}): see `lab status`") from error

    def pages(self) -> list[dict[str, Any]]:
        """What the console received, newest first."""
        with urllib.request.urlopen(f"{self._now['urls']['console']}/api/received", timeout=10) as answer:  # noqa: S310  # our own
            pages: list[dict[str, Any]] = json.load(answer)
        return pages

    def _page(self, drill: Drill, began: float) -> dict[str, Any] | None:
        found = [
            page
            for page in self.pages()
            if (page["name"], page["severity"], page["status"]) == (drill.alert, drill.severity, "firing")
            and page["started"] >= began - 1
            and drill.about in page["summary"]
        ]
        return found[-1] if found else None  # the first that came

    def become_calm(self) -> None:
        """Wait until nothing fires but Watchdog, which must. Raises NotFired, naming what does."""
        deadline = time.monotonic() + _CALM_S
        while (now := self.firing()) != {"Watchdog"}:
            if time.monotonic() > deadline:
                others = ", ".join(sorted(now - {"Watchdog"})) or "nothing, not even Watchdog,"
                raise NotFired(f"{others} fires before the calm has begun: see the runbooks, or `lab dlq discard`")
            time.sleep(_LOOK_S)

    def _fault(self, began: float, alerted: float) -> Fault:
        """What was struck: a kill by a failpoint is the fault, not the arming of the failpoint."""
        faults = [fault for fault in read_faults(self._home.nemesis_log) if began - 1 <= fault.started <= alerted + 2]
        struck = [fault for fault in faults if fault.fault != "arm"] or faults
        if not struck:
            raise NotFired("the nemesis log has no fault of this round")
        return min(struck, key=lambda fault: fault.started)

    def _strike(self, command: str) -> None:
        """Do it; again, as long as what it needs has yet to come with the load. Raises NotFired."""
        deadline = time.monotonic() + _COMMAND_S
        while said := self._run(command):
            if time.monotonic() > deadline:
                raise NotFired(f"`{command}` is not done: {said}")
            time.sleep(_LOOK_S)

    def _run(self, command: str) -> str:
        """Run a command; says why it was not done."""
        name, *arguments = command.split()
        if name == "sleep":
            time.sleep(float(arguments[0]))
            return ""
        done = subprocess.run(
            [sys.executable, "-m", "lab.main", *arguments],
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""

    @staticmethod
    def _wait(look: Callable[[], Any], timeout_s: float, otherwise: str) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := look()):
            if time.monotonic() > deadline:
                raise NotFired(f"{otherwise} within {timeout_s:g} s")
            time.sleep(_LOOK_S)
        return found


def _measured(page: dict[str, Any], delay_s: float, fault: str, shown: str) -> Measured:
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(page["received"]))
    return Measured(delay_s, fault, page["severity"], page["summary"], at, shown)
