"""The supervisor's HTTP API: status for everyone on this machine, everything else for who holds the lab's token."""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from services.failpoints.client import LONG_POLL_S
from services.failpoints.grammar import FailpointError, parse
from services.stack.parts import UnknownPart, find

if TYPE_CHECKING:
    from services.stack.child import Child
    from services.stack.supervisor import Supervisor

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_POLL_S: Final = 0.05
_STATUS: Final[dict[type[Exception], int]] = {
    UnknownPart: 404,
    ProcessLookupError: 409,  # not running, not frozen: the right words at the wrong time
    FailpointError: 400,
    ValueError: 400,
    msgspec.DecodeError: 400,
    OSError: 507,  # a full disk: what was done could not be written down
}


def make_api(supervisor: "Supervisor") -> web.Application:
    """The application. Errors are `{"error": text}` with 400 (wrong), 401 (token), 403 (faults off), 404, 409, 507."""
    token = supervisor.home.secret("token")

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/status":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _error(401, "the lab's token is missing or wrong (it lies in LAB_HOME/run/token.secret)")
        try:
            return await handler(request)
        except web.HTTPException as error:  # no such path, another method, a body over the bound
            return _error(error.status, error.reason)
        except tuple(_STATUS) as error:
            return _error(next(status for kind, status in _STATUS.items() if isinstance(error, kind)), str(error))

    app = web.Application(middlewares=[guard], client_max_size=64 * 1024)
    control, faults = _Control(supervisor), _Faults(supervisor)
    app.add_routes(
        [
            web.get("/status", control.status),
            web.post("/shutdown", control.shutdown),
            web.post("/process/{action}", control.act),
            web.post("/scale", control.scale),
            web.get("/failpoints", faults.listing),
            web.post("/failpoints", faults.arm),
            web.delete("/failpoints", faults.clear),
            web.get("/failpoints/armed", faults.armed),
            web.post("/failpoints/pass", faults.passed),
        ]
    )
    return app


class _Target(msgspec.Struct, forbid_unknown_fields=True):
    """Whom an action is for: `relay#0`, or all replicas of `relay`."""

    name: str
    hold: bool = False


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    replicas: int


class _Arming(msgspec.Struct, forbid_unknown_fields=True):
    failpoint: str
    action: str


class _Pass(msgspec.Struct):
    failpoint: str
    process: str


