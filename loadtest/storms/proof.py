"""What a long proof is, and what it found: plain data; the last result of each is kept beside the page made of them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER

if TYPE_CHECKING:
    from loadtest.storms.bench import Bench

FILE: Final = Path(__file__).parents[2] / "docs" / "storms.json"
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


def read(file: Path = FILE) -> dict[str, Result]:
    """The last result of each proof; none where there is no such file."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Result]) if file.exists() else {}


def write(result: Result, file: Path = FILE) -> None:
    """Keep a result in place of the one before; the file is written whole or not at all."""
    results = {**read(file), result.proof: result}
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=2) + b"\n")
    part.replace(file)


def left(proofs: Iterable[Proof], results: Mapping[str, Result]) -> list[Proof]:
    """The proofs that have not been seen to hold yet."""
    return [proof for proof in proofs if proof.name not in results or not results[proof.name].holds]
