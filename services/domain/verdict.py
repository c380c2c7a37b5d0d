"""From an audit to verdicts: per promise PASS, FAIL or INCONCLUSIVE, and the worst of them for the run. Pure.

A promise that had no chance to break proves nothing: it is INCONCLUSIVE, with the reason.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from services.domain.arms import (
    ACCEPT_PROMISES,
    CONSUMER_ARMS,
    DEFAULT_PUBLISHER,
    PUBLISHER_ARMS,
    ConsumerArm,
    Promise,
)
from services.domain.audit import AuditDocument, AuditRow

Verdict = Literal["PASS", "INCONCLUSIVE", "FAIL"]
_WORST_LAST: Final[tuple[Verdict, ...]] = ("PASS", "INCONCLUSIVE", "FAIL")

ACCEPT: Final = "accept"  # the name under which a scenario speaks of the hop accept; the other names are arms
# Whose damage shows that the run was hard enough: without it, a promise that held has shown nothing.
_PAIRED: Final[Mapping[tuple[str, Promise], str]] = {
    ("process", "no_loss"): "at_most_once",
    ("process", "no_duplicate"): "at_least_once",
}
_STATE_OF: Final[Mapping[Promise, str]] = {"no_loss": "lost", "no_duplicate": "duplicated"}


class Chances(msgspec.Struct, frozen=True, kw_only=True):
    """What the run did to the promises, seen from outside the processes that made them."""

    kills: Mapping[str, int] = {}  # by part (`relay`, `arm.at_least_once`): SIGKILLs at its failpoints
    struck: Mapping[str, int] = {}  # by part: other SIGKILLs and freezes, with records under way
    due_again: Mapping[str, int] = {}  # by arm: effects at or above its committed offsets when it was struck
    met_again: Mapping[str, int] = {}  # by arm: records whose message id this arm had applied already
    trials: Mapping[Promise, Mapping[str, int]] = {}  # in words: what else tried every arm (kills of the broker...)
    unknown_answers: int = 0  # requests whose first answer the client did not get
    replayed: int = 0  # requests answered from a stored answer
    seen: Mapping[str, int] = {}  # what a scenario can ask for: kills, freezes, dedup_hits, retries...


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """Damage that a scenario must have done. An empty `effect` or `hop` means any."""

    arm: str
    state: str
    effect: str = ""
    hop: str = ""
    at_least: int = 1

    def __str__(self) -> str:
        return " ".join(word for word in (self.hop, self.arm, self.effect, self.state) if word)

    def about(self, row: AuditRow) -> bool:
        """Whether it speaks of the row."""
        return self.arm == row.arm and self.effect in ("", row.effect) and self.hop in ("", row.hop)

    def found(self, rows: Iterable[AuditRow]) -> int:
        """How many messages are in that state."""
        return sum(int(getattr(row, self.state)) for row in rows if self.about(row))


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario says of the verdict."""

    promises: Mapping[str, frozenset[Promise]] | None = None  # put to the test, by arm or ACCEPT; None: all
    controls: tuple[Control, ...] = ()  # what must come out broken
    declared: frozenset[str] = frozenset()  # causes for which messages may be dead-lettered
    without_control: str = ""  # why no arm breaks where the promises hold
    exercise: Mapping[str, int] = {}  # of Chances.seen, at least


class Judgement(msgspec.Struct, frozen=True):
    """The verdict about one row. `verdict` is None where nothing is promised."""

    promise: tuple[Promise, ...]
    verdict: Verdict | None
    exercised: str  # what gave the promise the chance to break; empty: nothing did
    why: str  # of a verdict that is not PASS


class RunVerdict(msgspec.Struct, frozen=True):
    """The verdict about a run: its rows', and what is to be said of the run as a whole."""

    verdict: Verdict
    judgements: list[Judgement]  # one a row, in the order of the rows
    reasons: list[str]  # why it is not PASS, as far as no row says it
    controls: dict[str, int]  # what had to come out broken, and how many did


def promises_of(row: AuditRow, consumers: Mapping[str, ConsumerArm] = CONSUMER_ARMS) -> frozenset[Promise]:
    """What is promised about a row of an audit."""
    if row.hop == "accept":
        return ACCEPT_PROMISES
    if row.hop == "publish":
        return PUBLISHER_ARMS[row.arm].promises
    return consumers[row.arm].promises.get(row.effect, frozenset())


