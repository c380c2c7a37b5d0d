"""Every scenario but the long ones, once: resumable, and written down for the docs.

`python -m loadtest.proof [--again] [--seed N]`. A scenario that came out as expected at this version of the code is not
played again; `docs/proof.json` keeps what each came out as. Exit 0 when all came out as they are expected to.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.scenario import names, read

FILE: Final = Path(__file__).parent.parent / "docs" / "proof.json"
TIMEOUT_S: Final = 900.0
_CODE: Final = ("services", "loadtest")


class Proved(msgspec.Struct, frozen=True):
    """What a scenario came out as."""

    verdict: str
    expected: str
    seed: int
    at: str
    code: str  # a digest of services/ and loadtest/
    took_s: float
    requests: int
    kills: int
    exercised: dict[str, int]
    damage: dict[str, int]  # what had to come out broken
    alerts: list[str]  # that fired
    alerts_wrong: list[str]  # not as the scenario says that they must, or must not

    @property
    def as_expected(self) -> bool:
        return self.verdict == self.expected and not self.alerts_wrong


def digest() -> str:
    """Of the code that a run exercises."""
    found = hashlib.sha256()
    root = Path(__file__).parent.parent
    for file in sorted(
        file for folder in _CODE for kind in ("py", "sql", "toml") for file in (root / folder).rglob(f"*.{kind}")
    ):
        found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:12]


def proved(file: Path = FILE) -> dict[str, Proved]:
    """What is written down, by scenario; nothing where there is no such file."""
    if not file.exists():
        return {}
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Proved])


def prove(name: str, seed: int) -> Proved | None:
    """Play one scenario; None when it could not be played."""
    command = [sys.executable, "-m", "lab.main", "run", name, "--seed", str(seed), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=False)
    try:
        return _of(json.loads(done.stdout))
    except (ValueError, KeyError):
        return None


def _of(run: Mapping[str, Any]) -> Proved:
    return Proved(
        verdict=run["verdict"],
        expected=run["expected_verdict"],
        seed=run["seed"],
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        code=digest(),
        took_s=round(run["ended"] - run["began"]),
        requests=run["load"]["sent"],
        kills=sum(fault["fault"] == "kill" for fault in run["faults"]),
        exercised={name: many for name, many in run["seen"].items() if many},
        damage=run["controls"],
        alerts=sorted({alert["name"] for alert in run["alerts"]}),
        alerts_wrong=run["alerts_wrong"],
    )


def main() -> None:
    """Play what is not proved yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="also what is proved already")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    before = proved()
    code, bad = digest(), []
    for name in names():
        known = before.get(name)
        if read(name).long or (not options.again and known and known.as_expected and known.code == code):
            continue
        begun = time.monotonic()
        found = prove(name, options.seed)
        took_s = time.monotonic() - begun
        if found is None or not found.as_expected:
            bad.append(name)
        said = "could not be played" if found is None else "; ".join([found.verdict, *found.alerts_wrong])
        tell(f"{name}: {said} ({took_s:.0f} s)")
        if found is not None:
            before[name] = found
            FILE.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(before.items()))), indent=2) + b"\n")
    tell(f"not as expected: {', '.join(bad)}" if bad else "every scenario came out as expected")
    sys.exit(bool(bad))


def tell(text: str) -> None:
    """A line on stderr, beside the runs' own."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
