"""The auditor against tampering: a table of mutations of the stores, each of which must be found and named.

The books are what the stores would hold after a run in which all went well. A mutation changes one thing in them; the
audit must come to that message, in that state, with words that say what was done. Each checker is then taken away in
turn, and a mutation must go unnoticed: no checker is there for nothing.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec
import pytest

from services.auditor import applications as reading
from services.auditor import facts, history, judge
from services.auditor.applications import Known, taken, wrong
from services.auditor.bulk import Bulk
from services.auditor.facts import owners
from services.auditor.history import (
    Answers,
    Copy,
    Holdings,
    Intents,
    Key,
    Letter,
    Letters,
    Outbox,
    ProcessLook,
    Published,
    PublishLook,
    copy_of,
)
from services.auditor.journal import Journal, Said
from services.auditor.judge import Judgement, judge_accept, judge_process, judge_publish, seem_lost, without_a_line
from services.auditor.sifting import accept_cases, process_cases, publish_cases
from services.auditor.stores import Application, Seen
from services.auditor.why import Case, why
from services.domain.arms import PUBLISHER_ARMS, ConsumerArm
from services.domain.audit import AuditRow
from services.domain.messages import ORDERS, Coordinates, digest, record_headers
from services.stack.nemesis import Fault

RUNS = {facts.facts(("mine",))}
NOW = datetime(2026, 1, 2, tzinfo=UTC)
RUN, OTHER_RUN = "mine", "another"
ARM = ConsumerArm("at_least_once", "", {effect: frozenset({"no_loss"}) for effect in ("record", "charge", "email")})
OTHER_ARM = ConsumerArm("at_most_once", "", ARM.promises)
LIVES = {arm.name: str(uuid5(UUID(int=1), arm.name)) for arm in (ARM, OTHER_ARM)}
VICTIM, BYSTANDER, GHOST = 3, 4, 77
PROMISED_AT, PASSED_AT, KILLED_AT, DONE_AT = 100.0, 101.0, 101.1, 100.5


def id_of(number: int) -> UUID:
    return UUID(int=number + (7 << 76))


def at(number: int) -> Coordinates:
    return Coordinates(ORDERS.topic, 0, number)


class Order(NamedTuple):
    number: int
    amount_cents: int = 1_000
    run: str = RUN

    @property
    def value(self) -> bytes:
        order = {"order_id": f"o{self.number}", "customer_id": "c", "currency": "EUR"}
        return msgspec.json.encode({**order, "amount_cents": self.amount_cents})


class Row(NamedTuple):
    """An effect's row."""

    number: int
    amount_cents: int = 1_000
    customer_id: str = "c"
    run: str = RUN
    life: str = ""

    def facts(self, effect: str) -> bytes:
        money = (self.amount_cents, "EUR", self.customer_id)
        kept = {
            "record": (*money, f"o{self.number}", ORDERS.type, self.run),
            "charge": money,
            "email": (self.customer_id,),
        }[effect]
        return facts.facts(kept)


class Books:
    """All stores of a run of six orders."""

    def __init__(self) -> None:
        numbers = range(6)
        self.lines: list[tuple[str, str]] = [("acknowledged", f"k{n}") for n in numbers]
        self.intents: list[tuple[Order, str]] = [(Order(n), f"k{n}") for n in numbers]
        self.outbox: set[int] = set()
        self.records: list[tuple[int, Order]] = [(n, Order(n)) for n in numbers]  # by offset
        self.committed = 6
        self.letters: set[int] = set()
        self.logged_letters: set[int] = set()
        self.effects: dict[tuple[str, str], list[Row]] = {
            (arm.name, effect): [Row(n, life=LIVES[arm.name]) for n in numbers]
            for arm in (ARM, OTHER_ARM)
            for effect in ARM.effects
        }

    def rows(self, effect: str, arm: ConsumerArm = ARM) -> list[Row]:
        return self.effects[arm.name, effect]

    def dead_letter(self, number: int) -> None:
        """Applied by nobody, parked instead."""
        for effect in ARM.effects:
            self.rows(effect).remove(Row(number, life=LIVES[ARM.name]))
        self.letters.add(number)
        self.logged_letters.add(number)

    def copies(self) -> Iterator[Copy]:
        """The records, as they lie on the topic."""
        for offset, order in self.records:
            extra = [("lab-effects", "record,charge,email"), ("lab-run", order.run)]
            headers = record_headers(message_id=id_of(order.number), kind=ORDERS, time=NOW, extra=extra)
            yield copy_of(at(offset), headers, order.value)

    def lives(self) -> dict[str, str]:
        """Whose process each life is of."""
        return owners((row.life, arm, 1) for (arm, _), rows in self.effects.items() for row in rows)

    def holdings(self) -> Holdings:
        """What the arm holds."""
        return Holdings(
            {(ORDERS.topic, 0): self.committed},
            Letters({at(n): Letter("parked", "refused") for n in self.letters}),
            vanished={at(n) for n in self.logged_letters - self.letters},
        )

    def judged(self) -> Iterator[tuple[ConsumerArm, str, list[Application]]]:
        """The effects that are looked at, and their rows."""
        for (name, effect), rows in self.effects.items():
            if name == ARM.name or effect == "charge":
                arm = ARM if name == ARM.name else OTHER_ARM
                found = (Application(id_of(r.number).bytes, True, at(r.number), r.life, r.facts(effect)) for r in rows)
                yield arm, effect, list(found)


