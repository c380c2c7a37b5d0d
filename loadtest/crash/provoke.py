"""What makes a place be passed that a calm run does not pass, while the load runs: faults armed, poison, redrives."""

import asyncio
import contextlib
import random
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final

from loadtest.crash.cells import Provocation
from loadtest.data_faults import InjectionError, Raw, make, put
from loadtest.nemesis import told
from services.domain.messages import ORDERS, RUN_HEADER
from services.letters.letters import Selection
from services.letters.parked import Desk
from services.letters.redrive import redrive
from services.stack import client
from services.stack.home import Home
from services.storage.postgres import AWAY, connect

EVERY_S: Final = 1.0
REPLICA_S: Final = 6.0  # how long a second replica is there, or is not, at least


class Provocations:
    """Those of one round. `turn` is called while the load runs."""

    def __init__(self, home: Home, needs: Collection[Provocation], run: str, seed: int) -> None:
        self._home = home
        self._run = run
        self._armed = {armed for need in needs for armed in need.arms}
        self._poison = any(need.poison for need in needs)
        self._redriven = {need.redriven for need in needs} - {""}
        self._draw = random.Random(seed)  # noqa: S311  # faults are to be repeatable, not secret
        self._began = datetime.now(UTC)
        self._rebalanced = sorted({need.rebalanced for need in needs} - {""})
        self._due = 0.0
        self._scaled_at, self._replicas = 0.0, 1

    def arm(self) -> None:
        """Arm what is to go wrong all the time."""
        for failpoint, action in sorted(self._armed):
            arm(self._home, failpoint, action)

    def turn(self) -> None:
        """Once a second: a poison record, and the letters sent again; and replicas that come and go."""
        if self._rebalanced and time.monotonic() > self._scaled_at + REPLICA_S and self._have_joined():
            self._scale(3 - self._replicas)
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY_S
        if self._poison:
            self._put_poison()
        if self._redriven:
            with contextlib.suppress(*AWAY):
                asyncio.run(self._redrive())

    def stop(self) -> None:
        """Leave one replica of each process, as there was before."""
        if self._rebalanced:
            self._scale(1)

    def _have_joined(self) -> bool:
        """Whether the second replicas, if wanted, have their partitions: a busy machine takes longer."""
        ready = {process["name"] for process in client.status(self._home)["processes"] if process["ready"]}
        return self._replicas == 1 or {f"{name}#1" for name in self._rebalanced} <= ready

    def _scale(self, replicas: int) -> None:
        self._replicas = replicas
        for process in self._rebalanced:
            client.call(self._home, "POST", "/scale", {"name": process, "replicas": replicas})
        self._scaled_at = time.monotonic()

    def _put_poison(self) -> None:
        earlier = Raw(self._draw.randrange(ORDERS.partitions), b"", None, [(RUN_HEADER, self._run.encode())])
        bad = make("poison", earlier, self._draw, int(time.time() * 1000))
        with contextlib.suppress(InjectionError):  # the next one will do
            put(self._home.addresses()["LAB_KAFKA"], self._home.injected_log, "poison", ORDERS.topic, [bad])

    async def _redrive(self) -> None:
        addresses = self._home.addresses()
        database = await connect(addresses["LAB_POSTGRES"], "payments", name="crash matrix")
        try:
            desk = Desk(database, addresses["LAB_KAFKA"], _Calm(), "crash matrix", "to be dead-lettered again")
            selection = Selection(arms=sorted(self._redriven), since=self._began)
            await redrive(desk, selection, lambda _: None, window_s=0.0, force=True)
        finally:
            await database.close()


class _Calm:
    """The redrives that only provoke are not struck themselves."""

    async def hit(self, name: str) -> None:
        """Nothing."""


def arm(home: Home, failpoint: str, action: str) -> None:
    """Arm; a process that is just being killed need not have heard of it: its next life asks before any work."""
    told(lambda: client.arm(home, failpoint, action, by="scenario"))
