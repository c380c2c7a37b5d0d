"""The pure checkers: histories in, rows and what was found out. No I/O.

Every term of the law has its own query. `lost` asks for its own evidence, so that a message which no query knows
stays unexplained instead of being called lost.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence, Set
from itertools import chain
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import msgspec

from services.auditor.facts import run_of_promise
from services.auditor.history import (
    Answers,
    Applied,
    Holdings,
    Intents,
    Key,
    LetterState,
    Outcome,
    ProcessLook,
    Published,
    PublishLook,
)
from services.domain.arms import ConsumerArm
from services.domain.audit import LISTED, NOT_APPLIED, AuditRow, State
from services.domain.messages import Coordinates

LISTED_AT_MOST: Final = 200  # messages of one row and state

K = TypeVar("K", bound=Hashable)


class Judgement(msgspec.Struct, Generic[K]):
    """A row, and the messages behind it: the first of each state, but every unexpected one (looked at again later)."""

    row: AuditRow
    listed: dict[State, list[K]]
    unexpected: set[K]
    applied: dict[K, int]  # of the listed and the unexpected
    causes: Counter[str]  # of those that are dead-lettered
    wrong: dict[K, str] = {}  # unexpected though the message is known: something is not as it was asked for

    def excuse(self, known: Iterable[K]) -> None:
        """Take back what was unexpected only because it was newer than the first look."""
        self.unexpected.difference_update(key for key in known if key not in self.wrong)

    def forgive(self, known: Collection[K]) -> None:
        """Take back what was wrong only because it was newer than the first look."""
        newer = [key for key in self.wrong if key in known]
        for key in newer:
            del self.wrong[key]
        self.unexpected.difference_update(newer)

    def settle(self) -> None:
        """Count and list what is still unexpected."""
        self.row.unexpected = len(self.unexpected)
        self.listed["unexpected"] = sorted(self.unexpected, key=repr)[:LISTED_AT_MOST]


def judge(
    row: AuditRow,
    expected: Collection[K],
    applications: Callable[[K], int],
    not_applied: Mapping[State, Callable[[K], bool]],
    *,
    unexpected: Iterable[K] = (),
    wrong: Mapping[K, str] = MappingProxyType({}),
    allowed: Callable[[K], int] = lambda _: 1,
    short: Callable[[K], bool] = lambda _: False,
    cause: Callable[[K], str] = lambda _: "",
) -> Judgement[K]:
    """Put each expected message into exactly one state: the applied count decides first, then the order of the law.

    `allowed`: how many applications count as one. `short`: applied, but a record of it that was owed an application of
    its own is lost; then the message is. `cause`: why a message is dead-lettered.
    """
    queries = [(state, not_applied[state]) for state in NOT_APPLIED if state in not_applied]
    holding = [(state, query) for state, query in queries if state in ("waiting", "dead_lettered")]
    counts: Counter[State] = Counter()
    causes: Counter[str] = Counter()
    listed: dict[State, list[K]] = {state: [] for state in LISTED}
    for key in expected:
        if count := applications(key):
            state = _applied(row, count, allowed(key))
            row.also_held += _first(holding, key) is not None
            if short(key):
                state = "lost"
        else:
            state = _first(queries, key) or "unexplained"
            if state == "dead_lettered":
                causes[cause(key)] += 1
        counts[state] += 1
        if state in listed and len(listed[state]) < LISTED_AT_MOST:
            listed[state].append(key)
    row.expected = len(expected)
    for state in ("applied_once", "duplicated", *NOT_APPLIED):
        setattr(row, state, counts[state])
    row.unexplained = row.expected - row.accounted()
    ghosts = {*unexpected, *wrong}
    applied = {key: applications(key) for key in chain(ghosts, *listed.values())}
    return Judgement(row, listed, ghosts, applied, causes, dict(wrong))


def _first(queries: Iterable[tuple[State, Callable[[K], bool]]], key: K) -> State | None:
    for state, query in queries:
        if query(key):
            return state
    return None


def _applied(row: AuditRow, count: int, allowed: int) -> State:
    """Applications up to the allowed ones are one and what it inherits; those above are extra."""
    row.inherited += min(count, allowed) - 1
    above = extra(count, allowed)
    row.extra_applications += above
    return "duplicated" if above else "applied_once"


def extra(count: int, allowed: int) -> int:
    """How many applications are more than there may be."""
    return max(0, count - allowed)


def judge_accept(
    row: AuditRow, answers: Answers, intents: Intents, uncalled: Mapping[str, str] = MappingProxyType({})
) -> Judgement[str]:  # fmt: skip
    """The hop accept of one kind: what the clients were told, against the intents; `uncalled`: nobody called for."""
    made, outcome, keys = intents.by_key, answers.outcome, answers.keys()
    return judge(
        row,
        {key for key in keys if outcome(key) != "refused"},
        lambda key: len(made[key]),
        {
            "uncertain": lambda key: outcome(key) == "unknown",
            "lost": lambda key: acknowledged_and_absent(outcome(key), made[key]),
        },
        unexpected=refused_and_made(answers, intents),
        wrong=uncalled,
    )


def acknowledged_and_absent(outcome: Outcome, made: Sequence[bytes]) -> bool:
    """The client was told that there is an intent, and there is none."""
    return outcome == "acknowledged" and not made


def refused_and_made(answers: Answers, intents: Intents) -> Iterable[str]:
    """The keys of which the client was told that nothing was done, and that have an intent."""
    return (key for key in answers.keys() & intents.by_key.keys() if answers.outcome(key) == "refused")


def without_a_line(answers: Answers, intents: Intents, runs: Set[bytes]) -> dict[str, str]:
    """The keys of intents of a run that the client ledger knows, which are on no line of it. `runs`: their facts."""
    made, promised = intents.by_key, intents.promised
    unknown = made.keys() - answers.keys() if runs else ()
    ours = (key for key in unknown if run_of_promise(promised[made[key][0]]) in runs)
    return dict.fromkeys(ours, "on no line of the client ledger")


def judge_publish(
    row: AuditRow, topic: str, ids: Set[Key], looks: tuple[PublishLook, PublishLook], *, truncated: bool
) -> Judgement[Key]:
    """The hop publish of one kind. What the first look saw in neither place is judged by the second, which reads the
    outbox again and the topics from where the first look ended.

    When the broker has dropped the topic's first records, an absent message may have been among them: uncertain.
    """
    first, second = looks
    absent = first.absent(topic, ids)
    missing = second.absent(topic, absent)

    def look(key: Key) -> PublishLook:
        return second if key in absent else first

    return judge(
        row,
        ids,
        lambda key: look(key).published.count(key, topic),
        {
            "waiting": lambda key: key in look(key).outbox.pending,
            "dead_lettered": lambda key: key in look(key).outbox.set_aside,
            "uncertain": lambda key: truncated and key in missing,
            "lost": lambda key: not truncated and in_neither_place(key, missing),
        },
        cause=lambda key: look(key).outbox.set_aside[key],
        unexpected=without_intent(first.published, topic, ids),
        wrong={key: why for (of, key), why in first.published.wrong.items() if of == topic},
    )


def in_neither_place(key: Key, missing: Set[Key]) -> bool:
    """Neither look saw it in the outbox or on the topic."""
    return key in missing


def without_intent(published: Published, topic: str, ids: Set[Key]) -> Iterable[Key]:
    """The messages on the topic of which there is no intent."""
    return (key for key in published.copies.keys() - ids if published.count(key, topic))


def judge_process(
    row: AuditRow, arm: ConsumerArm, published: Published, looks: tuple[ProcessLook, ProcessLook], suspects: Set[Key]
) -> Judgement[Key]:
    """The hop process of one arm and effect: what the topics ask for, against what the outside world has. What seemed
    lost at the first look is judged by the second.

    An arm that promises per record may apply a message once for each of its records, and none twice; where it promises
    no loss besides, it must.
    """
    expected, copies, (first, second) = published.wanting(row.effect), published.copies, looks
    several = copies.repeated() if arm.per_record else ()

    def look(key: Key) -> ProcessLook:
        return second if key in suspects else first

    def email(key: Key) -> str | None:
        return look(key).holdings.emails.get(key) if row.effect == "email" else None

    def letter(key: Key, state: LetterState = "parked") -> str | None:
        return look(key).holdings.letter(key, copies[key], state)

    def lettered(key: Key) -> bool:
        return letter(key) is not None or (email(key) == "refused" and letter(key, "discarded") is None)

    return judge(
        row,
        expected,
        lambda key: look(key).applied.of.get(key, 0),
        {
            "waiting": lambda key: look(key).holdings.ahead(copies[key]) or email(key) == "pending",
            "dead_lettered": lettered,
            "discarded": lambda key: letter(key, "discarded") is not None,
            "uncertain": lambda key: email(key) is not None,
            "lost": lambda key: email(key) is None and passed_and_gone(look(key).holdings, key, copies[key]),
        },
        unexpected=unasked(first.applied, expected),
        wrong=first.applied.wrong,
        allowed=lambda key: max(1, look(key).applied.records(copies[key])) if key in several else 1,
        short=lambda key: key in suspects and key in several and bool(_records_lost(second, copies[key])),
        cause=lambda key: letter(key) or email(key) or "",
    )


def passed_and_gone(holdings: Holdings, key: Key, copies: Sequence[Coordinates]) -> bool:
    """Every copy lies below the committed offset, and nothing holds it any more."""
    return holdings.gone(key, copies)


def unasked(applied: Applied, expected: Set[Key]) -> Iterable[Key]:
    """The messages that were applied and that no record asked for."""
    return applied.of.keys() - expected


def letter_vanished(holdings: Holdings, copies: Iterable[Coordinates]) -> str:
    """Says which dead letter is on its topic, which is the log, and no longer in the table, which is the state."""
    gone = next((at for at in copies if at in holdings.vanished), None)
    return f"its dead letter for {gone} lies on the dead-letter topic and is gone from the table" if gone else ""


def seem_lost(effect: str, arm: ConsumerArm, published: Published, look: ProcessLook) -> set[Key]:
    """The messages that one look saw nowhere; and those with a record that was owed an application and has none."""
    copies, holdings, applied = published.copies, look.holdings, look.applied
    emails = holdings.emails if effect == "email" else {}
    absent = published.wanting(effect) - applied.of.keys()
    found = {key for key in absent if key not in emails and holdings.gone(key, copies[key])}
    if arm.per_record and "no_loss" in arm.promises.get(effect, ()):
        found.update(key for key in copies.repeated() if _records_lost(look, copies[key]))
    return found


def _records_lost(look: ProcessLook, records: Iterable[Coordinates]) -> list[Coordinates]:
    return [at for at in records if at not in look.applied.at and look.holdings.gone(at, (at,))]