class Finding(NamedTuple):
    """What the audit says of one message."""

    place: str
    state: str
    about: str  # the message's number, or the key
    words: str


def audit(books: Books) -> Iterator[Finding]:
    """The checkers over the books, in memory."""
    answers, intents = Answers(), Intents()
    for outcome, key in books.lines:
        answers.called(key)
        answers.answered(key, outcome)  # type: ignore[arg-type]
    for order, key in books.intents:
        intents.add(id_of(order.number).bytes, key, digest(ORDERS.type, order.value), order.run)
    row = AuditRow(hop="accept", arm="outbox", effect="intent")
    yield from found(judge_accept(row, answers, intents, without_a_line(answers, intents, RUNS)), {})
    published = Published(RUN, intents.promised)
    for copy in books.copies():
        published.take(copy)
    look = PublishLook(Outbox({id_of(n).bytes for n in books.outbox}), published)
    row = AuditRow(hop="publish", arm="outbox", effect="publication")
    ids = intents.promised.keys()
    yield from found(judge_publish(row, ORDERS.topic, ids, (look, look), truncated=False), {})
    known, holdings = Known(published, books.lives()), books.holdings()
    for arm, effect, rows in books.judged():
        applied = taken(arm, effect, known, rows)
        look_at = ProcessLook(holdings, applied)
        suspects = seem_lost(effect, arm, published, look_at)
        row = AuditRow(hop="process", arm=arm.name, effect=effect)
        copies = published.copies
        reasons = {key: judge.letter_vanished(holdings, copies[key]) for key in copies.keys()}  # noqa: SIM118  # no dict
        yield from found(judge_process(row, arm, published, (look_at, look_at), suspects), reasons)


def audit_on_disk(books: Books, folder: Path) -> Iterator[Finding]:
    """The same as `lab audit` does it: what is plain is put aside first."""
    with closing(Bulk(folder, RUN)) as bulk:
        for outcome, name in books.lines:
            bulk.take_call(ORDERS.topic, name)
            bulk.take_answer(ORDERS.topic, name, outcome)  # type: ignore[arg-type]
        for order, name in books.intents:
            one = Intents()
            one.add(id_of(order.number).bytes, name, digest(ORDERS.type, order.value), order.run)
            bulk.take_intents(ORDERS.topic, one)
        for copy in books.copies():
            bulk.take_record(copy)
        bulk.drop_records_of_others([ORDERS.topic])
        cases = accept_cases(bulk, PUBLISHER_ARMS["outbox"], ORDERS.topic, RUNS)
        outbox, lives, holdings = (
            Outbox({id_of(n).bytes for n in books.outbox}),
            books.lives(),
            books.holdings(),
        )
        second = PublishLook(outbox, Published())
        cases += publish_cases(bulk, "outbox", ORDERS.topic, [ORDERS.topic], outbox, second, truncated=False)
        bulk.set_committed(holdings.committed, {})

        async def again(messages: Set[Key]) -> tuple[Holdings, Sequence[Application]]:
            return holdings, bulk.applications(messages)

        for arm, effect, rows in books.judged():
            bulk.begin_effect()
            for one_row in rows:
                bulk.take_application(one_row)
            cases += asyncio.run(process_cases(bulk, arm, effect, [ORDERS.topic], holdings, lives, again))
    for case in cases:
        yield from found(case.judgement, {key: case.describe(key)["reason"] or "" for key in case.judgement.applied})


