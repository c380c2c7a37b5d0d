"""Failpoints and data faults over HTTP: what is armed, what each pass shall do, and when each fault began and ended."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from services.failpoints.client import LONG_POLL_S
from services.failpoints.grammar import Armed, FailpointError, check_name, parse
from services.failpoints.names import DATA_FAULTS, TAMPERINGS
from services.failpoints.registry import Decision, Key
from services.stack.errors import NotAllowed
from services.stack.guard import json_response
from services.stack.nemesis import By

if TYPE_CHECKING:
    from services.stack.child import Managed
    from services.stack.supervisor import Supervisor

_LOOKS: Final = 300  # not a time: when the supervisor itself stalls, nobody can have asked meanwhile
_POLL_S: Final = 0.05


class _Arming(msgspec.Struct, forbid_unknown_fields=True):
    failpoint: str
    action: str
    by: By = "cli"


class _Data(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    topic: str
    count: int
    by: By = "cli"


class _Pass(msgspec.Struct):
    failpoint: str
    process: str
    account: str = ""


class Faults:
    """The endpoints, and the window of each fault in the nemesis log."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._nemesis = supervisor.nemesis
        self._registry = supervisor.failpoints
        self._windows: dict[Key, str] = {}  # the fault of what is armed and not spent
        self._known: dict[str, int] = {}  # process -> version of the armed set that it has taken in
        self._changed = asyncio.Event()  # of the armed set; a new one for each change
        for armed in supervisor.armed_at_start:
            self._arm(armed, "environment")

    async def listing(self, _: web.Request) -> web.Response:
        """What is armed, and how often each place was passed while something was armed there."""
        passes = [{"failpoint": f, "process": p, "passes": n} for (f, p), n in self._registry.passes.items()]
        return json_response(
            {
                "allowed": self._supervisor.faults,
                "seed": self._registry.seed,
                "armed": self._registry.listing(),
                "passes": passes,
            }
        )

    async def arm(self, request: web.Request) -> web.Response:
        """Body `{"failpoint": name, "action": "kill nth=2"}`; answers when every running process knows."""
        self._check_allowed()
        body = msgspec.json.decode(await request.read(), type=_Arming)
        armed = parse(body.failpoint, body.action)
        fault = self._arm(armed, body.by)
        return json_response({"armed": str(armed), "fault": fault, "known_to": await self._spread()})

    def _arm(self, armed: Armed, by: By) -> str:
        """Arm; what was armed for the same failpoint and arm ends. Returns the id of the fault."""
        key = (armed.failpoint, armed.arm)
        fault = self._nemesis.begin("arm", armed.failpoint, by, action=str(armed))
        self._close({key: self._registry.counts(key)} if key in self._windows else {})
        self._registry.arm(armed)
        self._windows[key] = fault
        return fault

    async def clear(self, request: web.Request) -> web.Response:
        """Disarm `?failpoint=NAME`, or all; answers when every running process knows."""
        self._check_allowed()
        name = request.query.get("failpoint")
        if name is not None:
            check_name(name)
        gone = self._registry.clear(name)
        self._close(gone)
        cleared = [{"failpoint": failpoint, "arm": arm, **counts} for (failpoint, arm), counts in gone.items()]
        return json_response({"cleared": cleared, "known_to": await self._spread()})

    async def data(self, request: web.Request) -> web.Response:
        """Write down what somebody put onto a topic: `{"kind": "poison", "topic": "orders.v1", "count": 1}`; or what
        was done to the effects of an arm, whose place stands for a topic: `at_least_once/charge`.
        """
        self._check_allowed()
        body = msgspec.json.decode(await request.read(), type=_Data)
        kinds = [*DATA_FAULTS, *TAMPERINGS]
        if body.kind not in kinds:
            raise FailpointError(f"unknown data fault {body.kind!r}; the kinds are {', '.join(kinds)}")
        details = {"kind": body.kind, "count": body.count}
        name = "tamper" if body.kind in TAMPERINGS else "data"
        fault = self._nemesis.begin(name, body.topic, body.by, ended=time.time(), **details)
        return json_response({"fault": fault})

    async def armed(self, request: web.Request) -> web.Response:
        """Long poll of a process: answers when the armed set is newer than `after`. Asking says what it knows."""
        process, after = request.query.get("process", ""), int(request.query.get("after", ""))
        self._known[process] = after
        if after == self._registry.version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LONG_POLL_S)
        return json_response({"version": self._registry.version, "armed": self._registry.armed_for(process)})

    async def passed(self, request: web.Request) -> web.Response:
        """A process passes an armed failpoint and waits for what it shall do."""
        body = msgspec.json.decode(await request.read(), type=_Pass)
        decision = self._registry.decide(body.failpoint, body.process, body.account)
        if decision.action == "kill":
            await self._killed(body)
        if decision.action != "go":
            self._close_spent(decision)
        return json_response(msgspec.to_builtins(decision))

    async def _killed(self, body: _Pass) -> None:
        """Each kill is a fault of its own; other actions are counted by what armed them."""
        child = self._supervisor.children.get(body.process)
        if child is None:  # not a process of this lab: nobody restarts it
            self._nemesis.begin("kill", body.process, "failpoint", ended=time.time(), failpoint=body.failpoint)
            return
        await child.expect_death()  # before the answer, upon which it dies
        fault = self._nemesis.begin("kill", child.name, "failpoint", failpoint=body.failpoint, pid=child.pid)
        self._nemesis.end_when(fault, back(child, child.pid))

    def _close_spent(self, decision: Decision) -> None:
        for key in self._registry.spent():
            if key in self._windows:  # what it did last may last
                self._close({key: self._registry.counts(key)}, after_s=decision.seconds)

    def _close(self, gone: dict[Key, dict[str, int]], *, after_s: float = 0.0) -> None:
        for key, counts in gone.items():
            if (fault := self._windows.pop(key, None)) is not None:
                self._nemesis.end(fault, after_s=after_s, **counts)

    def _check_allowed(self) -> None:
        if not self._supervisor.faults:
            raise NotAllowed

    async def _spread(self) -> list[str]:
        """Wait, 15 s or so, until every ready process that follows failpoints has asked with the newest version."""
        self._changed.set()
        self._changed = asyncio.Event()
        for _ in range(_LOOKS):
            ready = {c.name for c in self._supervisor.children.values() if c.state == "ready"}
            following = ready & self._known.keys()
            if all(self._known[name] == self._registry.version for name in following):
                return sorted(following)
            await asyncio.sleep(_POLL_S)
        raise ProcessLookupError("armed, but not every process has taken it in within 15 s: does one hang?")


def back(child: "Managed", pid: int | None) -> Callable[[], bool]:
    """A condition: the process that had this pid has a successor that is ready, or will have none."""
    return lambda: child.state == "stopped" or (child.ready and child.pid != pid)


def thawed(child: "Managed", pid: int | None) -> Callable[[], bool]:
    """A condition: the process that had this pid stands still no more. Of one that is away nobody knows."""
    return lambda: child.state != "away" and (child.pid != pid or child.state != "frozen")
