"""What a round says of a cell: promises first, then whether the place was passed and what must break broke."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from loadtest.crash.cells import Cell, Round
from loadtest.crash.strike import Done, Outcome
from services.domain.audit import AuditRow
from services.domain.verdict import Chances, Terms, Verdict, judge_run

_TOLD: Final = ("lost", "duplicated", "unexpected", "dead_lettered", "uncertain", "waiting", "unexplained")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the results file."""

    at: float  # Unix seconds
    cell: str
    verdict: Verdict
    why: str  # of a verdict that is not PASS
    kills: int
    passes: int
    actions: list[Done]
    seen: dict[str, dict[str, int]]  # arm/effect -> counts that are not 0
    run: str
    seed: int


def results(round_: Round, outcome: Outcome, *, at: float, seed: int) -> list[Result]:
    """One for each cell."""
    broken = list(_broken(round_, outcome))
    return [_result(cell, outcome, broken, at=at, seed=seed) for cell in round_.cells]


def _result(cell: Cell, outcome: Outcome, broken: Sequence[str], *, at: float, seed: int) -> Result:
    done, rows = outcome.done[cell.name], cell.rows(outcome.audited.rows)
    verdict, why = _verdict(cell, done, rows, broken)
    return Result(
        at=at,
        cell=cell.name,
        verdict=verdict,
        why=why,
        kills=sum(one.acted for one in done if one.action.startswith("kill")),
        passes=sum(one.passes for one in done),
        actions=done,
        seen=dict(_seen(rows)),
        run=outcome.run,
        seed=seed,
    )


def _verdict(cell: Cell, done: Sequence[Done], rows: Sequence[AuditRow], broken: Sequence[str]) -> tuple[Verdict, str]:
    if broken:
        return "FAIL", "; ".join(broken)
    if empty := [row.name for row in rows if not row.expected]:
        return "INCONCLUSIVE", f"nothing was expected: {', '.join(empty)}"
    if missed := [one.action for one in done if not one.passes or not (one.acted or one.by_chance)]:
        return "INCONCLUSIVE", f"not passed: {', '.join(missed)}"
    if whole := [str(must) for must in cell.breaks if not must.found(rows)]:
        return "INCONCLUSIVE", f"did not break: {', '.join(whole)}"
    return "PASS", ""


def _broken(round_: Round, outcome: Outcome) -> Iterator[str]:
    """Broken promises of any arm, struck or not: all of them hold in every round."""
    for number, row in enumerate(outcome.audited.rows):
        judged = judge_run(outcome.audited, Chances(), Terms(declared=round_.causes(row.arm)))
        judgement = judged.judgements[number]
        if judgement.verdict == "FAIL":
            yield f"{row.name}: {judgement.why}"
        elif row.unexplained:
            yield f"{row.name}: {row.unexplained} unexplained"


def _seen(rows: Iterable[AuditRow]) -> Iterator[tuple[str, dict[str, int]]]:
    for row in rows:
        if counts := {count: many for count in _TOLD if (many := getattr(row, count))}:
            yield f"{row.arm}/{row.effect}", counts
