"""Runs that were played, as they are kept in LAB_HOME/runs, one folder a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loadtest.alerts import Fired
from loadtest.ledger import ledger_file
from loadtest.totals import Snapshot
from services.domain.arms import Promise
from services.domain.audit import AuditDocument, AuditRow
from services.domain.verdict import Judgement, Verdict
from services.stack.nemesis import Fault

VERDICT_FILE = "verdict.json"


class Row(AuditRow, kw_only=True):
    """A row of the audit with its verdict."""

    promise: tuple[Promise, ...] = ()
    verdict: Verdict | None = None
    exercised: str = ""
    why: str = ""


class KeptFault(msgspec.Struct, kw_only=True):
    """A fault of the run and its window, Unix seconds; `name` is the failpoint, or what was done."""

    name: str
    target: str
    started: float
    ended: float | None
    fault: str
    by: str
    details: dict[str, Any] = {}


class Played(msgspec.Struct, kw_only=True):
    """What a run found: the answer of `lab run --json`."""

    scenario: str
    teaches: str
    run: str
    seed: int
    verdict: Verdict
    closes: bool
    expected_verdict: Verdict
    began: float
    load_ended: float
    ended: float
    interrupted: bool
    drained: bool
    still_waiting: list[str]
    reasons: list[str]
    controls: dict[str, int]
    rows: list[Row]
    faults: list[KeptFault]
    alerts: list[Fired]
    alerts_wrong: list[str] = []  # told, and no part of the verdict
    report: str
    load: Snapshot
    seen: dict[str, int]
    trials: dict[Promise, dict[str, int]]
    settings: dict[str, str]
    versions: dict[str, str]
    audit: AuditDocument


def row_of(row: AuditRow, judgement: Judgement) -> Row:
    """Both in one."""
    return Row(**msgspec.structs.asdict(row), **msgspec.structs.asdict(judgement))


def fault_of(fault: Fault) -> KeptFault:
    """A fault as it is kept."""
    name = fault.details.get("failpoint") or fault.details.get("kind") or fault.fault
    return KeptFault(
        name=str(name), target=fault.target, started=fault.started, ended=fault.ended, fault=fault.fault, by=fault.by,
        details=fault.details,
    )  # fmt: skip


def keep(home: Path, played: Played) -> Path:
    """Write the run down; returns the file."""
    file = home / "runs" / played.run / VERDICT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(played), indent=2) + b"\n")
    return fresh.replace(file)


def kept(home: Path) -> Iterator[Played]:
    """Every run that is kept, oldest first; what is no run of this version is passed over."""
    found = []
    for file in (home / "runs").glob(f"*/{VERDICT_FILE}"):
        try:
            found.append(msgspec.json.decode(file.read_bytes(), type=Played))
        except (OSError, msgspec.DecodeError):
            continue
    yield from sorted(found, key=lambda played: played.began)


def read_kept(home: Path, run: str) -> Played | None:
    """One run, or None where there is none of this name."""
    return next((played for played in kept(home) if played.run == run), None)


def fresh_run(home: Path, scenario: str, seed: int) -> str:
    """The id of a new run: the scenario and the seed; a repeat on the same lab is numbered."""
    base, number = f"{scenario}-{seed}"[:40], 1
    while True:
        run = base if number == 1 else f"{base}.{number}"
        if not ledger_file(home, run).exists() and not (home / "runs" / run).exists():
            return run
        number += 1
