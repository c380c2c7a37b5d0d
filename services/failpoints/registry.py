"""What is armed, how often each place was passed, and what each pass shall do. Lives in the supervisor.

A `kill` ends the process that passes, so counts and random state cannot live there: here they survive it.
"""

import random
from typing import Literal

import msgspec

from services.failpoints.grammar import Armed, FailpointError

Verdict = Literal["go", "kill", "pause", "error", "delay"]


class Decision(msgspec.Struct, frozen=True):
    """What a pass shall do."""

    action: Verdict
    amount: float = 0.0
    kind: str = ""


class _Entry(msgspec.Struct):
    armed: Armed
    passes: int = 0
    acted: int = 0


class Registry:
    """Armed failpoints; one entry a failpoint and arm, the newest wins. Every choice comes from `seed`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.version = 0  # rises with each change of what is armed
        self._random = random.Random(seed)  # noqa: S311  # faults are to be repeatable, not secret
        self._entries: dict[tuple[str, str], _Entry] = {}
        self.passes: dict[tuple[str, str], int] = {}  # (failpoint, process): seen since the supervisor started

    def arm(self, armed: Armed) -> None:
        """Arm, replacing what was armed for the same failpoint and arm."""
        self._entries[armed.failpoint, armed.arm] = _Entry(armed)
        self.version += 1

    def clear(self, failpoint: str | None = None) -> int:
        """Disarm one failpoint or all; returns how many entries went."""
        gone = [key for key in self._entries if failpoint in (None, key[0])]
        for key in gone:
            del self._entries[key]
        self.version += bool(gone)
        return len(gone)

    def armed_for(self, process: str) -> list[str]:
        """Names of the failpoints that a pass of this process must ask about."""
        return sorted({name for (name, arm) in self._entries if _owner_matches(process, arm)})

    def decide(self, failpoint: str, process: str) -> Decision:
        """Count a pass and say what it shall do.

        Raises FailpointError when `failpoint` was never declared (a process and the supervisor of two versions).
        """
        if not failpoint:
            raise FailpointError("a pass without a failpoint's name")
        self.passes[failpoint, process] = self.passes.get((failpoint, process), 0) + 1
        for (name, arm), entry in self._entries.items():
            if name != failpoint or not _owner_matches(process, arm):
                continue
            entry.passes += 1
            armed = entry.armed
            if entry.passes < armed.nth or (armed.count is not None and entry.acted >= armed.count):
                continue
            if armed.p < 1.0 and self._random.random() >= armed.p:
                continue
            entry.acted += 1
            return Decision(armed.action, armed.amount, armed.kind)
        return Decision("go")

    def listing(self) -> list[dict[str, object]]:
        """What is armed and how often it was passed and acted, for `lab fault list`."""
        return [
            {**msgspec.to_builtins(entry.armed), "passes": entry.passes, "acted": entry.acted}
            for entry in self._entries.values()
        ]


def _owner_matches(process: str, arm: str) -> bool:
    return not arm or process.partition("#")[0].removeprefix("arm.").removeprefix("retry.") == arm
