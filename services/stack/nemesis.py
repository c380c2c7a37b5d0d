"""The log of faults: one JSON line when a fault begins and one when it ends. The source for charts and verdicts."""

import time
from pathlib import Path
from typing import Any

import msgspec


class NemesisLog:
    """Appends to `run/nemesis.jsonl`, written through at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, fault: str, target: str, **fields: Any) -> None:
        """A fault that begins now and has no length, or whose end is written by `fault`'s counterpart (thaw, clear)."""
        line = {"at": time.time(), "fault": fault, "target": target, **fields}
        self._file.write(msgspec.json.encode(line) + b"\n")
