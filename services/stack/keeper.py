"""The first process of a container of the lab: the supervisor of one part. `python -m services.stack.keeper PART`

It starts the part's process as the native stack would, keeps it running, and kills, freezes and restarts it when the
lab's supervisor (services/stack/kept.py) says so: inside the container, so that nobody needs the engine's socket. A
task is not kept: it takes the keeper's place, and its exit code is the container's.
"""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from functools import partial
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from services.stack.child import Child
from services.stack.guard import guarded, json_response
from services.stack.home import Home
from services.stack.kept import Told
from services.stack.launch import launch
from services.stack.parts import MAX_REPLICAS, PARTS, SUPERVISOR_PORT, Part
from services.stack.probes import http_ready
from services.telemetry.logs import Log

KEEPER_MB: Final = 100  # what a container needs beyond the bound of its process
SAMPLE_EVERY_S: Final = 1.0
USAGE: Final = "usage: python -m services.stack.keeper PART"


class _Words(msgspec.Struct, forbid_unknown_fields=True):
    hold: bool = False


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    replicas: int


class Keeper:
    """One part's processes, and the API over them."""

    def __init__(self, home: Home, part: Part, *, faults: bool) -> None:
        self._home, self._part, self._faults = home, part, faults
        # In the supervisor's log, as natively: whoever wants to know why a message is lost reads there who ended when.
        self._log = Log(f"keeper.{part.name}", str(uuid.uuid4()), str(home.log_file("supervisor")))
        self._stopping = asyncio.Event()
        self._children: dict[int, Child] = {}
        self._keeping: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep one replica until SIGTERM; then end in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with aiohttp.ClientSession() as self._session:
            runner = web.AppRunner(self._api(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, self._home.bind, self._home.port(SUPERVISOR_PORT)).start()
            await self.scale(1)
            while not self._stopping.is_set():
                for child in self._children.values():
                    child.sample()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), SAMPLE_EVERY_S)
            await self.scale(0)
            await runner.cleanup()

    async def scale(self, replicas: int) -> None:
        """Start and end processes until there are so many."""
        for replica in range(replicas):
            if replica not in self._children:
                self._start(replica)
        surplus = [replica for replica in self._children if replica >= replicas]
        await asyncio.gather(*(self._end(replica) for replica in surplus))

    def _start(self, replica: int) -> None:
        part, home, name = self._part, self._home, self._part.instance(replica)
        # Asked from inside: a process listens on all addresses of its container, or on the one that it was given.
        url = f"http://{home.bind}:{home.port(part.admin_port + replica)}/readyz"
        how = launch(part, replica, home, faults=self._faults)
        child = Child(part, replica, how, home.log_file(name), self._log, partial(http_ready, self._session, url))
        self._children[replica] = child
        # What it needs was waited for by who started the container.
        self._keeping[replica] = asyncio.create_task(child.run(lambda: True), name=name)

    async def _end(self, replica: int) -> None:
        child, keeping = self._children.pop(replica), self._keeping.pop(replica)
        await child.end()
        await keeping

    def _api(self) -> web.Application:
        app = guarded(self._home.secret("token"), ("/readyz",))
        app.add_routes(
            [
                web.get("/readyz", self._readyz),
                web.post("/scale", self._scaled),
                web.get(r"/{replica:\d}/state", self._state),
                web.post(r"/{replica:\d}/{action:kill|freeze|thaw|restart|expect_death}", self._act),
            ]
        )
        return app

    async def _readyz(self, _: web.Request) -> web.Response:
        states = {child.name: child.state for child in self._children.values()}
        return web.Response(text=f"{states}\n", status=200 if all(c.ready for c in self._children.values()) else 503)

    async def _scaled(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=_Scale)
        if not 0 <= wanted.replicas <= (MAX_REPLICAS if self._part.replicable else 1):
            raise ValueError(f"{self._part.name} cannot have {wanted.replicas} replicas")
        await self.scale(wanted.replicas)
        return json_response({"replicas": len(self._children)})

    async def _state(self, request: web.Request) -> web.Response:
        return _told(self._child(request))

    async def _act(self, request: web.Request) -> web.Response:
        words = msgspec.json.decode(await request.read() or b"{}", type=_Words)
        child, action = self._child(request), request.match_info["action"]
        if action != "expect_death" and (refusal := child.why_not(action)):
            raise ProcessLookupError(refusal)
        match action:
            case "kill":
                await child.kill(hold=words.hold)
            case "freeze":
                await child.freeze()
            case "thaw":
                await child.thaw()
            case "restart":
                await child.restart()
            case _:
                await child.expect_death()
        return _told(child)

    def _child(self, request: web.Request) -> Child:
        replica = int(request.match_info["replica"])
        if replica not in self._children:
            raise ProcessLookupError(f"{self._part.instance(replica)} is not there")
        return self._children[replica]


def _told(child: Child) -> web.Response:
    return json_response(Told(child.state, child.pid, child.restarts, child.rss_bytes, child.why))


def main(arguments: list[str]) -> None:
    """Keep the part that the command line names. Exit code 2 when there is none of that name."""
    part = PARTS.get(arguments[0]) if len(arguments) == 1 else None
    if part is None or part.kind not in ("service", "task"):
        sys.stderr.write(f"{USAGE}\n")
        sys.exit(2)
    home, faults = Home.from_environment(), os.environ.get("LAB_FAULTS") == "1"
    home.create()
    if part.kind == "task":
        how = launch(part, 0, home, faults=faults)
        os.execve(how.command[0], how.command, how.environment)  # noqa: S606
    asyncio.run(Keeper(home, part, faults=faults).run())


if __name__ == "__main__":
    main(sys.argv[1:])
