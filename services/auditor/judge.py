"""The pure checkers: histories in, rows and what was found out. No I/O.

Every term of the law has its own query. `lost` asks for its own evidence, so that a message which no query knows
stays unexplained instead of being called lost.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Set
from itertools import chain
from typing import Final, Generic, TypeVar

import msgspec

from services.auditor.history import Answers, Applications, Holdings, Intents, Key, Published, PublishLook
from services.domain.arms import ConsumerArm
from services.domain.audit import LISTED, NOT_APPLIED, AuditRow, State

LISTED_AT_MOST: Final = 200  # messages of one row and state

K = TypeVar("K", bound=Hashable)


class Judgement(msgspec.Struct, Generic[K]):
    """A row, and the messages behind it: the first of each state, but every unexpected one (looked at again later)."""

    row: AuditRow
    listed: dict[State, list[K]]
    unexpected: set[K]
    applied: dict[K, int]  # of the listed and the unexpected

    def excuse(self, known: Iterable[K]) -> None:
        """Take back what was unexpected only because it was newer than the first look."""
        self.unexpected.difference_update(known)

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
    allowed: Callable[[K], int] = lambda _: 1,
) -> Judgement[K]:
    """Put each expected message into exactly one state: the applied count decides first, then the order of the law."""
    queries = [(state, not_applied[state]) for state in NOT_APPLIED if state in not_applied]
    holding = [(state, query) for state, query in queries if state in ("waiting", "dead_lettered")]
    counts: Counter[State] = Counter()
    listed: dict[State, list[K]] = {state: [] for state in LISTED}
    for key in expected:
        if count := applications(key):
            state = _applied(row, count, allowed(key))
            row.also_held += _first(holding, key) is not None
        else:
            state = _first(queries, key) or "unexplained"
        counts[state] += 1
        if state in listed and len(listed[state]) < LISTED_AT_MOST:
            listed[state].append(key)
    row.expected = len(expected)
    for state in ("applied_once", "duplicated", *NOT_APPLIED):
        setattr(row, state, counts[state])
    row.unexplained = row.expected - row.accounted()
    ghosts = set(unexpected)
    applied = {key: applications(key) for key in chain(ghosts, *listed.values())}
    return Judgement(row, listed, ghosts, applied)


def _first(queries: Iterable[tuple[State, Callable[[K], bool]]], key: K) -> State | None:
    for state, query in queries:
        if query(key):
            return state
    return None


def _applied(row: AuditRow, count: int, allowed: int) -> State:
    """Applications up to the allowed ones are one and what it inherits; those above are extra."""
    row.inherited += min(count, allowed) - 1
    if count <= allowed:
        return "applied_once"
    row.extra_applications += count - allowed
    return "duplicated"


def judge_accept(row: AuditRow, answers: Answers, intents: Intents) -> Judgement[str]:
    """The hop accept of one kind: what the clients were told, against the intents."""
    made, outcome, keys = intents.by_key, answers.outcome, answers.keys()
    return judge(
        row,
        {key for key in keys if outcome(key) != "refused"},
        lambda key: len(made[key]),
        {
            "uncertain": lambda key: outcome(key) == "unknown",
            "lost": lambda key: outcome(key) == "acknowledged" and not made[key],
        },
        unexpected=(key for key in keys & made.keys() if outcome(key) == "refused"),
    )


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
            "lost": lambda key: not truncated and key in missing,
        },
        unexpected=(key for key in first.published.copies.keys() - ids if first.published.count(key, topic)),
    )


def judge_process(
    row: AuditRow, arm: ConsumerArm, published: Published, holdings: Holdings, applied: Applications
) -> Judgement[Key]:
    """The hop process of one arm and effect: what the topics ask for, against what the outside world has."""
    expected, copies = published.wanting(row.effect), published.copies
    emails = holdings.emails if row.effect == "email" else {}

    def lettered(key: Key) -> bool:
        return holdings.letter(key, copies[key]) is not None

    return judge(
        row,
        expected,
        lambda key: applied.get(key, 0),
        {
            "waiting": lambda key: holdings.ahead(copies[key]) or emails.get(key) == "pending",
            "dead_lettered": lettered,
            "uncertain": lambda key: key in emails,
            "lost": lambda key: holdings.passed(copies[key]) and key not in emails and not lettered(key),
        },
        unexpected=applied.keys() - expected,
        allowed=(lambda key: len(copies[key])) if arm.per_record else (lambda _: 1),
    )