def promises_by_name(publishers: Iterable[str], consumers: Iterable[ConsumerArm]) -> dict[str, frozenset[Promise]]:
    """What a scenario with these arms can put to the test: by arm, and ACCEPT."""
    made = {ACCEPT: ACCEPT_PROMISES, **{name: PUBLISHER_ARMS[name].promises for name in publishers}}
    return made | {arm.name: frozenset[Promise]().union(*arm.promises.values()) for arm in consumers}


def judge_run(
    document: AuditDocument,
    chances: Chances,
    terms: Terms,
    *,
    consumers: Mapping[str, ConsumerArm] = CONSUMER_ARMS,
    doubts: Sequence[str] = (),
) -> RunVerdict:
    """The verdict about a run. `doubts`: why the run itself proves nothing (it was cut short, records are gone)."""
    rows = document.rows
    judge_ = _Judge(rows, chances, terms, consumers)
    judgements = [judge_.judge(row, document.dead_letter_causes.get(row.name, {})) for row in rows]
    controls = {str(control): control.found(rows) for control in terms.controls}
    reasons = [*doubts, *_shown_too_little(terms, chances, controls)]
    if unknown := sum(row.uncertain for row in rows if row.hop == "publish"):
        gone = ", ".join(document.truncated)
        reasons.append(f"{unknown} publications cannot be known: the broker has dropped the first records of {gone}")
    if not document.closes:
        reasons.append("the law does not close")
    verdicts = [judgement.verdict for judgement in judgements]
    if reasons:
        verdicts.append("INCONCLUSIVE" if document.closes else "FAIL")
    if all(verdict is None for verdict in verdicts):
        holes = bool(terms.controls) and not reasons  # it promises nothing and has shown what it is about
        return RunVerdict("PASS" if holes else "INCONCLUSIVE", judgements, reasons, controls)
    return RunVerdict(worst(verdicts), judgements, reasons, controls)


def _shown_too_little(terms: Terms, chances: Chances, controls: Mapping[str, int]) -> Iterator[str]:
    for control in terms.controls:
        if (found := controls[str(control)]) < control.at_least:
            yield f"{control}: {found}, at least {control.at_least} had to be: the run was too easy"
    for name, wanted in terms.exercise.items():
        if (seen := chances.seen.get(name, 0)) < wanted:
            yield f"{name.replace('_', ' ')}: {seen} seen, at least {wanted} had to be"


def judge(
    row: AuditRow,
    chances: Chances,
    rows: Collection[AuditRow] = (),
    *,
    terms: Terms = Terms(),  # noqa: B008  # frozen
    causes: Mapping[str, int] = {},
    consumers: Mapping[str, ConsumerArm] = CONSUMER_ARMS,
) -> Judgement:
    """Judge one row: a broken promise first, then a promise that was not put to the test.

    `rows`: all of the audit, among them the controls. `causes`: why its messages were dead-lettered.
    """
    return _Judge(rows, chances, terms, consumers).judge(row, causes)


