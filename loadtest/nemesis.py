"""Carries out a scenario's timeline beside the load, and notes at each blow where the consumer groups stood.

An effect at or above its group's committed offset, applied before the blow, proves that its record was due again: seen
from outside, for any arm.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from loadtest.data_faults import inject
from loadtest.scenario import AnyStep, Arm, DeleteOffsets, Freeze, Inject, Kill, Planned, Redrive, Replay, Restart
from services.broker.reader import bounds, committed
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.failpoints import Failpoints
from services.letters.letters import Selection
from services.letters.parked import Desk
from services.letters.redrive import redrive
from services.replay.asking import make_plan, read_asked
from services.replay.copying import copy
from services.settings import Settings
from services.stack import client
from services.stack.client import Refused
from services.stack.home import Home
from services.stack.nemesis import Fault, NemesisReader
from services.storage.postgres import connect

BLOWS: Final = ("kill", "freeze")
_HANDS: Final = 4  # steps that may be under way at once: one that waits for a frozen process holds no other up
_PATIENCE_S: Final = 30.0
_NAP_S: Final = 0.2
_ACT_WITHIN_S: Final = 15.0
_CALM_S: Final = 180.0  # for every process to be ready again in the end

Say = Callable[[str], None]
Do = Callable[[], object]


class Note(msgspec.Struct, frozen=True):
    """What a group had committed, and how much of it was under way, when its arm was struck."""

    arm: str
    target: str
    at: float
    offsets: Mapping[tuple[str, int], int]
    under_way: int  # records on the topic that the group had not committed


class Nemesis:
    """One run's faults. Not for several threads: `tick` and `finish` are called by the one that plays."""

    def __init__(
        self, home: Home, settings: Settings, run: str, seed: int, plan: Sequence[Planned],
        arms: Collection[ConsumerArm], say: Say,
    ) -> None:  # fmt: skip
        self.notes: list[Note] = []
        self.failures: list[str] = []  # steps that could not be carried out, with the reason
        self._home, self._settings, self._run, self._seed, self._say = home, settings, run, seed, say
        self._arms = {arm.name: arm for arm in arms}
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)
        self._reader = NemesisReader(home.nemesis_log, from_end=True)
        self._order = count()
        self._due: list[tuple[float, int, str, Do]] = []
        for planned in plan:
            self._at(planned.at_s, str(planned.step), partial(self._carry_out, planned.step))
            if end := self._end_of(planned.step):
                after_s, words, do = end
                self._at(planned.at_s + after_s, words, do)
        self._hands = ThreadPoolExecutor(_HANDS, "nemesis")
        self._under_way: dict[Future[Any], str] = {}
        self._noting: list[Future[Any]] = []

    @property
    def faults(self) -> list[Fault]:
        """Every fault of the run so far; the end of one is written down a moment after its process is ready again."""
        self._reader.new()
        return list(self._reader.faults.values())

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def begin(self) -> None:
        """The load begins now: the timeline counts from here."""
        self._began, self._began_at = time.monotonic(), datetime.now(UTC)

    def tick(self) -> None:
        """Begin what is due, take in what ended, note what was struck."""
        while self._due and self._due[0][0] <= self.elapsed_s:
            _, _, words, do = heapq.heappop(self._due)
            self._say(f"{self.elapsed_s:4.0f} s  {words}")
            self._under_way[self._hands.submit(do)] = words
        for future in [future for future in self._under_way if future.done()]:
            words = self._under_way.pop(future)
            if error := future.exception():
                self._failed(words, error)
        self._watch()

    def done(self) -> bool:
        """Whether the whole timeline was carried out."""
        return not self._due and not self._under_way

    def give_up(self) -> None:
        """Begin nothing more."""
        self._due.clear()

    def calm(self) -> None:
        """End every fault: what is under way ends, all is disarmed, thawed and started; waits until all are ready."""
        deadline = time.monotonic() + _PATIENCE_S
        while self._under_way and time.monotonic() < deadline:
            self.tick()
            time.sleep(_NAP_S)
        told(lambda: client.clear(self._home))
        deadline = time.monotonic() + _CALM_S
        while not_ready := self._not_ready():
            self._watch()
            if time.monotonic() > deadline:
                self.failures.append(f"not ready again within {_CALM_S:g} s: {', '.join(not_ready)}")
                break
            time.sleep(_NAP_S)
        self._watch()
        for future in self._noting:
            future.result(_PATIENCE_S)
        self._hands.shutdown()

    def _not_ready(self) -> list[str]:
        """The processes that are not ready; those that wait for a word are given it."""
        processes = client.status(self._home)["processes"]
        for action, state in (("thaw", "frozen"), ("restart", "held"), ("restart", "failed")):
            if names := [p["name"] for p in processes if p["state"] == state and not p["optional"]]:
                self._patiently(lambda action=action, names=names: client.act(self._home, action, *names))  # type: ignore[misc]
        return [p["name"] for p in processes if not p["ready"] and not p["optional"]]

    def _patiently(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Refused as error:  # it has changed since it was looked at
            self._say(f"        {error}")

    def _failed(self, words: str, error: BaseException) -> None:
        self.failures.append(f"{words}: {error or type(error).__name__}")
        self._say(f"        could not be carried out: {words}: {error or type(error).__name__}")

    def _at(self, at_s: float, words: str, do: Do) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), words, do))

    def _watch(self) -> None:
        """Say what failpoints did, and note the offsets of who was struck."""
        for fault in self._reader.new():
            if fault.by == "failpoint":
                self._say(f"{self.elapsed_s:4.0f} s  SIGKILL  {fault.target} at {fault.details.get('failpoint', '')}")
            arm = self._arms.get(fault.target.partition("#")[0].removeprefix("arm.").removeprefix("retry."))
            if fault.fault in BLOWS and arm is not None:
                self._noting.append(self._hands.submit(self._note, fault, arm))

    def _note(self, fault: Fault, arm: ConsumerArm) -> None:
        lane = fault.target.startswith("retry.")
        topics = (*arm.retry_topics, arm.redelivery_topic) if lane else [topic.name for topic in MAIN_TOPICS]
        try:
            offsets = committed(self._settings.kafka, arm.lane_group if lane else arm.group)
            ends = bounds(self._settings.kafka, topics).ends
        except KafkaException:
            return  # the broker is down, too: nothing is known, so nothing is claimed
        left = sum(max(0, end - offsets.get(partition, 0)) for partition, end in ends.items())
        self.notes.append(Note(arm.name, fault.target, fault.started, offsets, left))

    def _carry_out(self, step: AnyStep) -> None:
        ways: dict[type[AnyStep], Callable[[Any], object]] = {
            Arm: lambda step: told(lambda: client.arm(self._home, step.failpoint, step.action, by="scenario")),
            Kill: lambda step: self._act("kill", step.processes, hold=step.hold_s is not None),
            Freeze: lambda step: self._act("freeze", step.processes),
            Restart: lambda step: self._act("restart", step.processes),
            Inject: self._inject,
            Redrive: lambda step: asyncio.run(self._redrive(step)),
            Replay: self._replay,
            DeleteOffsets: self._delete_offsets,
        }
        ways[type(step)](step)

    def _end_of(self, step: AnyStep) -> tuple[float, str, Do] | None:
        """How long after its begin a step ends, and what ends it."""
        match step:
            case Arm(for_s=float(for_s), failpoint=name):
                return for_s, f"clear {name}", lambda: told(lambda: client.clear(self._home, name))
            case Kill(hold_s=float(hold_s), processes=names):
                return hold_s, f"start {' '.join(names)}", lambda: self._act("restart", names)
            case Freeze(for_s=for_s, processes=names):
                return for_s, f"thaw {' '.join(names)}", lambda: self._act("thaw", names)
        return None

    def _act(self, action: str, names: Sequence[str], *, hold: bool = False) -> None:
        """Do it as soon as it can be done: who was just killed by somebody else is not there for a while."""
        deadline = time.monotonic() + _ACT_WITHIN_S
        while True:
            try:
                client.act(self._home, action, *names, hold=hold, by="scenario")
            except Refused:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_NAP_S)
            else:
                return

    def _inject(self, step: Inject) -> None:
        home = self._home
        done = inject(
            self._settings.kafka, home.injected_log, step.kind, step.topic, step.count, seed=self._seed, run=self._run
        )
        client.note_data(home, step.kind, step.topic, len(done), by="scenario")

    async def _redrive(self, step: Redrive) -> None:
        database = await connect(self._settings.postgres, "payments", name="nemesis")
        try:
            desk = Desk(database, self._settings.kafka, self._failpoints("redrive"), "scenario", f"run {self._run}")
            selection = Selection(arms=(step.arm,))
            window_s = self._settings.dedup_window_s
            await redrive(desk, selection, lambda _: None, window_s=window_s, force=step.force)
        finally:
            await database.close(timeout=1)

    def _replay(self, step: Replay) -> None:
        begin = self._began_at.isoformat()
        now = datetime.now(UTC)
        asked = read_asked(step.arm, step.topic, begin, now.isoformat(), None, None, now)
        plan, _ = make_plan(self._settings, asked, None, now, force=False)
        copy(self._settings.kafka, plan, self._failpoints("replay"), lambda _: None)

    def _failpoints(self, command: str) -> Failpoints:
        return Failpoints(command, self._settings.supervisor, self._home.secret("token"), allowed=True)

    def _delete_offsets(self, step: DeleteOffsets) -> None:
        """Deleting a group is refused while it has members: a dead one is a member until its session ends."""
        names = [f"arm.{step.arm}"]
        self._act("kill", names, hold=True)
        try:
            delete_group(self._settings.kafka, CONSUMER_ARMS[step.arm].group)
        finally:
            self._act("restart", names)


def told(do: Do) -> None:
    """Arm or clear. It is done, too, when some process has not taken it in yet: a frozen or a slow one learns late."""
    try:
        do()
    except Refused as error:
        if error.status != 409:
            raise


def delete_group(bootstrap: str, group: str) -> None:
    """Delete a group as soon as it has no members. Raises KafkaException when it still has after 30 s."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None})
    deadline = time.monotonic() + _PATIENCE_S
    while error := admin.delete_consumer_groups([group], request_timeout=_PATIENCE_S)[group].exception():
        if time.monotonic() > deadline:
            raise error
        time.sleep(_NAP_S)
