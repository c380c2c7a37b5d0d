"""The CLI's side of the supervisor's API."""

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

from services.stack.home import Home
from services.stack.nemesis import By


class NotUp(Exception):
    """No supervisor runs for this lab, or it does not answer."""


class Refused(Exception):
    """The supervisor refused a request; `status` is the HTTP status, the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def call(home: Home, method: str, path: str, body: Any = None, *, timeout_s: float = 60) -> dict[str, Any]:
    """One request to the supervisor.

    Raises NotUp when none runs, Refused with its sentence when it says no.
    """
    if home.read_state() is None:
        raise NotUp("the lab is not up: start it with `lab up`")
    connection = http.client.HTTPConnection(urlsplit(home.supervisor_url).netloc, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {home.token}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read() or b"{}")
    except (OSError, ValueError) as error:
        raise NotUp(
            f"the lab's supervisor does not answer ({error}): see `lab logs supervisor`, or end it with `lab down`"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise Refused(response.status, str(answer.get("error", answer)))
    return answer


def status(home: Home) -> dict[str, Any]:
    """What `lab status` says; of a lab that is not up, too.

    Raises NotUp when a supervisor runs and does not answer: that is not down, something is running.
    """
    try:
        return call(home, "GET", "/status", timeout_s=10)
    except NotUp:
        if home.read_state() is not None:
            raise
        return {"state": "down", "processes": [], "urls": {}}


def act(home: Home, action: str, *names: str, hold: bool = False, by: By = "cli") -> dict[str, Any]:
    """Kill, freeze, thaw or restart processes, or all replicas of parts, at once; nothing is done if one refuses."""
    return call(home, "POST", f"/process/{action}", {"names": names, "hold": hold, "by": by})


def failpoints(home: Home) -> dict[str, Any]:
    """Whether faults are allowed, what is armed, and how often it was passed."""
    return call(home, "GET", "/failpoints")


def arm(home: Home, failpoint: str, action: str, *, by: By = "cli") -> dict[str, Any]:
    """Arm a failpoint in every process that has it."""
    return call(home, "POST", "/failpoints", {"failpoint": failpoint, "action": action, "by": by})


def clear(home: Home, failpoint: str | None = None) -> dict[str, Any]:
    """Disarm one failpoint or all."""
    return call(home, "DELETE", "/failpoints" + (f"?failpoint={quote(failpoint)}" if failpoint else ""))


def note_data(home: Home, kind: str, topic: str, count: int, *, by: By = "cli") -> dict[str, Any]:
    """Have the nemesis log say that records of a data fault were put onto a topic, or effects tampered with."""
    return call(home, "POST", "/faults/data", {"kind": kind, "topic": topic, "count": count, "by": by})