class _Judge:
    def __init__(
        self, rows: Collection[AuditRow], chances: Chances, terms: Terms, consumers: Mapping[str, ConsumerArm]
    ) -> None:
        self._rows, self._chances, self._terms, self._consumers = rows, chances, terms, consumers

    def judge(self, row: AuditRow, causes: Mapping[str, int]) -> Judgement:
        promises = promises_of(row, self._consumers)
        if not promises:
            return Judgement((), None, "", "")
        holes = {control.state for control in self._terms.controls if control.about(row)}
        undeclared = {cause: many for cause, many in causes.items() if cause not in self._terms.declared}
        letters = row.dead_lettered - sum(causes.values()) + sum(undeclared.values())
        broken = [what for state, what in _broken(promises, row, letters, undeclared) if state not in holes]
        claimed = tuple(sorted(promises & self._claimed(row, promises)))
        chances = {promise: self._tested(promise, row) for promise in (claimed or sorted(promises))}
        exercised = _words({what: many for counts in chances.values() for what, many in counts.items()})
        if broken:
            return Judgement(tuple(sorted(promises)), "FAIL", exercised, "; ".join(broken))
        if not claimed:
            return Judgement((), None, "", "")
        untested = [promise for promise in claimed if not any(chances[promise].values())]
        why = self._proves_nothing(row, claimed, untested)
        return Judgement(claimed, "INCONCLUSIVE" if why else "PASS", exercised, why)

    def _proves_nothing(self, row: AuditRow, claimed: Sequence[Promise], untested: Sequence[Promise]) -> str:
        """Why promises that were not broken have shown nothing, or nothing."""
        if row.expected == 0:
            return "nothing was expected"
        if untested:
            return f"{' and '.join(untested)} had no chance to break"
        return "; ".join(why for promise in claimed if (why := self._too_easy(promise, row)))

    def _claimed(self, row: AuditRow, promises: frozenset[Promise]) -> frozenset[Promise]:
        """What this scenario puts to the test; what comes out broken by intent is not."""
        if self._terms.promises is None:
            return promises
        return self._terms.promises.get(ACCEPT if row.hop == "accept" else row.arm, frozenset())

    def _too_easy(self, promise: Promise, row: AuditRow) -> str:
        """Why the control of a promise proves nothing, or nothing."""
        control = _PAIRED.get((row.hop, promise))
        if control is None or self._terms.without_control:
            return ""
        state = _STATE_OF[promise]
        if any(getattr(other, state) for other in self._rows if (other.hop, other.arm) == (row.hop, control)):
            return ""
        return f"its control {control} has nothing {state}: the run was too easy"

    def _tested(self, promise: Promise, row: AuditRow) -> dict[str, int]:
        """What gave the promise the chance to break, and how often; nothing where nothing did."""
        chances = self._chances
        if row.hop == "accept":
            count, what = (
                (chances.unknown_answers, "answers that the client did not get")
                if promise == "no_loss"
                else (chances.replayed, "retries answered from the stored answer")
            )
            return {what: count}
        parts = _parts(row)
        found = {
            "kills in its gaps": sum(chances.kills.get(part, 0) for part in parts),
            "kills and freezes with records under way": sum(chances.struck.get(part, 0) for part in parts),
        }
        if promise == "no_loss":
            return {**found, **chances.trials.get("no_loss", {})}
        found["applied effects whose record was due again"] = chances.due_again.get(row.arm, 0)
        other = chances.trials.get("no_duplicate", {})
        if row.arm in self._consumers and self._consumers[row.arm].dedups:
            met = {"applied ids met again": chances.met_again.get(row.arm, 0), **other}
            return {**met, **found} if any(met.values()) else {}
        return {
            **found,
            **other,
        }  # it meets no id again that it would know of: what could be done twice is what was cut


def worst(verdicts: Iterable[Verdict | None]) -> Verdict:
    """The run's verdict; of no verdicts at all, INCONCLUSIVE."""
    given = [verdict for verdict in verdicts if verdict is not None]
    return max(given, key=_WORST_LAST.index, default="INCONCLUSIVE")


def _words(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{what}: {count}" for what, count in counts.items() if count)


def _broken(
    promises: frozenset[Promise], row: AuditRow, letters: int, causes: Collection[str]
) -> Iterator[tuple[str, str]]:
    """The states that break a promise, and what is said of them."""
    if row.unexplained:
        yield "unexplained", f"{row.unexplained} unexplained"
    if row.unexpected:
        yield "unexpected", f"{row.unexpected} unexpected"
    if "no_loss" in promises:
        if row.lost:
            yield "lost", f"{row.lost} lost"
        if row.waiting:
            yield "waiting", f"{row.waiting} still waiting after the drain"
        if letters:
            named = f" ({', '.join(sorted(causes))})" if causes else ""
            yield "dead_lettered", f"{letters} dead-lettered without a declared cause{named}"
    if "no_duplicate" in promises and row.duplicated:
        yield "duplicated", f"{row.duplicated} duplicated"


def _parts(row: AuditRow) -> tuple[str, ...]:
    """The parts in whose gaps the promise may break."""
    if row.hop == "process":
        return f"arm.{row.arm}", f"retry.{row.arm}"
    return ("relay" if row.arm == DEFAULT_PUBLISHER else row.arm,)
