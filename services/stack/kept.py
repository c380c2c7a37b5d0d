"""Processes of other containers, as the supervisor has them: what their keepers tell, or only whether they answer.

The surface is that of `Child` (child.Managed), so the API, the failpoints and the metrics do not know the difference.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import aiohttp
import msgspec

from services.stack.child import PROBE_EVERY_S, PROBE_STARTING_S, State, why_not
from services.stack.errors import NotKept
from services.stack.parts import Part
from services.telemetry.logs import Log

EXPECT_S: Final = 3.0  # below what a process waits for the decision upon its pass (5 s, services/failpoints/client.py)
SOON_S: Final = 3.0  # after an order: that long it is looked at often
_LOOK: Final = aiohttp.ClientTimeout(total=2.0)
_ORDER: Final = aiohttp.ClientTimeout(total=30.0)  # `restart` waits for the process's end


class Told(msgspec.Struct, frozen=True):
    """What a keeper says of its process."""

    state: State
    pid: int | None
    restarts: int
    rss_bytes: int
    why: str


class _Elsewhere(ABC):
    """A process that others have started."""

    def __init__(self, part: Part, replica: int, log: Log) -> None:
        self.part = part
        self.replica = replica
        self.name = part.instance(replica)
        self.state: State = "waiting"
        self.restarts = 0
        self.pid: int | None = None
        self.rss_bytes = 0
        self.why = ""
        self._log = log
        self._often_until = 0.0
        self._ending = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    async def run(self, dependencies: Callable[[], bool]) -> None:
        """Look at it until `end`; what it waits for is for those to know who started it."""
        while not self._ending.is_set():
            await self.look()
            often = not self.ready or asyncio.get_running_loop().time() < self._often_until
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), PROBE_STARTING_S if often else PROBE_EVERY_S)

    @abstractmethod
    async def look(self) -> None:
        """Make sure that what is known of it is as it is now."""

    async def end(self) -> None:
        """Look no more: it goes on, and who started it ends it."""
        self._ending.set()

    def sample(self) -> None:  # noqa: B027  # nothing to do is what there is to do
        """Its size is for its keeper, or its container, to bound."""

    def _event(self, name: str, /, **fields: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the supervision
            self._log.event(name, part=self.name, **fields)


class Line:
    """The line to a keeper."""

    def __init__(self, url: str, token: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, path: str) -> bytes:
        """What it says. Raises ProcessLookupError when it refuses, or does not answer within two seconds."""
        return await self._request("GET", path, _LOOK, None)

    async def order(self, path: str, **words: Any) -> bytes:
        """Have something done. Raises ProcessLookupError when it refuses, or does not answer."""
        return await self._request("POST", path, _ORDER, msgspec.json.encode(words))

    async def _request(
        self, method: Literal["GET", "POST"], path: str, within: aiohttp.ClientTimeout, body: bytes | None
    ) -> bytes:
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=self._headers, timeout=within
            ) as response:
                answer = await response.read()
            if response.status == 200:
                return answer
            refusal = str(msgspec.json.decode(answer, type=dict[str, str])["error"])
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, KeyError) as error:
            why = f"{error or type(error).__name__}"
            raise ProcessLookupError(f"its keeper does not answer ({why}): does its container run?") from error
        raise ProcessLookupError(refusal)


class Kept(_Elsewhere):
    """A process with a keeper (services/stack/keeper.py), which carries out what is ordered here."""

    def __init__(self, part: Part, replica: int, line: Line, log: Log) -> None:
        super().__init__(part, replica, log)
        self._line = line
        self._orders = 0

    def why_not(self, action: str) -> str:
        """Why the action cannot be done to it now; empty when it can."""
        return self.why if self.state == "away" else why_not(self, action)

    async def look(self) -> None:
        """Ask its keeper. An answer that an order has overtaken is no news."""
        orders, answer, why = self._orders, b"", ""
        try:
            answer = await self._line.ask(f"/{self.replica}/state")
        except ProcessLookupError as error:
            why = f"{self.name}: {error}"
        if orders != self._orders:
            return
        if answer:
            self._take(answer)
        else:
            if self.state != "away":
                self._event("part.unready", level="warning", why=why)
            self.state, self.pid, self.rss_bytes, self.why = "away", None, 0, why

    async def kill(self, *, hold: bool) -> None:
        await self._order("kill", hold=hold)

    async def freeze(self) -> None:
        await self._order("freeze")

    async def thaw(self) -> None:
        await self._order("thaw")

    async def restart(self) -> None:
        await self._order("restart")

    async def expect_death(self) -> None:
        """A keeper that does not answer takes the death for a crash: no reason to let who is to die wait in vain."""
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            async with asyncio.timeout(EXPECT_S):
                await self._order("expect_death")

    async def _order(self, action: str, **words: bool) -> None:
        """Raises ProcessLookupError when the keeper refuses or does not answer."""
        self._orders += 1
        self._take(await self._line.order(f"/{self.replica}/{action}", **words))
        self._orders += 1
        self._often_until = asyncio.get_running_loop().time() + SOON_S

    def _take(self, answer: bytes) -> None:
        told = msgspec.json.decode(answer, type=Told)
        self.state, self.pid, self.why = told.state, told.pid, told.why
        self.restarts, self.rss_bytes = told.restarts, told.rss_bytes


class Watched(_Elsewhere):
    """A server in a container of its own image: it is probed, and nobody here can strike it."""

    def __init__(self, part: Part, replica: int, probe: Callable[[], Awaitable[bool]], log: Log) -> None:
        super().__init__(part, replica, log)
        self._probe = probe

    async def look(self) -> None:
        """Probe it."""
        ready = await self._probe()
        if ready != self.ready:
            self._event("part.ready" if ready else "part.unready")
        self.state = "ready" if ready else "starting" if self.state in ("waiting", "starting") else "unready"

    def why_not(self, action: str) -> str:
        """Raises NotKept."""
        raise NotKept(self.name)

    async def _refuse(self, **_: bool) -> None:
        """Raises NotKept."""
        raise NotKept(self.name)

    kill = freeze = thaw = restart = expect_death = _refuse
