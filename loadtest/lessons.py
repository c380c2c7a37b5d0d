"""What a run has shown, in plain words. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from loadtest.kept import Played, Row
from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS

Kind = Literal["expected", "broken", "kept"]
_WANTED: Final = ("lost", "duplicated", "unexpected")
_WORDS: Final = {"lost": "LOST", "duplicated": "DOUBLED", "unexpected": "MADE UP"}
_THING: Final = {
    "record": "payments", "charge": "charges", "email": "emails", "output": "outputs", "publication": "orders",
    "intent": "orders",
}  # fmt: skip
# Why an arm comes to its damage.
_BECAUSE: Final = {
    ("at_most_once", "lost"): "it commits first",
    ("stock_faust", "lost"): "it commits what nobody has acknowledged",
    ("stock_faust", "duplicated"): "it commits on a timer, after the effects",
    ("at_least_once", "duplicated"): "it applies first, and does not remember",
    ("kafka_transactions", "duplicated"): "the transaction covers its topics, not the database and not the provider",
    ("kafka_transactions", "lost"): "the transaction covers its topics, not the database and not the provider",
    ("dual_write_after_commit", "lost"): "it died between the commit and the publish",
    ("dual_write_before_commit", "unexpected"): "it published what was never committed",
    ("id_cursor", "lost"): "its cursor had passed what committed late",
    (DEFAULT_PUBLISHER, "duplicated"): "the relay died before it could remove what it had published",
    ("cdc", "duplicated"): "the slot starts again at its last saved position",
}


class Lesson(msgspec.Struct, frozen=True):
    """One sentence, and whether it is about expected damage, a broken promise or one that was kept."""

    kind: Kind
    text: str


def lessons(played: Played) -> list[Lesson]:
    """Broken promises first, then the damage that was expected, then what held."""
    found = [lesson for arm in _arms(played.rows) for lesson in _of_arm(arm, played.rows)]
    order = ("broken", "expected", "kept")
    return sorted(found, key=lambda lesson: order.index(lesson.kind))


def _arms(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.arm for row in rows))


def _of_arm(arm: str, rows: Iterable[Row]) -> Iterator[Lesson]:
    own = [row for row in rows if row.arm == arm]
    for state in _WANTED:
        for row in _worst_first(own, state):
            yield _damage(row, state)
            break
    if own and all(row.verdict in ("PASS", None) for row in own) and any(row.verdict == "PASS" for row in own):
        yield from _kept(arm, own)


def _worst_first(rows: Iterable[Row], state: str) -> list[Row]:
    """The rows that show a state; where the money is, first."""
    shown = [row for row in rows if getattr(row, state)]
    return sorted(shown, key=lambda row: (row.verdict != "FAIL", -getattr(row, state), row.effect != "charge"))


def _damage(row: Row, state: str) -> Lesson:
    count, what = getattr(row, state), _THING.get(row.effect, row.effect)
    said = f"{row.arm} {_WORDS[state]} {count:,} {what if count > 1 else what.removesuffix('s')}"
    if row.verdict == "FAIL":
        return Lesson("broken", f"{said}: {row.why}. This breaks what it promises.")
    because = _BECAUSE.get((row.arm, state))
    return Lesson("expected", f"{said}, as expected" + (f": {because}" if because else ""))


def _kept(arm: str, rows: Iterable[Row]) -> Iterator[Lesson]:
    passed = [row for row in rows if row.verdict == "PASS"]
    promises = {promise for row in passed for promise in row.promise}
    words = [word for promise, word in (("no_loss", "lost nothing"), ("no_duplicate", "did nothing twice"))
             if promise in promises]  # fmt: skip
    hard = max((row.exercised for row in passed), key=len)
    if arm in CONSUMER_ARMS or arm in PUBLISHER_ARMS:
        yield Lesson("kept", f"{arm} {' and '.join(words)}, as promised ({hard})")
