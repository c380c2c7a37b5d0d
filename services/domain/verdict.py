"""From an audit to verdicts: per promise PASS, FAIL or INCONCLUSIVE, and the worst of them for the run. Pure.

A promise that had no chance to break proves nothing: it is INCONCLUSIVE, with the reason.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec

from services.domain.arms import ACCEPT_PROMISES, CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, Promise
from services.domain.audit import AuditRow

Verdict = Literal["PASS", "INCONCLUSIVE", "FAIL"]
_WORST_LAST: Final[tuple[Verdict, ...]] = ("PASS", "INCONCLUSIVE", "FAIL")


class Chances(msgspec.Struct, frozen=True, kw_only=True):
    """What the run did to the promises, seen from outside the processes that made them."""

    kills: Mapping[str, int]  # by part (`relay`, `arm.at_least_once`): SIGKILLs at its failpoints
    met_again: Mapping[str, int]  # by arm: records whose message id this arm had applied already
    unknown_answers: int  # requests whose first answer the client did not get
    replayed: int  # requests answered from a stored answer
    duplicates_in_control: int  # messages that `at_least_once` applied twice


class Judgement(msgspec.Struct, frozen=True):
    """The verdict about one row. `verdict` is None where nothing is promised."""

    promise: tuple[Promise, ...]
    verdict: Verdict | None
    exercised: str  # what gave the promise the chance to break; empty: nothing did
    why: str  # of a verdict that is not PASS


def promises_of(row: AuditRow) -> frozenset[Promise]:
    """What is promised about a row of an audit."""
    if row.hop == "accept":
        return ACCEPT_PROMISES
    if row.hop == "publish":
        return PUBLISHER_ARMS[row.arm].promises
    return CONSUMER_ARMS[row.arm].promises.get(row.effect, frozenset())


def judge(
    row: AuditRow, chances: Chances, *, causes: Mapping[str, int] = {}, declared: Collection[str] = ()
) -> Judgement:
    """Judge one row: a broken promise first, then a promise that was not put to the test.

    `causes`: why its messages were dead-lettered. Those that the scenario has `declared` break nothing.
    """
    promises = promises_of(row)
    named = tuple(sorted(promises))
    if not promises:
        return Judgement(named, None, "", "")
    tested = {promise: _tested(promise, row, chances) for promise in named}
    exercised = "; ".join(dict.fromkeys(how for how in tested.values() if how))
    undeclared = {cause: many for cause, many in causes.items() if cause not in declared}
    letters = row.dead_lettered - sum(causes.values()) + sum(undeclared.values())
    if broken := "; ".join(_broken(promises, row, letters, undeclared)):
        return Judgement(named, "FAIL", exercised, broken)
    if row.expected == 0:
        return Judgement(named, "INCONCLUSIVE", "", "nothing was expected")
    if untested := [promise for promise in named if not tested[promise]]:
        return Judgement(named, "INCONCLUSIVE", exercised, f"{' and '.join(untested)} had no chance to break")
    return Judgement(named, "PASS", exercised, "")


def worst(verdicts: Iterable[Verdict | None]) -> Verdict:
    """The run's verdict; of no verdicts at all, INCONCLUSIVE."""
    given = [verdict for verdict in verdicts if verdict is not None]
    return max(given, key=_WORST_LAST.index, default="INCONCLUSIVE")


def _broken(promises: frozenset[Promise], row: AuditRow, letters: int, causes: Collection[str]) -> Iterable[str]:
    if row.unexplained:
        yield f"{row.unexplained} unexplained"
    if row.unexpected:
        yield f"{row.unexpected} unexpected"
    if "no_loss" in promises:
        if row.lost:
            yield f"{row.lost} lost"
        if row.waiting:
            yield f"{row.waiting} still waiting after the drain"
        if letters:
            named = f" ({', '.join(sorted(causes))})" if causes else ""
            yield f"{letters} dead-lettered without a declared cause{named}"
    if "no_duplicate" in promises and row.duplicated:
        yield f"{row.duplicated} duplicated"


def _tested(promise: Promise, row: AuditRow, chances: Chances) -> str:
    """What gave the promise the chance to break, or nothing."""
    if row.hop == "accept":
        count, what = (
            (chances.unknown_answers, "answers that the client did not get")
            if promise == "no_loss"
            else (chances.replayed, "retries answered from the stored answer")
        )
        return f"{count} {what}" if count else ""
    kills = sum(chances.kills.get(part, 0) for part in _parts(row))
    killed = f"{kills} kills in its gaps" if kills else ""
    if promise == "no_loss":
        return killed
    if not chances.duplicates_in_control:
        return ""
    if not CONSUMER_ARMS[row.arm].dedups:
        return killed  # it meets no id again that it would know of: what could be done twice is in what a kill cut
    met = chances.met_again.get(row.arm, 0)
    return f"{met} applied ids met again" if met else ""


def _parts(row: AuditRow) -> tuple[str, ...]:
    """The parts in whose gaps the promise may break."""
    if row.hop == "process":
        return f"arm.{row.arm}", f"retry.{row.arm}"
    return ("relay" if row.arm == DEFAULT_PUBLISHER else row.arm,)
