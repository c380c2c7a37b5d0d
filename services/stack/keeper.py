"""The first process of a container of the lab: the supervisor of one process. `python -m services.stack.keeper PART`

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
from services.stack.parts import PARTS, SUPERVISOR_PORT, Part
from services.stack.probes import http_ready
from services.telemetry.logs import Log

KEEPER_MB: Final = 100  # what a container needs beyond the bound of its process
SAMPLE_EVERY_S: Final = 1.0
USAGE: Final = "usage: python -m services.stack.keeper PART"


class _Words(msgspec.Struct, forbid_unknown_fields=True):
    hold: bool = False


class Keeper:
    """One process and the API over it."""

    def __init__(self, home: Home, part: Part, *, faults: bool) -> None:
        self._home, self._part = home, part
        self._how = launch(part, 0, home, faults=faults)
        # In the supervisor's log, as natively: whoever wants to know why a message is lost reads there who ended when.
        self._log = Log(f"keeper.{part.name}", str(uuid.uuid4()), str(home.log_file("supervisor")))
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep the process until SIGTERM; then end it in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        name = self._part.instance(0)
        # Asked from inside: the process listens on all addresses of its container, or on the one that it was given.
        url = f"http://{self._home.bind}:{self._home.port(self._part.admin_port)}/readyz"
        async with aiohttp.ClientSession() as session:
            probe = partial(http_ready, session, url)
            child = Child(self._part, 0, self._how, self._home.log_file(name), self._log, probe)
            runner = web.AppRunner(self._api(child), access_log=None, handle_signals=False, shutdown_timeout=1.0)
            await runner.setup()
            await web.TCPSite(runner, self._home.bind, self._home.port(SUPERVISOR_PORT)).start()
            keeping = asyncio.create_task(child.run(lambda: True))  # what it needs was waited for by the engine
            while not self._stopping.is_set():
                child.sample()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), SAMPLE_EVERY_S)
            await child.end()
            await keeping
            await runner.cleanup()

    def _api(self, child: Child) -> web.Application:
        def told() -> web.Response:
            return json_response(Told(child.state, child.pid, child.restarts, child.rss_bytes, child.why))

        async def readyz(_: web.Request) -> web.Response:
            return web.Response(text=f"{child.state}\n", status=200 if child.ready else 503)

        async def state(_: web.Request) -> web.Response:
            return told()

        async def act(request: web.Request) -> web.Response:
            words = msgspec.json.decode(await request.read() or b"{}", type=_Words)
            action = request.match_info["action"]
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
            return told()

        app = guarded(self._home.secret("token"), ("/readyz",))
        actions = "kill|freeze|thaw|restart|expect_death"
        app.add_routes([web.get("/readyz", readyz), web.get("/state", state), web.post(f"/{{action:{actions}}}", act)])
        return app


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
