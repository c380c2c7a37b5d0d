"""What a run has shown, in plain words. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from loadtest.kept import Played, Row
from services.domain.arms import DEFAULT_PUBLISHER

Kind = Literal["expected", "broken", "kept"]
_WORDS: Final = {"lost": "LOST", "duplicated": "DOUBLED", "unexpected": "MADE UP"}
_PROMISE: Final = {"lost": "no_loss", "duplicated": "no_duplicate"}
_HELD: Final = {"no_loss": "lost nothing", "no_duplicate": "did nothing twice"}
_THINGS: Final = {
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
    """One sentence, the arm, and whether it is about expected damage, a broken promise or one that was kept."""

    kind: Kind
    arm: str
    text: str


def lessons(played: Played) -> list[Lesson]:
    """Broken promises first, then the damage that was expected, then what held."""
    places = dict.fromkeys((row.hop, row.arm) for row in played.rows)
    found = [lesson for place in places for lesson in _of_rows([r for r in played.rows if (r.hop, r.arm) == place])]
    order = ("broken", "expected", "kept")
    return sorted(found, key=lambda lesson: order.index(lesson.kind))


def _of_rows(rows: Sequence[Row]) -> Iterator[Lesson]:
    """What is to be said of one arm on one hop."""
    for state in _WORDS:
        shown = [row for row in rows if getattr(row, state)]
        if shown:
            worst = max(shown, key=lambda row: (_breaks(row, state), getattr(row, state), row.effect == "charge"))
            yield _damage(worst, state)
    stuck = [row for row in rows if row.verdict == "FAIL" and row.waiting]
    if stuck:
        yield Lesson(
            "broken", stuck[0].arm, f"{stuck[0].arm} is STUCK: {stuck[0].waiting:,} {_things(stuck[0])} still wait"
        )
    passed = [row for row in rows if row.verdict == "PASS"]
    if passed and all(row.verdict in ("PASS", None) for row in rows):
        yield _kept(passed)


def _breaks(row: Row, state: str) -> bool:
    return row.verdict == "FAIL" and _PROMISE.get(state, "no_loss") in row.promise


def _damage(row: Row, state: str) -> Lesson:
    count: int = getattr(row, state)
    things = _things(row)
    said = f"{row.arm} {_WORDS[state]} {count:,} {things if count > 1 else things.removesuffix('s')}"
    if _breaks(row, state):
        return Lesson("broken", row.arm, f"{said}: that breaks what it promises")
    because = _BECAUSE.get((row.arm, state))
    return Lesson("expected", row.arm, f"{said}, as expected" + (f": {because}" if because else ""))


def _things(row: Row) -> str:
    return _THINGS.get(row.effect, row.effect)


def _kept(rows: Sequence[Row]) -> Lesson:
    row = max(rows, key=lambda row: len(row.exercised))
    if row.hop == "accept":
        return Lesson("kept", row.arm, f"{row.arm}: every acknowledged request is one order ({row.exercised})")
    promises = {promise for row in rows for promise in row.promise}
    words = [_HELD[promise] for promise in _HELD if promise in promises]
    return Lesson("kept", row.arm, f"{row.arm} {' and '.join(words)}, as promised ({row.exercised})")