def found(judgement: Judgement[Any], reasons: Mapping[Key, str]) -> Iterator[Finding]:
    """Every listed message, with the line that evidence has for it."""
    judgement.settle()
    row = judgement.row
    assert row.unexplained == 0
    for state, keys in judgement.listed.items():
        for key in keys:
            about = key if isinstance(key, str) else str(UUID(bytes=key).int - (7 << 76))
            words = judgement.wrong.get(key) or reasons.get(key, "")
            yield Finding(row.name, state, about, told(row, state, about, words))


def told(row: AuditRow, state: str, about: str, words: str) -> str:
    if row.hop == "accept":
        return words
    number = int(about)
    seen = [Seen(DONE_AT, at(number), LIVES[ARM.name]), Seen(DONE_AT + 2, at(number), "")]
    case = Case(
        effect=row.effect, state=state, message_id=str(id_of(number)), parts=(f"arm.{row.arm}",), made=PROMISED_AT,
        copies=[at(number)], seen=seen if state == "duplicated" else [], reason=words,
    )  # fmt: skip
    return why(row.hop, case, JOURNAL)


JOURNAL = Journal(
    [Fault("f", "kill", "arm.at_least_once#0", KILLED_AT, "failpoint", 1, {}, KILLED_AT + 1)],
    [
        Said(90.0, "process.started", "arm.at_least_once#0", LIVES[ARM.name], {}),
        Said(PASSED_AT, "offset.committed", "arm.at_least_once#0", LIVES[ARM.name], {"positions": {"orders.v1/0": 6}}),
    ],
)


class Mutation(NamedTuple):
    name: str
    change: Callable[[Books], Any]
    finding: tuple[str, str, int | str, str]  # place, state, whose, and words of the line about it


def lost(books: Books) -> None:
    books.rows("record").pop(VICTIM)


def doubled(books: Books) -> None:
    books.rows("charge").append(books.rows("charge")[VICTIM])


def ghost(books: Books) -> None:
    books.rows("email").append(Row(GHOST, life=LIVES[ARM.name]))


def wrong_payload(books: Books) -> None:
    books.rows("record")[VICTIM] = books.rows("record")[VICTIM]._replace(customer_id="somebody else")


def wrong_recipient(books: Books) -> None:
    books.rows("email")[VICTIM] = books.rows("email")[VICTIM]._replace(customer_id="somebody else")


def wrong_amount(books: Books) -> None:
    books.rows("charge")[VICTIM] = books.rows("charge")[VICTIM]._replace(amount_cents=999)


def wrong_arm(books: Books) -> None:
    books.rows("charge", OTHER_ARM).append(books.rows("charge").pop(VICTIM))


def passed_unprocessed(books: Books) -> None:
    for effect in ARM.effects:
        books.rows(effect).pop(5)  # the last one before the committed offset


def letter_vanished(books: Books) -> None:
    books.dead_letter(VICTIM)
    books.letters.clear()


def outbox_row_vanished(books: Books) -> None:
    books.records.pop(VICTIM)
    books.outbox.add(VICTIM)
    books.outbox.clear()


def ledger_line_removed(books: Books) -> None:
    books.lines.pop(VICTIM)


def record_rewritten(books: Books) -> None:
    books.records[VICTIM] = (VICTIM, Order(VICTIM, amount_cents=1))
    for effect in ("record", "charge"):  # and applied as it says
        books.rows(effect)[VICTIM] = books.rows(effect)[VICTIM]._replace(amount_cents=1)


def record_of_another_run(books: Books) -> None:
    books.records[VICTIM] = (VICTIM, Order(VICTIM, run=OTHER_RUN))


def effect_of_another_run(books: Books) -> None:
    books.rows("record")[VICTIM] = books.rows("record")[VICTIM]._replace(run=OTHER_RUN)


def published_twice(books: Books) -> None:
    books.records.append((6, Order(VICTIM)))


def published_without_intent(books: Books) -> None:
    books.records.append((6, Order(GHOST)))


def intent_removed(books: Books) -> None:
    books.intents.pop(VICTIM)


