"""What is armed, how often each place was passed, and what each pass shall do. Lives in the supervisor.

A `kill` ends the process that passes, so counts and random state cannot live there: here they survive it.
"""

import random
from typing import Literal

import msgspec

from services.failpoints.grammar import Armed, check_name
from services.failpoints.names import FAILPOINTS, selectors

Key = tuple[str, str]  # failpoint and arm ("": whoever passes)
Verdict = Literal["go", "kill", "pause", "error", "delay"]


class Decision(msgspec.Struct, frozen=True):
    """What a pass shall do."""

    action: Verdict
    amount: float = 0.0
    kind: str = ""

    @property
    def seconds(self) -> float:
        """How long a pause or delay lasts."""
        return self.amount * {"pause": 1.0, "delay": 0.001}.get(self.action, 0.0)


class _Entry(msgspec.Struct):
    armed: Armed
    passes: int = 0
    acted: int = 0

    @property
    def spent(self) -> bool:
        """Whether it has acted as often as it was allowed to."""
        return self.armed.count is not None and self.acted >= self.armed.count


class Registry:
    """Armed failpoints; one entry a failpoint and arm, the newest wins. Every choice comes from `seed`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.version = 0  # rises with each change of what is armed
        self._random = random.Random(seed)  # noqa: S311  # faults are to be repeatable, not secret
        self._entries: dict[Key, _Entry] = {}
        self.passes: dict[tuple[str, str], int] = {}  # (failpoint, process): seen since the supervisor started

    def arm(self, armed: Armed) -> None:
        """Arm, replacing what was armed for the same failpoint and arm."""
        self._entries[armed.failpoint, armed.arm] = _Entry(armed)
        self.version += 1

    def clear(self, failpoint: str | None = None) -> dict[Key, dict[str, int]]:
        """Disarm one failpoint or all; returns the counts of what is gone."""
        gone = {key: self.counts(key) for key in self._entries if failpoint in (None, key[0])}
        for key in gone:
            del self._entries[key]
        self.version += bool(gone)
        return gone

    def armed_for(self, process: str) -> list[str]:
        """Names of the failpoints that a pass of this process must ask about."""
        ours = selectors(process)
        return sorted({name for name, arm in self._entries if arm in ours or FAILPOINTS[name].by_account})

    def decide(self, failpoint: str, process: str, account: str = "") -> Decision:
        """Count a pass and say what it shall do. `account`: for whom it is passed, where `arm=` means that.

        Raises FailpointError when `failpoint` was never declared (a process and the supervisor of two versions).
        """
        ours = ("", account) if check_name(failpoint).by_account else selectors(process)
        self.passes[failpoint, process] = self.passes.get((failpoint, process), 0) + 1
        for (name, arm), entry in self._entries.items():
            if name != failpoint or arm not in ours:
                continue
            entry.passes += 1
            armed = entry.armed
            if entry.passes < armed.nth or entry.spent:
                continue
            if armed.p < 1.0 and self._random.random() >= armed.p:
                continue
            entry.acted += 1
            return Decision(armed.action, armed.amount, armed.kind)
        return Decision("go")

    def counts(self, key: Key) -> dict[str, int]:
        """How often what is armed there was passed, and how often it acted."""
        entry = self._entries[key]
        return {"passes": entry.passes, "acted": entry.acted}

    def spent(self) -> list[Key]:
        """What has acted as often as it was allowed to. It goes on counting passes until it is cleared."""
        return [key for key, entry in self._entries.items() if entry.spent]

    def listing(self) -> list[dict[str, object]]:
        """What is armed and how often it was passed and acted, for `lab fault list`."""
        return [
            {
                "failpoint": name,
                "action": str(entry.armed),
                "arm": arm,
                **self.counts((name, arm)),
                "spent": entry.spent,
            }
            for (name, arm), entry in self._entries.items()
        ]
