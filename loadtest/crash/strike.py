"""One round on a running lab: load, the processes killed one action after the other, drain, audit."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.crash.cells import REPLAYED_INTO, Cell, Round
from loadtest.crash.provoke import Provocations, arm
from loadtest.nemesis import told
from loadtest.run import start
from services.auditor.audit import audit
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.audit import AuditDocument
from services.domain.messages import ORDERS
from services.failpoints.names import COMMANDS, REDRIVE
from services.settings import read_settings
from services.stack import client
from services.stack.drain import Arms, drain
from services.stack.home import Home

RATE: Final = 10.0  # requests a second, at every publisher arm
LONGEST_LOAD_S: Final = 1800.0
ACTION_S: Final = 90.0  # in which a place must be passed as often as its action asks for
CHANCE_S: Final = 20.0  # how long an action by chance has
READY_S: Final = 300.0
DRAIN_S: Final = 180.0
LOOK_EVERY_S: Final = 0.25

# The tutorial's loop may stall for ever: nobody waits for it.
WAITED_FOR: Final = Arms(
    tuple(PUBLISHER_ARMS.values()), tuple(arm for arm in CONSUMER_ARMS.values() if arm.name != "stock_faust")
)

Say = Callable[[str], None]


class Done(msgspec.Struct, frozen=True):
    """What an action did: how often the place was passed since it was armed, and how often it acted."""

    action: str
    passes: int
    acted: int

    @property
    def by_chance(self) -> bool:
        return "p=" in self.action


class Outcome(msgspec.Struct, frozen=True):
    """What a round left behind. `left`: what still waited after the drain."""

    run: str
    done: dict[str, list[Done]]  # by cell
    left: list[str]
    audited: AuditDocument


class Strike:
    """The actions of the cells of one process, one after the other."""

    def __init__(self, home: Home, cells: Sequence[Cell], say: Say, action_s: float = ACTION_S) -> None:
        self._home, self._say, self._action_s = home, say, action_s
        self._queue = [(cell, action) for cell in cells for action in cell.actions]
        self._since = 0.0
        self.done: dict[str, list[Done]] = {cell.name: [] for cell in cells}

    @property
    def over(self) -> bool:
        return not self._queue

    def turn(self, armed: Sequence[dict[str, Any]]) -> None:
        """Arm what is next, or take down what became of it. `armed`: what the supervisor says."""
        if self.over:
            return
        cell, action = self._queue[0]
        if not self._since:
            arm(self._home, cell.failpoint, f"{action} arm={cell.selector}" if cell.selector else action)
            self._since = time.monotonic()
            return
        entry = next((e for e in armed if (e["failpoint"], e["arm"]) == (cell.failpoint, cell.selector)), None)
        counts = Done(action, entry["passes"], entry["acted"]) if entry else Done(action, 0, 0)
        allowed_s = CHANCE_S if counts.by_chance else self._action_s
        if (entry and entry["spent"]) or time.monotonic() > self._since + allowed_s:
            self._say(f"{action:<20} {cell.name}: passed {counts.passes}, acted {counts.acted}")
            self.done[cell.name].append(counts)
            self._queue.pop(0)
            self._since = 0.0


class Command:
    """A command that passes failpoints, run again and again."""

    def __init__(self, home: Home, name: str, id_: str) -> None:
        self._home, self._name, self._id = home, name, id_
        self._number = 1
        self._began = datetime.now(UTC)
        self._process: subprocess.Popen[bytes] | None = None

    def turn(self) -> None:
        """Begin it again when it has ended. A replay that was killed is resumed by its id."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._number += code == 0
        self._process = self._begin()

    def stop(self) -> None:
        """Leave nothing running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def finish(self) -> None:
        """Let what was killed half way be completed."""
        if self._process is not None and self._process.wait() != 0:
            self._begin().wait()

    def _begin(self) -> subprocess.Popen[bytes]:
        lab = Path(sys.executable).with_name("lab")
        environment = {**os.environ, "LAB_HOME": str(self._home.path), "LAB_PORT_BASE": str(self._home.port_base)}
        with (self._home.logs / "crash-commands.log").open("ab") as log:
            return subprocess.Popen([str(lab), *self._words()], env=environment, stdout=log, stderr=log)

    def _words(self) -> list[str]:
        if self._name == REDRIVE:
            return ["dlq", "redrive", "--arm", REPLAYED_INTO, "--since", "10m", "--force", "--why", "crash matrix"]
        window = ["--topic", ORDERS.topic, "--from", self._began.isoformat(), "--to", "now"]
        return ["replay", "--arm", REPLAYED_INTO, *window, "--id", f"{self._id}-{self._number}"]


def carry_out(
    home: Home, round_: Round, run: str, seed: int, say: Say, *, action_s: float = ACTION_S
) -> Outcome:  # fmt: skip
    """Strike the cells of a round under load, drain and audit. The lab must be up, with faults."""
    told(lambda: client.clear(home))
    until_ready(home)
    load = start(home, RATE, LONGEST_LOAD_S, seed, run)
    provocations = Provocations(home, [cell.needs for cell in round_.cells], run, seed)
    by_process: dict[tuple[str, str], list[Cell]] = {}
    for cell in round_.cells:
        by_process.setdefault((cell.process, cell.account), []).append(cell)
    strikes = [Strike(home, cells, say, action_s) for cells in by_process.values()]
    commands = [Command(home, process, run) for process, _ in by_process if process in COMMANDS]
    try:
        provocations.arm()
        while not all(strike.over for strike in strikes):
            armed = client.failpoints(home)["armed"]
            for strike in strikes:
                strike.turn(armed)
            for command in commands:
                command.turn()
            provocations.turn()
            time.sleep(LOOK_EVERY_S)
    except BaseException:
        for command in commands:
            command.stop()
        raise
    finally:
        load.stop()
        told(lambda: client.clear(home))
        provocations.stop()
    for command in commands:
        command.finish()
    until_ready(home)
    done = {name: actions for strike in strikes for name, actions in strike.done.items()}
    return asyncio.run(_judged(home, run, done, say))


async def _judged(home: Home, run: str, done: dict[str, list[Done]], say: Say) -> Outcome:
    addresses = home.addresses()
    say("drain")
    left = await drain(addresses["LAB_POSTGRES"], addresses["LAB_KAFKA"], DRAIN_S, lambda _: None, WAITED_FOR)
    say("audit")
    settings = read_settings({**addresses, "LAB_HOME": str(home.path)})
    audited = await audit(settings, run, publishers=tuple(PUBLISHER_ARMS.values()))
    return Outcome(run, done, [str(waiting) for waiting in left], audited)


def until_ready(home: Home) -> None:
    """Wait until every process is back. Raises TimeoutError that names those that are not."""
    deadline = time.monotonic() + READY_S
    while away := [p["name"] for p in client.status(home)["processes"] if not p["ready"] and not p["optional"]]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready again after {READY_S:g} s: {', '.join(away)}")
        time.sleep(LOOK_EVERY_S)