def intent_doubled(books: Books) -> None:
    books.intents.append((Order(GHOST), f"k{VICTIM}"))


def refused_and_made(books: Books) -> None:
    books.lines[VICTIM] = ("refused", f"k{VICTIM}")


def waiting_beyond_the_offset(books: Books) -> None:
    books.committed = 5


P, ARM_P = "publish/outbox/publication", "process/at_least_once"
MUTATIONS = (
    Mutation("an effect lost", lost, (f"{ARM_P}/record", "lost", VICTIM, "no effect")),
    Mutation("an effect doubled", doubled, (f"{ARM_P}/charge", "duplicated", VICTIM, "again at")),
    Mutation("a ghost", ghost, (f"{ARM_P}/email", "unexpected", GHOST, "no record on the topics asks for it")),
    Mutation("a wrong payload", wrong_payload, (f"{ARM_P}/record", "unexpected", VICTIM, "asked: customer_id")),
    Mutation("an email to another", wrong_recipient, (f"{ARM_P}/email", "unexpected", VICTIM, "asked: customer_id")),
    Mutation("a wrong amount", wrong_amount, (f"{ARM_P}/charge", "unexpected", VICTIM, "asked: amount_cents")),
    Mutation("a wrong arm", wrong_arm, ("process/at_most_once/charge", "unexpected", VICTIM, "arm at_least_once")),
    Mutation(
        "an offset past an unprocessed record",
        passed_unprocessed,
        (f"{ARM_P}/email", "lost", 5, "offset 5 committed at 00:01:41.000, arm.at_least_once#0 killed at t+0.10 s"),
    ),
    Mutation("a dead letter vanished", letter_vanished, (f"{ARM_P}/record", "lost", VICTIM, "gone from the table")),
    Mutation("an outbox row vanished", outbox_row_vanished, (P, "lost", VICTIM, "its outbox row is gone")),
    Mutation("a ledger line removed", ledger_line_removed, ("accept/outbox/intent", "unexpected", "k3", "on no line")),
    Mutation("a record rewritten", record_rewritten, (P, "unexpected", VICTIM, "another payload than")),
    Mutation("a record of another run", record_of_another_run, (P, "unexpected", VICTIM, "another run than")),
    Mutation("another run's effect", effect_of_another_run, (f"{ARM_P}/record", "unexpected", VICTIM, "asked: run")),
    Mutation("a record doubled", published_twice, (P, "duplicated", VICTIM, "")),
    Mutation("a record that nobody promised", published_without_intent, (P, "unexpected", GHOST, "no intent has")),
    Mutation("an intent removed", intent_removed, ("accept/outbox/intent", "lost", "k3", "")),
    Mutation("an intent doubled", intent_doubled, ("accept/outbox/intent", "duplicated", "k3", "")),
    Mutation("a refusal that made one", refused_and_made, ("accept/outbox/intent", "unexpected", "k3", "")),
)  # fmt: skip


def is_found(mutation: Mutation) -> bool:
    """Whether the audit comes to the message and its line says what was done."""
    books = Books()
    mutation.change(books)
    place, state, about, words = mutation.finding
    return any(f[:3] == (place, state, str(about)) and words in f.words for f in audit(books))


def test_books_in_which_all_is_well_have_nothing_to_say(tmp_path: Path) -> None:
    assert list(audit(Books())) == []
    assert list(audit_on_disk(Books(), tmp_path)) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_is_found_and_named(mutation: Mutation, tmp_path: Path) -> None:
    books = Books()
    mutation.change(books)
    place, state, about, words = mutation.finding
    in_memory, on_disk = list(audit(books)), list(audit_on_disk(books, tmp_path))
    assert sorted(f[:3] for f in in_memory) == sorted(f[:3] for f in on_disk)
    for everything in (in_memory, on_disk):
        named = [f for f in everything if f[:3] == (place, state, str(about))]
        assert named, everything
        assert words in named[0].words


def test_a_message_that_waits_is_no_mutation() -> None:
    books = Books()
    passed_unprocessed(books)
    waiting_beyond_the_offset(books)
    assert list(audit(books)) == []


