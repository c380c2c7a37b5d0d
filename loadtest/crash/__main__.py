"""The crash matrix on a lab of its own: `python -m loadtest.crash`, long, in rounds, goes on where it stopped.

Exit 0: every cell PASS. 1: a promise was broken in one. 3: cells are not run yet, or INCONCLUSIVE. 130: interrupted.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from loadtest.crash import results
from loadtest.crash.cells import CELLS, LEAST_KILLS, Cell, Round, rounds_of
from loadtest.crash.strike import carry_out
from loadtest.crash.verdicts import Result
from loadtest.crash.verdicts import results as results_of
from services.stack import control
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import PARTS

PASSES: Final = 3  # over what is left, in one call: cells that were INCONCLUSIVE come again
_EXITS: Final = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}


def parts() -> tuple[str, ...]:
    """Every arm of both kinds and the relay; what they need comes with them."""
    return tuple(name for name, part in PARTS.items() if part.publisher or part.consumer or name == "relay")


def wanted(cells: Sequence[Cell], known: dict[str, Result], *, failed: bool, only: str) -> list[Cell]:
    """The cells that are still to be run: PASS is done, FAIL is run again only when that is asked for.

    When all are done with too few kills, those that passed are run once more.
    """
    done = ("PASS",) if failed else ("PASS", "FAIL")
    chosen = [cell for cell in cells if only in cell.name]
    left = [cell for cell in chosen if cell.name not in known or known[cell.name].verdict not in done]
    if left or only or kills(known) >= LEAST_KILLS:
        return left
    return [cell for cell in chosen if known[cell.name].verdict == "PASS"]


def kills(known: dict[str, Result]) -> int:
    """Of all declared cells, in all their runs."""
    return sum(known[cell.name].kills for cell in CELLS if cell.name in known)


def run(home: Home, rounds: Sequence[Round], seed: int, end: float) -> bool:
    """Carry the rounds out, one after the other; none is begun after `end` (monotonic). Returns whether all were."""
    for number, round_ in enumerate(rounds, 1):
        if time.monotonic() > end:
            tell(f"the time is over: {len(rounds) - number + 1} rounds are left; run it again")
            return False
        named = ", ".join(cell.name for cell in round_.cells)
        tell(f"round {number} of {len(rounds)}: {named}")
        round_began = time.monotonic()

        def say(text: str, began: float = round_began) -> None:
            tell(f"  {time.monotonic() - began:4.0f} s  {text}")

        outcome = carry_out(home, round_, f"crash-{int(time.time())}", seed + number, say)
        found = results_of(round_, outcome, at=time.time(), seed=seed)
        results.append(home, found)
        for result in found:
            say(f"{result.verdict:<12} {result.cell}  kills {result.kills}  {result.why}")
        for waiting in outcome.left:
            say(f"still waiting: {waiting}")
    return True


def tell(text: str) -> None:
    """A line of progress on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def verdict_of(known: dict[str, Result]) -> str:
    """The worst; a cell without a result is INCONCLUSIVE, and so is a matrix with too few kills."""
    verdicts = {known[cell.name].verdict if cell.name in known else "INCONCLUSIVE" for cell in CELLS}
    if kills(known) < LEAST_KILLS:
        verdicts.add("INCONCLUSIVE")
    return next(verdict for verdict in ("FAIL", "INCONCLUSIVE", "PASS") if verdict in verdicts)


def main() -> None:
    """Run what the command line asks for, then say where the matrix stands."""
    options = _options()
    home = Home.from_environment()
    todo = wanted(CELLS, results.read(home), failed=options.failed, only=options.only)
    if todo and not options.report:
        _on_a_lab(home, options)
    known = results.read(home)
    if options.table or all(cell.name in known for cell in CELLS):
        results.TABLE.write_text(results.table(known))
    _tell(known, as_json=options.json)
    sys.exit(_EXITS[verdict_of(known)])


def _on_a_lab(home: Home, options: argparse.Namespace) -> None:
    seed = secrets.randbelow(2**20) if options.seed is None else options.seed
    tell(f"seed {seed}; results in {results.file_of(home)}")
    was_up = home.read_state() is not None
    try:
        control.up(home, faults=True, seed=seed, only=parts(), say=tell)
        end = time.monotonic() + options.minutes * 60
        for _ in range(PASSES):
            todo = wanted(CELLS, results.read(home), failed=options.failed, only=options.only)
            if not run(home, list(rounds_of(todo))[: options.rounds], seed, end) or options.rounds:
                break
    except KeyboardInterrupt:
        tell("interrupted: the round in hand is given up, the rest is kept")
        sys.exit(130)
    except (StackError, TimeoutError) as error:
        tell(f"crash: {error}")
        sys.exit(3)
    finally:
        if not was_up:
            control.down(home, tell)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after so many minutes")
    parser.add_argument("--rounds", type=int, default=None, help="at most so many rounds")
    parser.add_argument("--only", default="", help="cells whose FAILPOINT/PROCESS contains this")
    parser.add_argument("--failed", action="store_true", help="also cells that failed: after a mend")
    parser.add_argument("--seed", type=int, default=None, help="of every choice; drawn and printed by default")
    parser.add_argument("--report", action="store_true", help="run nothing, say where the matrix stands")
    parser.add_argument("--table", action="store_true", help="write docs/crash-matrix.md though cells are missing")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser.parse_args()


def _tell(known: dict[str, Result], *, as_json: bool) -> None:
    cells = [known[cell.name] for cell in CELLS if cell.name in known]
    many = kills(known)
    if as_json:
        document = {"verdict": verdict_of(known), "declared": len(CELLS), "kills": many, "cells": cells}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
        return
    for result in cells:
        if result.verdict != "PASS":
            sys.stdout.write(f"{result.verdict:<12} {result.cell}: {result.why}\n")
    passed = sum(result.verdict == "PASS" for result in cells)
    left = len(CELLS) - len(cells)
    sys.stdout.write(
        f"{verdict_of(known)}: {passed} of {len(CELLS)} cells PASS, {left} not run, {many} of {LEAST_KILLS} kills\n"
    )


if __name__ == "__main__":
    main()
