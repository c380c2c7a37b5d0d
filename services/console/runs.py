"""The runs of this lab and the time each took, from the totals that its load left behind."""

from pathlib import Path
from typing import Final

import msgspec

BEFORE_S: Final = 10.0
AFTER_S: Final = 60.0  # the drain and the audit come after the load
LISTED: Final = 20


class Run(msgspec.Struct, frozen=True):
    """A run and its time range, in Unix seconds."""

    run: str
    from_s: float
    to_s: float


class _Totals(msgspec.Struct):
    run: str
    duration_s: float


def runs(folder: Path) -> list[Run]:
    """The last runs, newest first. Its totals were last written when the load ended, or a second ago."""
    found = [run for file in folder.glob("*/load.json") if (run := _run(file)) is not None]
    return sorted(found, key=lambda run: -run.to_s)[:LISTED]


def _run(file: Path) -> Run | None:
    try:
        totals, ended = msgspec.json.decode(file.read_bytes(), type=_Totals), file.stat().st_mtime
    except (OSError, msgspec.DecodeError):
        return None
    return Run(totals.run, ended - totals.duration_s - BEFORE_S, ended + AFTER_S)