# Every checker: where it is looked up, and what stands in its place when there is none.
CHECKERS: Mapping[str, tuple[Any, str, Any]] = {
    "an acknowledged key without an intent": (judge, "acknowledged_and_absent", lambda *_: False),
    "a refused key with an intent": (judge, "refused_and_made", lambda *_: ()),
    "an intent on no line of the ledger": (judge, "run_of_promise", lambda _: b""),
    "copies and applications that are extra": (judge, "extra", lambda *_: 0),
    "an intent that is in no outbox and on no topic": (judge, "in_neither_place", lambda *_: False),
    "a record without an intent": (judge, "without_intent", lambda *_: ()),
    "a record that differs from its intent": (history, "against_promise", lambda *_: ""),
    "an offset committed above a record without an effect": (judge, "passed_and_gone", lambda *_: False),
    "an effect without a record": (judge, "unasked", lambda *_: ()),
    "an effect that differs from its record": (reading, "against_records", lambda *_: ""),
    "an effect by another arm's process": (reading, "made_by_another", lambda *_: ""),
    "a record on the dead-letter topic without a letter": (judge, "letter_vanished", lambda *_: ""),
}


@pytest.mark.parametrize("name", CHECKERS)
def test_without_any_one_checker_a_mutation_goes_unnoticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, attribute, nothing = CHECKERS[name]
    monkeypatch.setattr(module, attribute, nothing)
    unnoticed = []
    for mutation in MUTATIONS:
        try:
            seen = is_found(mutation)
        except AssertionError:  # without the checker the law does not close: that is noticed, and not named
            seen = False
        if not seen:
            unnoticed.append(mutation.name)
    assert unnoticed


@pytest.mark.parametrize("field", facts.FIELDS)
def test_every_field_that_a_store_keeps_is_compared(field: str) -> None:
    number = facts.FIELDS.index(field)
    asked = facts.of_record(Order(1).value, ORDERS.type, RUN)
    fields = [asked[4 * n : 4 * n + 4] for n in range(len(facts.FIELDS))]
    fields[number] = b"else"
    for effect, kept in facts.KEPT.items():
        differing = facts.against_records(effect, [asked], b"".join(fields[kept]))
        assert differing == (field if number in range(*kept.indices(6)) else "")


def test_a_record_that_cannot_be_read_asks_for_nothing_that_could_be_compared() -> None:
    asked = facts.of_record(b"\xff", ORDERS.type, RUN)
    assert facts.against_records("charge", [asked], facts.facts((1, "EUR", "c"))) == ""


def test_an_effect_as_any_of_its_messages_records_asked_is_right() -> None:
    records = [facts.of_record(Order(1, amount).value, ORDERS.type, RUN) for amount in (5, 6)]
    found = [facts.against_records("charge", records, facts.facts((amount, "EUR", "c"))) for amount in (5, 6, 7)]
    assert found == ["", "", "amount_cents"]


def test_a_life_belongs_to_the_arm_for_which_it_did_most() -> None:
    life, torn = str(UUID(int=1)), str(UUID(int=2))
    counted = [(life, "a", 5), (life, "b", 1), (torn, "a", 2), (torn, "b", 2), ("curl/8", "a", 9), ("curl/8", "b", 1)]
    assert owners(counted) == {life: "a"}


def test_wrong_says_nothing_of_a_message_that_no_record_asked_for() -> None:
    ghost_row = Row(GHOST)
    one = Application(id_of(GHOST).bytes, True, at(0), "l", ghost_row.facts("charge"))
    assert wrong("a", "charge", Known(Published(), {}), one) == ""


def test_a_commit_that_nobody_lived_to_write_down_is_told_by_where_the_next_life_began() -> None:
    process, where = "arm.at_most_once#0", {"topic": ORDERS.topic, "partition": 0}
    journal = Journal(
        [Fault("f", "kill", process, 10.0, "failpoint", 1, {"failpoint": "process.after_read"}, 11.0)],
        [
            Said(1.0, "process.started", process, "first", {}),
            Said(12.0, "process.started", process, "second", {}),
            Said(13.0, "offset.received", process, "second", {**where, "first_offset": 55}),
            Said(14.0, "offset.committed", process, "second", {"positions": {"orders.v1/0": 60}}),
        ],
    )
    case = Case(
        effect="record", state="lost", message_id=None, parts=("arm.at_most_once",), made=9.0, copies=[at(22)]
    )  # fmt: skip
    line = why("process", case, journal)
    assert "stood at 55, above offset 22" in line
    assert "killed at process.after_read at 00:00:10.000" in line
