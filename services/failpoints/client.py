"""The process's side: asks the supervisor at an armed place, does what it says. Disarmed: one set look-up."""

import asyncio
import http.client
import os
import signal
import threading
import time
from typing import Final
from urllib.parse import urlsplit

import msgspec

from services.failpoints.names import FAILPOINTS
from services.failpoints.registry import Decision

LONG_POLL_S: Final = 30.0


class InjectedError(Exception):
    """Raised at a failpoint armed with `error:KIND`; `kind` is what the failure policy shall take it for."""

    def __init__(self, failpoint: str, kind: str) -> None:
        super().__init__(f"injected at {failpoint}: {kind}")
        self.kind = kind


class Failpoints:
    """The failpoints of one process. Without a supervisor, or with faults not allowed, all stay disarmed."""

    def __init__(self, process: str, supervisor: str, token: str, *, allowed: bool) -> None:
        self._process = process
        self._address = urlsplit(supervisor).netloc
        self._token = token
        self._armed: frozenset[str] = frozenset()
        if allowed and self._address:
            version = self._fetch_armed(-1)  # before any work: what is armed at the start holds from the first pass on
            threading.Thread(target=self._follow, args=(version,), name="failpoints", daemon=True).start()

    def armed(self, name: str) -> bool:
        """Whether a pass of `name` would ask the supervisor: for places that must be made first (half a batch)."""
        return name in self._armed

    async def hit(self, name: str) -> None:
        """Pass the failpoint `name` in a coroutine."""
        if name not in self._armed:
            return
        decision = await asyncio.to_thread(self._ask, name)
        if decision.action in ("pause", "delay"):
            await asyncio.sleep(_seconds(decision))
        else:
            _act(name, decision)

    def hit_blocking(self, name: str) -> None:
        """Pass the failpoint `name` where there is no event loop."""
        if name not in self._armed:
            return
        decision = self._ask(name)
        if decision.action in ("pause", "delay"):
            time.sleep(_seconds(decision))
        else:
            _act(name, decision)

    def _ask(self, name: str) -> Decision:
        """The pass reaches the supervisor before the action: the answer is waited for, 5 s at most."""
        if name not in FAILPOINTS:
            raise KeyError(f"failpoint {name!r} is not declared in services/failpoints/names.py")
        try:
            body = self._request("POST", "/failpoints/pass", {"failpoint": name, "process": self._process}, timeout_s=5)
        except OSError:
            return Decision("go")  # no supervisor, no faults: it is the one that injects them
        return msgspec.json.decode(body, type=Decision)

    def _fetch_armed(self, version: int) -> int:
        path = f"/failpoints/armed?process={self._process.replace('#', '%23')}&after={version}"
        body = self._request("GET", path, None, timeout_s=LONG_POLL_S + 5)
        answer = msgspec.json.decode(body, type=dict[str, object])
        self._armed = frozenset(answer["armed"])  # type: ignore[call-overload]
        return int(answer["version"])  # type: ignore[call-overload, no-any-return]

    def _follow(self, version: int) -> None:
        """Keep `_armed` up to date by long polls, for as long as the process lives."""
        while True:
            try:
                version = self._fetch_armed(version)
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.5)

    def _request(self, method: str, path: str, body: object, *, timeout_s: float) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=timeout_s)
        try:
            payload = None if body is None else msgspec.json.encode(body)
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            data = response.read()
            if response.status != 200:
                raise OSError(f"the supervisor answered {response.status}: {data[:200]!r}")
            return data
        finally:
            connection.close()


def _seconds(decision: Decision) -> float:
    return decision.amount if decision.action == "pause" else decision.amount / 1000.0


def _act(name: str, decision: Decision) -> None:
    if decision.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif decision.action == "error":
        raise InjectedError(name, decision.kind)
