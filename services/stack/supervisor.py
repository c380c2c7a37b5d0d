"""The supervisor: starts the parts in order, keeps them running, kills and freezes them on request, counts failpoints.

`python -m services.stack.supervisor`, detached by `lab up`. One asyncio loop in the main thread: children are forked
from it, so that they die with it (PR_SET_PDEATHSIG fires when the forking thread ends).
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import groupby
from typing import Final

import aiohttp
from aiohttp import web

from services.domain.arms import DEFAULT_PUBLISHER
from services.failpoints.grammar import Armed, parse_all
from services.failpoints.registry import Registry
from services.stack import prometheus, zipkin
from services.stack.api import make_api
from services.stack.child import Child, Managed
from services.stack.debian import ALERTMANAGER, PROMETHEUS
from services.stack.home import Home
from services.stack.kept import Kept, Line, Watched
from services.stack.launch import Launch, depth, launch, order_of_start
from services.stack.logfiles import keep_bounded
from services.stack.nemesis import NemesisLog
from services.stack.own import has_members
from services.stack.parts import GUESTS, MAX_REPLICAS, PARTS, SUPERVISOR_PORT, Part, of_arms
from services.stack.probes import PostgresProbe, http_ready, kafka_ready
from services.telemetry.logs import Log

SAMPLE_EVERY_S: Final = 1.0
_READY: Final = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "zipkin": "/health", "grafana": "/api/health"}
_FOUND: Final = {"prometheus": PROMETHEUS.find, "alertmanager": ALERTMANAGER.find, "zipkin": zipkin.find}


class Supervisor:
    """All children of one lab."""

    def __init__(
        self,
        home: Home,
        *,
        faults: bool,
        seed: int,
        only: tuple[str, ...] = (),
        armed: tuple[Armed, ...] = (),
        guests: tuple[str, ...] = (),
    ) -> None:
        self.home = home
        self.faults = faults
        self.armed_at_start = armed
        self.guests = guests
        self.order = order_of_start(only)
        self.log = Log("supervisor", str(os.getpid()), str(home.log_file("supervisor")))
        self.nemesis = NemesisLog(home.nemesis_log, seed, self.log)
        self.failpoints = Registry(seed)
        self.children: dict[str, Managed] = {}
        self.stopping = asyncio.Event()
        self.started = time.time()
        self._tasks: set[asyncio.Task[None]] = set()  # held, or they could be collected while they run
        self._session: aiohttp.ClientSession | None = None

    async def run(self, leash: int | None = None) -> None:
        """Start everything, serve until asked to stop, end everything in reverse order.

        `leash`: a pipe; when its other end is closed before it has said that the start succeeded, everything ends.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        if leash is not None:
            self._hold_leash(leash)
        async with aiohttp.ClientSession() as self._session:
            runner = web.AppRunner(make_api(self), access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, self.home.bind, self.home.port(SUPERVISOR_PORT)).start()
            self._write_state()
            for name in self.order:
                part = PARTS[name]
                if name in self.home.hosts:
                    if part.kind != "task":  # who runs it waits for its end
                        self._add_from_elsewhere(part, 0)
                    continue
                if (find := _FOUND.get(part.kind)) is not None and find() is None:
                    continue
                for replica in range(part.replicas):
                    self.add(part, replica)
            for guest in self.guests:
                self.add(GUESTS[guest], 0)
            sampler = asyncio.create_task(self._sample())
            await self.stopping.wait()
            sampler.cancel()
            await self._end_all()
            self.nemesis.end_all("the lab")
            await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            (self.home.run / "supervisor.json").unlink()

    def add(self, part: Part, replica: int, how: Launch | None = None) -> Child:
        """Start a replica that is not there yet."""
        how = how or launch(part, replica, self.home, faults=self.faults)
        name = part.instance(replica)
        child = Child(part, replica, how, self.home.log_file(name), self.log, self._probe(part, replica))
        self._take_on(child)
        return child

    def _add_from_elsewhere(self, part: Part, replica: int) -> None:
        """Take on a process that runs in a container: with its keeper, where it has one."""
        if part.kind == "service":
            self._take_on(Kept(part, replica, self._line(part), self.log))
        else:
            self._take_on(Watched(part, replica, self._probe(part, replica), self.log))

    def _line(self, part: Part) -> Line:
        assert self._session is not None  # noqa: S101
        return Line(f"http://{self.home.at(part.name, SUPERVISOR_PORT)}", self.home.secret("token"), self._session)

    def _take_on(self, child: Managed) -> None:
        self.children[child.name] = child
        task = asyncio.create_task(child.run(partial(self._ready_all, child.part.after)), name=child.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def scale(self, part: Part, replicas: int) -> None:
        """Add or end replicas of a part until there are `replicas`.

        Raises ValueError when the part cannot have that many.
        """
        if not part.replicable or not 0 <= replicas <= MAX_REPLICAS:
            raise ValueError(f"{part.name} can have {'0 to 8 replicas' if part.replicable else 'no replicas'}")
        elsewhere = part.name in self.home.hosts
        if elsewhere:
            await self._line(part).order("/scale", replicas=replicas)
        for replica in range(replicas):
            if part.instance(replica) not in self.children:
                self._add_from_elsewhere(part, replica) if elsewhere else self.add(part, replica)
        surplus = [child for child in self.of_part(part) if child.replica >= replicas]
        await asyncio.gather(*(child.end() for child in surplus))
        for child in surplus:
            self.children.pop(child.name, None)  # another request may have been quicker
        self._scrape_those_there_are()

    def _scrape_those_there_are(self) -> None:
        """Tell Prometheus about the replicas that came and went."""
        running = self.children.get("prometheus")
        if running is not None and running.pid is not None:
            prometheus.write_configuration(self.home, self.order, self.replicas())
            os.kill(running.pid, signal.SIGHUP)

    def replicas(self) -> dict[str, int]:
        """How many there are of each part."""
        return {name: len(self.of_part(PARTS[name])) for name in self.order}

    def of_part(self, part: Part) -> list[Managed]:
        """The replicas of a part."""
        return [child for child in self.children.values() if child.part.name == part.name]

    def _ready_all(self, parts: tuple[str, ...]) -> bool:
        return all(any(child.ready for child in self.of_part(PARTS[name])) for name in parts)

    def _probe(self, part: Part, replica: int) -> Callable[[], Awaitable[bool]]:
        home = self.home
        if part.kind == "postgres":
            return PostgresProbe(home.postgres_url(part.name))
        if part.kind == "kafka":
            host, _, port = home.at(part.name, part.port).partition(":")
            return partial(kafka_ready, host, int(port))
        if part.kind in _READY:
            return partial(self._http_probe, f"{home.http_url(part)}{_READY[part.kind]}")
        if part.kind == "own":
            return partial(self._group_probe, f"payments.{part.consumer}")
        return partial(self._http_probe, f"{home.admin_url(part, replica)}/readyz")

    async def _group_probe(self, group: str) -> bool:
        """A consumer of the user's own has no endpoint: it is ready when its group is at work."""
        return await asyncio.to_thread(has_members, self.home.addresses()["LAB_KAFKA"], group)

    async def _http_probe(self, url: str) -> bool:
        return self._session is not None and await http_ready(self._session, url)

    async def _sample(self) -> None:
        while True:
            for child in self.children.values():
                child.sample()
            with contextlib.suppress(OSError):
                keep_bounded(self.home.log_file("supervisor"))
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _end_all(self) -> None:
        """End what nothing depends on first; what does not depend on each other ends together."""
        await asyncio.gather(*(child.end() for child in self.children.values() if child.part.name not in PARTS))
        for _, names in groupby(sorted(self.order, key=depth, reverse=True), key=depth):
            await asyncio.gather(*(child.end() for name in names for child in self.of_part(PARTS[name])))

    def _write_state(self) -> None:
        state = {"pid": os.getpid(), "port_base": self.home.port_base, "faults": self.faults, "started": self.started}
        file = self.home.run / "supervisor.json"
        file.with_suffix(".part").write_text(json.dumps({**state, "seed": self.failpoints.seed}))
        file.with_suffix(".part").replace(file)

    def _hold_leash(self, fd: int) -> None:
        loop = asyncio.get_running_loop()

        def pulled() -> None:
            loop.remove_reader(fd)
            if not os.read(fd, 2):
                self.log.event("process.stopping", why="`lab up` ended before the lab was up")
                self.stopping.set()
            os.close(fd)

        loop.add_reader(fd, pulled)


def _named(variable: str) -> tuple[str, ...]:
    return tuple(name for name in os.environ.get(variable, "").split(",") if name)


def main() -> None:
    """Supervise the lab of the environment.

    LAB_HOME, LAB_PORT_BASE, LAB_FAULTS, LAB_SEED, LAB_ONLY, LAB_FAILPOINTS, LAB_LEASH. In containers (LAB_HOSTS) its
    parts are those of LAB_PUBLISHERS and LAB_CONSUMERS.
    """
    home = Home.from_environment()
    only = _named("LAB_ONLY")
    if home.hosts:
        home.create()
        only = only or of_arms(_named("LAB_PUBLISHERS") or (DEFAULT_PUBLISHER,), _named("LAB_CONSUMERS"))
    faults, seed = os.environ.get("LAB_FAULTS") == "1", int(os.environ.get("LAB_SEED", "1"))
    armed = parse_all(os.environ.get("LAB_FAILPOINTS", "")) if faults else ()
    supervisor = Supervisor(home, faults=faults, seed=seed, only=only, armed=armed, guests=_named("LAB_GUESTS"))
    leash = os.environ.pop("LAB_LEASH", "")
    asyncio.run(supervisor.run(int(leash) if leash else None))


if __name__ == "__main__":
    main()
