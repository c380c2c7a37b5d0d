"""The process's side: asks the supervisor at an armed place, does what it says. Disarmed: one set look-up."""

import asyncio
import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from services.failpoints.names import FAILPOINTS, ErrorKind
from services.failpoints.registry import Decision

LONG_POLL_S: Final = 30.0
NAP_S: Final = 0.1


class InjectedError(Exception):
    """Raised at a failpoint armed with `error:KIND`; `kind` is what the failure policy shall take it for.

    timeout, connection, database: as if the call or statement had failed so. invalid: not retryable. http_NNN: as if
    the provider had answered NNN.
    """

    def __init__(self, failpoint: str, kind: ErrorKind) -> None:
        super().__init__(f"injected at {failpoint}: {kind}")
        self.failpoint = failpoint
        self.kind = kind

    @property
    def http_status(self) -> int | None:
        """Of http_NNN: NNN."""
        return int(self.kind.removeprefix("http_")) if self.kind.startswith("http_") else None


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

    async def hit(self, name: str, account: str = "") -> None:
        """Pass the failpoint `name` in a coroutine; `account`: for whom, where `arm=` means that."""
        if name not in self._armed:
            return
        decision = await asyncio.to_thread(self._ask, name, account)
        for nap_s in self._naps(name, decision):
            await asyncio.sleep(nap_s)
        _act(name, decision)

    def hit_blocking(self, name: str) -> None:
        """Pass the failpoint `name` where there is no event loop."""
        if name not in self._armed:
            return
        decision = self._ask(name, "")
        for nap_s in self._naps(name, decision):
            time.sleep(nap_s)
        _act(name, decision)

    def _naps(self, name: str, decision: Decision) -> Iterator[float]:
        """A pause or delay in slices: it ends early when the failpoint is cleared."""
        end = time.monotonic() + decision.seconds
        while name in self._armed and (left_s := end - time.monotonic()) > 0:
            yield min(left_s, NAP_S)

    def _ask(self, name: str, account: str) -> Decision:
        """The pass reaches the supervisor before the action: the answer is waited for, 5 s at most."""
        if name not in FAILPOINTS:
            raise KeyError(f"failpoint {name!r} is not declared in services/failpoints/names.py")
        passed = {"failpoint": name, "process": self._process, "account": account}
        try:
            body = self._request("POST", "/failpoints/pass", passed, timeout_s=5)
        except (OSError, http.client.HTTPException):
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


def _act(name: str, decision: Decision) -> None:
    if decision.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif decision.action == "error":
        raise InjectedError(name, decision.kind)  # type: ignore[arg-type]  # the grammar lets no other through
