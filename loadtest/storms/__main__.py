"""Long proofs, one after another, each on a lab that it starts: `python -m loadtest.storms [NAME...]`.

Without names, what has not been seen to hold yet: a run that was cut off goes on where it stopped. Results are kept in
docs/storms.json, of which docs/storms.md is made. Exit 0 when everything that ran held, 1 when not, 2 for a name that
there is not.
"""

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from loadtest.storms import page
from loadtest.storms.bench import CAUGHT_UP_S, Bench, Stopped
from loadtest.storms.proof import Proof, Result, left, read, write
from loadtest.storms.table import PROOFS
from services.stack import client, control
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import of_arms

_ROOT: Final = Path(__file__).parents[2]


def say(text: str) -> None:
    """A line of progress on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Run the proofs of the command line."""
    options = _options()
    home = Home.from_environment()
    if options.list:
        sys.stdout.writelines(f"{_state(proof):<8} {proof.name:<28} {proof.promise}\n" for proof in PROOFS)
        return
    if unknown := sorted(set(options.names) - {proof.name for proof in PROOFS}):
        say(f"unknown proof {unknown[0]!r}; the proofs are: {', '.join(proof.name for proof in PROOFS)}")
        sys.exit(2)
    chosen = [proof for proof in PROOFS if proof.name in options.names] or left(PROOFS, read())
    results = [] if options.page else list(_run(home, chosen, options.seed))
    if options.page:
        page.write(read())
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(results), indent=2).decode() + "\n")
    sys.exit(0 if all(result.holds for result in results) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.storms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs; by default those that are left")
    parser.add_argument("--list", action="store_true", help="list the proofs and what was seen of them")
    parser.add_argument("--page", action="store_true", help="only make docs/storms.md from docs/storms.json")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _state(proof: Proof) -> str:
    result = read().get(proof.name)
    return "left" if result is None else "held" if result.holds else "BROKEN"


def _run(home: Home, proofs: Sequence[Proof], seed: int) -> Iterator[Result]:
    """Proofs with the same arms share a lab. No lab is left behind."""
    shape: tuple[str, ...] = ()
    try:
        for proof in proofs:
            wanted = of_arms(proof.publishers, proof.consumers)
            if shape != wanted:
                control.down(home, lambda _: None)
                say(f"lab: {', '.join((*proof.publishers, *proof.consumers))}")
                control.up(home, faults=True, seed=seed, only=wanted, say=lambda _: None)
                shape = wanted
            result = _carry_out(home, proof, seed)
            write(result)
            page.write(read())
            yield result
    finally:
        control.down(home, lambda _: None)


def _carry_out(home: Home, proof: Proof, seed: int) -> Result:
    say(f"{proof.name}: {proof.promise}")
    bench, began, stopped = Bench(home, proof, seed, say), time.monotonic(), ""
    try:
        bench.all_ready()
        bench.drained(CAUGHT_UP_S)  # this lab may have run without these arms
        proof.run(bench)
    except (Stopped, StackError, client.NotUp, client.Refused) as error:
        stopped = str(error)
        say(f"  STOPPED {stopped}")
    finally:
        _calm(bench)
    result = Result(
        proof=proof.name,
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        commit=_commit(),
        seed=seed,
        took_s=round(time.monotonic() - began, 1),
        requests=bench.acknowledged,
        faults=bench.faults,
        found=tuple(bench.findings),
        stopped=stopped,
    )
    say(f"{proof.name}: {'holds' if result.holds else 'DOES NOT HOLD'} ({result.took_s:.0f} s)")
    return result


def _calm(bench: Bench) -> None:
    """Leave nothing of a proof to the next one: what it armed, froze, held down and scaled."""
    with contextlib.suppress(client.NotUp, client.Refused):
        processes = bench.processes().values()
        for process in processes:
            if process["state"] == "frozen":
                bench.act("thaw", process["name"])
            elif process["state"] in ("held", "failed"):
                bench.act("restart", process["name"])
        client.clear(bench.home)
        for part in {process["name"].partition("#")[0] for process in processes if process["replica"]}:
            bench.scale(part, 1)


def _commit() -> str:
    asked = ["git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
