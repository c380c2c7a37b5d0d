"""What a lab in containers cannot play, and what on the outside would change that: nothing is started from inside."""

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.scenario import OF_ARMS, Freeze, Kill, Restart, Scenario
from services.stack.errors import NotKept
from services.stack.parts import PARTS, find


def obstacles(now: Mapping[str, Any], scenario: Scenario, given: Mapping[str, str]) -> Iterator[str]:
    """Each a sentence. `now`: the lab's status; `given`: settings of the environment. Pure."""
    if lacking := [name for name in scenario.parts() if name not in now["parts"]]:
        yield (
            f"it needs {', '.join(lacking)}: LAB_PUBLISHERS={','.join(scenario.arms.publishers)} LAB_CONSUMERS= "
            "docker compose --profile publishers up --wait"
        )
    struck = {find(name)[0] for step in scenario.faults if isinstance(step, Kill | Freeze | Restart)
              for name in step.processes if name in PARTS}  # fmt: skip
    yield from sorted(str(NotKept(part.name)) for part in struck if part.kind != "service")
    running, wanted = (
        {name: value for name, value in settings.items() if name not in OF_ARMS}
        for settings in (now["settings"], {**given, **scenario.environment})
    )
    if running != wanted:
        differing = {name: value for name, value in wanted.items() if running.get(name) != value}
        words = " ".join(f"{name}={value}" for name, value in differing.items())
        unset = " ".join(name for name in running if name not in wanted)
        yield f"it needs other settings: {words or f'unset {unset}, then'} docker compose up --wait"