class _Control:
    """Processes: status, kill, freeze, thaw, restart, scale."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor

    async def status(self, _: web.Request) -> web.Response:
        children = [c for c in self._supervisor.children.values() if c.part.kind != "task" or c.state != "done"]
        required = [c for c in children if not c.part.optional]
        up = all(c.ready for c in required) and bool(required)
        return _json(
            {
                "state": "up" if up else "partial",
                "processes": [_describe(c) for c in children],
                "urls": {n: u for n, u in self._supervisor.home.urls().items() if n in self._supervisor.children},
                "parts": self._supervisor.order,
                "faults": self._supervisor.faults,
                "seed": self._supervisor.failpoints.seed,
            }
        )

    async def shutdown(self, _: web.Request) -> web.Response:
        self._supervisor.stopping.set()
        return _json({"stopping": True})

    async def act(self, request: web.Request) -> web.Response:
        """Act on a process, or on all replicas of a part one after the other."""
        target = msgspec.json.decode(await request.read(), type=_Target)
        action = request.match_info["action"]
        part, replica = find(target.name)
        if part.kind == "task":
            raise UnknownPart(f"{target.name} is a task that has run, not a process")
        children = [c for c in self._supervisor.of_part(part) if replica in (None, c.replica)]
        if not children:
            raise ProcessLookupError(f"{target.name} is not running: there is no such process in this lab now")
        acted = [await self._one(action, child, hold=target.hold) for child in children]
        return _json({"action": action, "processes": acted})

    async def _one(self, action: str, child: "Child", *, hold: bool) -> dict[str, Any]:
        before = child.pid
        if action == "kill":
            child.kill(hold=hold)
        elif action == "freeze":
            child.freeze()
        elif action == "thaw":
            child.thaw()
        elif action == "restart":
            await child.restart()
        else:
            raise ValueError(f"unknown action {action!r}; the actions are kill, freeze, thaw, restart")
        self._supervisor.nemesis.write(action, child.name, pid=before, hold=hold)
        self._supervisor.log.event("fault", fault=action, target=child.name, pid=before)
        return {"name": child.name, "pid": before}

    async def scale(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=_Scale)
        part, _ = find(wanted.name)
        await self._supervisor.scale(part, wanted.replicas)
        return _json({"name": part.name, "replicas": len(self._supervisor.of_part(part))})


class _Faults:
    """Failpoints: what is armed, and what each pass shall do."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._registry = supervisor.failpoints
        self._known: dict[str, int] = {}  # process -> version of the armed set that it has taken in
        self._changed = asyncio.Event()  # of the armed set; a new one for each change

    async def listing(self, _: web.Request) -> web.Response:
        passes = [{"failpoint": f, "process": p, "passes": n} for (f, p), n in self._registry.passes.items()]
        return _json({"allowed": self._supervisor.faults, "armed": self._registry.listing(), "passes": passes})

    async def arm(self, request: web.Request) -> web.Response:
        """Body `{"failpoint": name, "action": "kill nth=2"}`; answers when every running process knows."""
        if not self._supervisor.faults:
            return _error(403, "this lab was started without faults; `lab down` and `lab up --faults` allow them")
        body = msgspec.json.decode(await request.read(), type=_Arming)
        armed = parse(body.failpoint, body.action)
        self._registry.arm(armed)
        self._log("arm", armed.failpoint, action=body.action)
        return _json({"armed": msgspec.to_builtins(armed), "known_to": await self._spread()})

    async def clear(self, request: web.Request) -> web.Response:
        name = request.query.get("failpoint")
        cleared = self._registry.clear(name)
        self._log("clear", name or "all")
        return _json({"cleared": cleared, "known_to": await self._spread()})

    async def armed(self, request: web.Request) -> web.Response:
        """Long poll of a process: answers when the armed set is newer than `after`. Asking says what it knows."""
        process, after = request.query.get("process", ""), int(request.query.get("after", ""))
        self._known[process] = after
        if after == self._registry.version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LONG_POLL_S)
        return _json({"version": self._registry.version, "armed": self._registry.armed_for(process)})

    async def passed(self, request: web.Request) -> web.Response:
        """A process passes an armed failpoint and waits for what it shall do."""
        body = msgspec.json.decode(await request.read(), type=_Pass)
        process, failpoint = body.process, body.failpoint
        decision = self._registry.decide(failpoint, process)
        if decision.action != "go":
            child = self._supervisor.children.get(process)
            if decision.action == "kill" and child is not None:
                child.expect_death()
            pid = child.pid if child else None
            self._log(f"failpoint.{decision.action}", process, failpoint=failpoint, pid=pid)
        return _json(msgspec.to_builtins(decision))

    async def _spread(self) -> list[str]:
        """Wait, 5 s at most, until every ready process that follows failpoints has asked with the newest version."""
        self._changed.set()
        self._changed = asyncio.Event()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            ready = {c.name for c in self._supervisor.children.values() if c.state == "ready"}
            following = ready & self._known.keys()
            if all(self._known[name] == self._registry.version for name in following):
                return sorted(following)
            await asyncio.sleep(_POLL_S)
        raise ProcessLookupError("armed, but not every process has taken it in within 5 s: is one frozen?")

    def _log(self, fault: str, target: str, **fields: Any) -> None:
        self._supervisor.nemesis.write(fault, target, **fields)
        self._supervisor.log.event("fault", fault=fault, target=target, **fields)


def _describe(child: "Child") -> dict[str, Any]:
    return {
        "name": child.name,
        "kind": child.part.kind,
        "replica": child.replica,
        "pid": child.pid,
        "state": child.state,
        "ready": child.ready,
        "restarts": child.restarts,
        "rss_bytes": child.rss_bytes,
        "why": child.why if child.state in ("failed", "held", "restarting") else "",
        "optional": child.part.optional,
        "gloss": child.part.gloss,
    }


def _json(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
