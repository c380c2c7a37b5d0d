"""The supervisor's HTTP API: status for everyone on this machine, everything else for who holds the lab's token."""

import asyncio
import os
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from services.failpoints.grammar import FailpointError
from services.stack import own, prometheus
from services.stack.errors import NotAllowed, NotKept
from services.stack.faults import Faults, back, thawed
from services.stack.guard import STATUSES, Statuses, guarded, json_response
from services.stack.launch import PASSED_ON, own_launch
from services.stack.nemesis import By
from services.stack.own import Manifest
from services.stack.part_metrics import part_metrics
from services.stack.parts import UnknownPart, find
from services.telemetry.admin import CONTENT_TYPE

if TYPE_CHECKING:
    from services.stack.child import Managed
    from services.stack.supervisor import Supervisor

ACTIONS: Final = ("kill", "freeze", "thaw", "restart")
_OPEN: Final = frozenset({"/status", "/metrics", "/targets"})  # to everyone on this machine
_STATUSES: Final[Statuses] = {NotAllowed: 403, NotKept: 403, UnknownPart: 404, FailpointError: 400, **STATUSES}


def make_api(supervisor: "Supervisor") -> web.Application:
    """The application. Errors are `{"error": text}` with 400 (wrong), 401 (token), 403 (not allowed), 404, 409, 507."""
    app = guarded(supervisor.home.secret("token"), _OPEN, _STATUSES)
    control, faults = _Control(supervisor), Faults(supervisor)
    app.add_routes(
        [
            web.get("/status", control.status),
            web.get("/metrics", control.exposition),
            web.get("/targets", control.targets),
            web.post("/shutdown", control.shutdown),
            web.post("/process/{action}", control.act),
            web.post("/scale", control.scale),
            web.post("/own", control.own),
            web.get("/failpoints", faults.listing),
            web.post("/failpoints", faults.arm),
            web.delete("/failpoints", faults.clear),
            web.get("/failpoints/armed", faults.armed),
            web.post("/failpoints/pass", faults.passed),
            web.post("/faults/data", faults.data),
        ]
    )
    return app


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """Whom an action is for: `relay#0`, or all replicas of `relay`; all of them at once."""

    names: list[str]
    hold: bool = False
    by: By = "cli"


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    replicas: int


class _Control:
    """Processes: status, kill, freeze, thaw, restart, scale."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._metrics = part_metrics(supervisor.children, str(uuid.uuid4()))

    async def exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def targets(self, request: web.Request) -> web.Response:
        """Whom a Prometheus in a container scrapes `?every=1` second, or 5: those that there are."""
        supervisor = self._supervisor
        there = prometheus.targets(supervisor.home, supervisor.order, supervisor.replicas())
        return json_response(prometheus.answer(there, int(request.query.get("every", ""))))

    async def status(self, _: web.Request) -> web.Response:
        children = [c for c in self._supervisor.children.values() if c.part.kind != "task" or c.state != "done"]
        required = [c for c in children if not c.part.optional]
        up = all(c.ready for c in required) and bool(required)
        return json_response(
            {
                "state": "up" if up else "partial",
                "processes": [_describe(c) for c in children],
                "urls": {n: u for n, u in self._supervisor.home.urls().items() if n in self._supervisor.children},
                "parts": self._supervisor.order,
                "faults": self._supervisor.faults,
                "seed": self._supervisor.failpoints.seed,
                "settings": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
            }
        )

    async def shutdown(self, _: web.Request) -> web.Response:
        self._supervisor.stopping.set()
        return json_response({"stopping": True})

    async def act(self, request: web.Request) -> web.Response:
        """Act on processes at once; on none of them when it cannot be done to one."""
        order = msgspec.json.decode(await request.read(), type=_Order)
        action = request.match_info["action"]
        if action not in ACTIONS:
            raise ValueError(f"unknown action {action!r}; the actions are {', '.join(ACTIONS)}")
        children = self._children(order.names)
        await asyncio.gather(*(child.look() for child in children))
        if refusals := [why for child in children if (why := child.why_not(action))]:
            raise ProcessLookupError("\n".join(refusals))
        acted = [{"name": child.name, "pid": child.pid} for child in children]
        await asyncio.gather(*(self._one(action, child, order) for child in children))
        return json_response({"action": action, "processes": acted})

    def _children(self, names: list[str]) -> list["Managed"]:
        """The processes that the names stand for, each once. Raises with a sentence a name that is none."""
        unknown: list[str] = []
        absent: list[str] = []
        found: dict[str, Managed] = {}
        for name in names:
            try:
                children = self._running(name)
            except UnknownPart as error:
                unknown.append(str(error))
                continue
            if not children:
                absent.append(f"{name} is not running: there is no such process in this lab now")
            found.update((child.name, child) for child in children)
        if unknown:
            raise UnknownPart("\n".join(unknown))
        if absent or not found:
            raise ProcessLookupError("\n".join(absent) or "no process is named")
        return list(found.values())

    def _running(self, name: str) -> list["Managed"]:
        part, replica = find(name)
        if part.kind == "task":
            raise UnknownPart(f"{name} is a task that has run, not a process")
        return [child for child in self._supervisor.of_part(part) if replica in (None, child.replica)]

    async def _one(self, action: str, child: "Managed", order: _Order) -> None:
        """Write down what is about to be done, do it, watch for its end."""
        if action == "thaw":  # the end of a freeze, no fault of its own
            await child.thaw()
            return
        nemesis, pid = self._supervisor.nemesis, child.pid
        details = {"hold": True} if order.hold else {}
        fault = nemesis.begin(action, child.name, order.by, pid=pid, **details)
        over = back(child, pid)
        try:
            if action == "freeze":
                await child.freeze()
                over = thawed(child, pid)
            elif action == "kill":
                await child.kill(hold=order.hold)
            else:
                await child.restart()
        except ProcessLookupError as error:  # its keeper refused, or did not answer: nothing was done
            nemesis.end(fault, why=str(error))
            raise
        nemesis.end_when(fault, over)

    async def own(self, request: web.Request) -> web.Response:
        """Start a consumer of the user's own by its manifest; one of the same name is ended before."""
        manifest = msgspec.json.decode(await request.read(), type=Manifest)
        part = own.part(manifest)
        await self._supervisor.scale(part, 0)
        child = self._supervisor.add(part, 0, own_launch(manifest, self._supervisor.home))
        return json_response({"name": child.name})

    async def scale(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=_Scale)
        part, _ = find(wanted.name)
        await self._supervisor.scale(part, wanted.replicas)
        return json_response({"name": part.name, "replicas": len(self._supervisor.of_part(part))})


def _describe(child: "Managed") -> dict[str, Any]:
    return {
        "name": child.name,
        "kind": child.part.kind,
        "replica": child.replica,
        "pid": child.pid,
        "state": child.state,
        "ready": child.ready,
        "restarts": child.restarts,
        "rss_bytes": child.rss_bytes,
        "why": child.why if child.state in ("failed", "held", "restarting", "away") else "",
        "optional": child.part.optional,
        "gloss": child.part.gloss,
    }
