"""What a long proof is, and what it found: plain data, kept as JSON lines."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER

if TYPE_CHECKING:
    from loadtest.storms.bench import Bench

FILE: Final = "storms.jsonl"  # in the lab's folder
RETRYING: Final = tuple(arm.name for arm in CONSUMER_ARMS.values() if arm.retries)


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what is promised, on which arms, and the steps that put it to the test."""

    name: str
    promise: str
    run: Callable[["Bench"], None]
    publishers: tuple[str, ...] = (DEFAULT_PUBLISHER,)
    consumers: tuple[str, ...] = RETRYING


class Finding(msgspec.Struct, frozen=True):
    """Something seen; `holds` is None where nothing is promised about it."""

    what: str
    seen: str
    holds: bool | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a proof found. One that `stopped` says why, and holds nothing."""

    proof: str
    at: str  # when it ended, UTC
    commit: str
    seed: int
    took_s: float
    requests: int = 0  # acknowledged
    faults: int = 0
    found: tuple[Finding, ...] = ()
    stopped: str = ""

    @property
    def holds(self) -> bool:
        promised = [finding.holds for finding in self.found if finding.holds is not None]
        return not self.stopped and bool(promised) and all(promised)


def read(file: Path) -> dict[str, Result]:
    """The last result of each proof; lines that are cut or of another shape are skipped."""
    found: dict[str, Result] = {}
    for line in file.read_bytes().splitlines() if file.exists() else []:
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.DecodeError:
            continue
        found[result.proof] = result
    return found


def write(file: Path, result: Result) -> None:
    """Add a result."""
    with file.open("ab") as lines:
        lines.write(msgspec.json.encode(result) + b"\n")


def left(proofs: Iterable[Proof], results: dict[str, Result]) -> list[Proof]:
    """The proofs that have not been seen to hold yet."""
    return [proof for proof in proofs if proof.name not in results or not results[proof.name].holds]
