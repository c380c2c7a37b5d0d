"""Results: JSON lines in the lab's home, the newest of a cell counts; and the table of the docs, made of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from loadtest.crash.cells import CELLS, Cell
from loadtest.crash.verdicts import Result
from services.domain.arms import ACCEPT_PROMISES, CONSUMER_ARMS, PUBLISHER_ARMS
from services.stack.home import Home

TABLE: Final = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
_PREFACE: Final = """\
Made by `make crash`; a test holds its rows to the declared cells (`loadtest/crash/cells.py`). In each cell the process
was killed with SIGKILL at the 1st, 2nd and 7th pass of the failpoint and then with p=0.02 at each pass, under an even
load at every publisher arm; then the lab was drained and audited.
*holds*: what the arm promises. *must break*: what shows that the kills hit, where nothing of it is promised.
*seen*: messages in the arm's rows of that audit."""
_WORDS: Final = {"no_loss": "lost 0", "no_duplicate": "duplicated 0"}
_HEADINGS: Final = ("failpoint", "process", "needs", "holds", "must break", "seen", "kills", "verdict")


def file_of(home: Home) -> Path:
    """Where the results of a lab lie."""
    return home.path / "crash" / "results.jsonl"


def read(home: Home) -> dict[str, Result]:
    """The newest result of each cell, with the kills of all its runs. Lines that are cut are skipped."""
    found: dict[str, Result] = {}
    file = file_of(home)
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.DecodeError:
            continue
        before = found[result.cell].kills if result.cell in found else 0
        found[result.cell] = msgspec.structs.replace(result, kills=before + result.kills)
    return found


def append(home: Home, new: Iterable[Result]) -> None:
    """Add the results of a round."""
    file = file_of(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        stream.write(b"".join(msgspec.json.encode(result) + b"\n" for result in new))


def table(found: Mapping[str, Result]) -> str:
    """The page: a row a cell, in the order in which they are declared."""
    return "\n".join(_page(found)) + "\n"


def _page(found: Mapping[str, Result]) -> Iterator[str]:
    yield "# Crash matrix"
    yield ""
    yield _PREFACE
    yield ""
    yield _summary(found)
    yield ""
    yield f"| {' | '.join(_HEADINGS)} |"
    yield "|" + " --- |" * len(_HEADINGS)
    for cell in CELLS:
        yield f"| {' | '.join((*declared(cell), *_found(found.get(cell.name))))} |"


def _summary(found: Mapping[str, Result]) -> str:
    known = [found[cell.name] for cell in CELLS if cell.name in found]
    verdicts = [sum(r.verdict == v for r in known) for v in ("PASS", "FAIL", "INCONCLUSIVE")]
    when = f", {datetime.fromtimestamp(max(r.at for r in known), UTC):%Y-%m-%d}" if known else ""
    passed, failed, open_ = verdicts
    return (
        f"{len(CELLS)} cells, {sum(r.kills for r in known)} kills: {passed} PASS, {failed} FAIL, "
        f"{open_} INCONCLUSIVE, {len(CELLS) - len(known)} not run{when}."
    )


def declared(cell: Cell) -> tuple[str, ...]:
    """The columns that do not come from a run."""
    process = f"`{cell.process}`" + (f" for {cell.account}" if cell.account else "")
    return f"`{cell.failpoint}`", process, cell.needs.gloss, "; ".join(_holds(cell)), _must_break(cell)


def _must_break(cell: Cell) -> str:
    return "; ".join(f"{control} > 0" for control in cell.breaks)


def _holds(cell: Cell) -> Iterator[str]:
    for arm in cell.arms:
        if "accept" in cell.hops:
            yield f"accept: {_promised(ACCEPT_PROMISES)}"
            if promises := PUBLISHER_ARMS[arm].promises:
                yield f"publish: {_promised(promises)}"
            continue
        whose = f"{arm} " if len(cell.arms) > 1 else ""
        for effect, promises in CONSUMER_ARMS[arm].promises.items():
            if promises:
                yield f"{whose}{effect}: {_promised(promises)}"


def _promised(promises: Iterable[str]) -> str:
    return ", ".join(_WORDS[promise] for promise in sorted(promises, reverse=True))


def _found(result: Result | None) -> Sequence[str]:
    if result is None:
        return "", "", "not run"
    seen = "; ".join(
        f"{name}: {', '.join(f'{count} {many}' for count, many in counts.items())}"
        for name, counts in result.seen.items()
    )
    return seen, str(result.kills), result.verdict + (f": {result.why}" if result.why else "")
