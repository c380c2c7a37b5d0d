"""A scenario with a consumer of the user's own in it: struck as often as the arm that it is to be measured against."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from loadtest.scenario import AnyStep, Arm, Freeze, Kill, Restart, Scenario
from services.broker.reader import bounds
from services.broker.topics import MAIN_TOPICS
from services.settings import Settings
from services.stack import client, own
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.own import Manifest
from services.storage.postgres import connect

MODEL: Final = "at_least_once"  # whose blows it gets, too
_READY_S: Final = 60.0
_QUIET_S: Final = 8.0  # without a new effect: longer than a session, so a restart is waited for
_LOOK_S: Final = 0.5

Say = Callable[[str], None]


def with_arm(scenario: Scenario, manifest: Manifest) -> Scenario:
    """The scenario in which the user's consumer takes part. Pure."""
    promises = scenario.promises
    if promises is not None:
        promises = {**promises, manifest.name: manifest.promises}
    blows = tuple(blow for step in scenario.faults for blow in _as_well(step, manifest.part_name))
    return msgspec.structs.replace(scenario, promises=promises, faults=scenario.faults + blows)


def _as_well(step: AnyStep, part: str) -> Iterator[AnyStep]:
    """What is done to the user's consumer where something is done to its model: a kill instead of a failpoint's."""
    when = {"at_s": step.at_s, "between_s": step.between_s, "times": step.times}
    match step:
        case Arm(action=action) if action.startswith("kill") and f"arm={MODEL}" in action.split():
            yield Kill(processes=(part,), **when)  # type: ignore[arg-type]
        case Kill(processes=processes, hold_s=hold_s) if _named(processes):
            yield Kill(processes=(part,), hold_s=hold_s, **when)  # type: ignore[arg-type]
        case Freeze(processes=processes, for_s=for_s) if _named(processes):
            yield Freeze(processes=(part,), for_s=for_s, **when)  # type: ignore[arg-type]
        case Restart(processes=processes) if _named(processes):
            yield Restart(processes=(part,), **when)  # type: ignore[arg-type]


def _named(processes: tuple[str, ...]) -> bool:
    return any(name.partition("#")[0] == f"arm.{MODEL}" for name in processes)


def start(home: Home, settings: Settings, manifest: Manifest, say: Say) -> None:
    """Start it where the topics end now, and wait until its group is at work. Raises StackError."""
    asyncio.run(own.make_tables(settings.postgres, manifest.arm))
    own.start_here(settings.kafka, manifest.arm)
    client.call(home, "POST", "/own", msgspec.to_builtins(manifest))
    say(f"waiting for {manifest.part_name}: {' '.join(manifest.command)[:200]}")
    deadline = time.monotonic() + _READY_S
    while True:
        (process,) = (p for p in client.status(home)["processes"] if p["name"].startswith(f"{manifest.part_name}#"))
        if process["ready"]:
            return
        if process["state"] == "failed" or time.monotonic() > deadline:
            log = home.log_file(process["name"])
            raise StackError(
                f"{process['name']} does not get to work ({process['why'] or process['state']}): see {log}"
            )
        time.sleep(_LOOK_S)


def end(home: Home, manifest: Manifest) -> None:
    """End it."""
    client.call(home, "POST", "/scale", {"name": manifest.part_name, "replicas": 0})


def settle(settings: Settings, manifest: Manifest, timeout_s: float) -> None:
    """Of a consumer that keeps its offsets itself nobody knows what it has read: wait until it does nothing more, and
    count the topics as read by it. What it has not done then is lost. Raises what the stores' clients raise.
    """
    asyncio.run(_until_quiet(settings, manifest.name, timeout_s))
    own.set_offsets(
        settings.kafka, manifest.arm.group, bounds(settings.kafka, [topic.name for topic in MAIN_TOPICS]).ends
    )


async def _until_quiet(settings: Settings, account: str, timeout_s: float) -> None:
    connection = await connect(settings.ledger, "provider", name="own")
    try:
        deadline, last, since = time.monotonic() + timeout_s, -1, time.monotonic()
        while time.monotonic() < min(deadline, since + _QUIET_S):
            count = await connection.fetchval("SELECT count(*) FROM applications WHERE account = $1", account)
            if count != last:
                last, since = count, time.monotonic()
            await asyncio.sleep(_LOOK_S)
    finally:
        await connection.close(timeout=1)
