"""Histories from a little model that knows what became of each message: the audit must find exactly that."""

from collections import Counter
from collections.abc import Collection
from typing import Literal
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.auditor.history import (
    Answers,
    Applied,
    Holdings,
    Intents,
    Key,
    Letter,
    Letters,
    LetterState,
    Outbox,
    ProcessLook,
    Published,
    PublishLook,
)
from services.auditor.judge import Judgement, judge_accept, judge_process, judge_publish, seem_lost
from services.domain.arms import ConsumerArm
from services.domain.audit import COUNTS, AuditRow
from services.domain.messages import Coordinates

TOPIC = "orders.v1"
PARTITIONS = 3


class Told(msgspec.Struct, frozen=True):
    """A history, and the truth about it by message."""

    published: Published
    holdings: Holdings
    applied: Applied
    truth: dict[Key, str]  # state
    held: set[Key]  # messages with a copy that waits somewhere

    @property
    def look(self) -> ProcessLook:
        return ProcessLook(self.holdings, self.applied)


class Fate(msgspec.Struct):
    """What became of one record: where it is now, by what it went through since the arm has passed it."""

    applied: int = 0
    waits: bool = False
    letter: LetterState | Literal[""] = ""


STEPS = ("retry", "apply", "bury", "redrive", "replay", "consume", "discard")


def key(number: int) -> bytes:
    return UUID(int=number).bytes


def carry_out(steps: list[str]) -> Fate:
    """The life of one record, a step at a time; a step that its place does not allow changes nothing."""
    fate = Fate()
    for step in steps:
        in_hand = not fate.waits and fate.letter in ("", "redriven")
        if step == "retry" and in_hand:
            fate.waits = True
        elif step == "consume":  # from a tier or a redelivery, by an arm that does nothing with it
            fate.waits = False
        elif step == "apply" and (in_hand or fate.waits):
            fate.applied, fate.waits = fate.applied + 1, False
        elif step == "bury" and (in_hand or fate.waits):
            fate.letter, fate.waits = "parked", False
        elif step == "redrive" and fate.letter == "parked":
            fate.letter, fate.waits = "redriven", True
        elif step == "replay":  # a copy beside whatever there is
            fate.waits = True
        elif step == "discard" and fate.letter == "parked":
            fate.letter = "discarded"
    return fate


@st.composite
def processes(draw: st.DrawFn, effect: str = "email") -> Told:
    """Logs first, then how far the group is, then for each record a life, and for each message an email row."""
    logs = draw(st.lists(st.lists(st.integers(1, 8), max_size=6), min_size=PARTITIONS, max_size=PARTITIONS))
    published, ahead = Published(), set[Coordinates]()
    committed: dict[tuple[str, int], int] = {}
    fates: dict[int, dict[Coordinates, Fate]] = {}
    for partition, log in enumerate(logs):
        passed = draw(st.integers(0, len(log)))
        if passed or draw(st.booleans()):
            committed[TOPIC, partition] = passed
        for offset, number in enumerate(log):
            at = Coordinates(TOPIC, partition, offset)
            published.add(at, [("ce_id", str(UUID(int=number)).encode()), ("lab-effects", b"record,email")])
            fates.setdefault(number, {})[at] = carry_out(draw(st.lists(st.sampled_from(STEPS), max_size=6)))
            if offset >= passed:
                ahead.add(at)
    rows = st.sampled_from(["none", "pending", "claimed", "uncertain"]) if effect == "email" else st.just("none")
    emails = {key(number): row for number in fates if (row := draw(rows)) != "none"}
    lives = {at: fate for records in fates.values() for at, fate in records.items()}
    letters = {at: Letter(fate.letter, "refused") for at, fate in lives.items() if fate.letter}
    waiting = {at for at, fate in lives.items() if fate.waits}
    at = {at: fate.applied for at, fate in lives.items() if fate.applied}
    of = Counter({key(n): total for n, records in fates.items() if (total := sum(at.get(a, 0) for a in records))})
    held = {key(number) for number, records in fates.items() if not (ahead | waiting).isdisjoint(records)}
    truth = {
        key(number): truth_of(of[key(number)], key(number) in held, records.values(), emails.get(key(number)))
        for number, records in fates.items()
    }
    return Told(published, Holdings(committed, Letters(letters), emails, waiting), Applied(of, at), truth, held)


def truth_of(applied: int, held: bool, records: Collection[Fate], email: str | None) -> str:
    """The state of a message, from what became of its records."""
    letters = {fate.letter for fate in records}
    if applied:
        return "applied_once" if applied == 1 else "duplicated"
    if held or email == "pending":
        return "waiting"
    if "parked" in letters:
        return "dead_lettered"
    if "discarded" in letters:
        return "discarded"
    return "uncertain" if email else "lost"


def judged(told: Told, effect: str, *, per_record: bool = False, lost_0: bool = False) -> Judgement[Key]:
    promises = {effect: frozenset({"no_loss"})} if lost_0 else {}
    arm = ConsumerArm("tried", "", promises, per_record=per_record)  # type: ignore[arg-type]
    row = AuditRow(hop="process", arm=arm.name, effect=effect)
    suspects = seem_lost(effect, arm, told.published, told.look)
    judgement = judge_process(row, arm, told.published, (told.look, told.look), suspects)
    judgement.settle()
    return judgement


def closes(row: AuditRow) -> bool:
    """The law, written down a second time."""
    parts = (row.applied_once, row.duplicated, row.waiting, row.dead_lettered, row.discarded, row.uncertain, row.lost)
    return row.unexplained == 0 and row.expected == sum(parts)


@given(processes())
def test_the_row_is_the_truth_of_the_model(told: Told) -> None:
    row = judged(told, "email").row
    truth = Counter(told.truth.values())
    assert closes(row)
    for state in ("applied_once", "duplicated", "waiting", "dead_lettered", "discarded", "uncertain", "lost"):
        assert getattr(row, state) == truth[state]
    assert row.extra_applications == sum(count - 1 for count in told.applied.of.values())


@given(processes("record"))
def test_a_message_with_a_copy_that_waits_somewhere_is_never_lost(told: Told) -> None:
    assert told.held.isdisjoint(judged(told, "record").listed["lost"])


@given(processes("record"))
def test_exactly_what_is_lost_is_looked_for_again(told: Told) -> None:
    arm = ConsumerArm("tried", "", {})
    lost = {message for message, state in told.truth.items() if state == "lost"}
    assert seem_lost("record", arm, told.published, told.look) == lost


@given(processes("record"))
def test_what_the_second_look_finds_waiting_is_not_lost(told: Told) -> None:
    every = {at for message in told.truth for at in told.published.copies[message]}
    later = ProcessLook(msgspec.structs.replace(told.holdings, sent_on=every), Applied({}))
    arm, row = ConsumerArm("tried", "", {}), AuditRow(hop="process", arm="tried", effect="record")
    suspects = seem_lost("record", arm, told.published, told.look)
    judge_process(row, arm, told.published, (told.look, later), suspects)
    truth = Counter(told.truth.values())
    assert (row.lost, row.waiting) == (0, truth["waiting"] + truth["lost"])


@given(processes(), st.sets(st.integers(20, 30)))
def test_a_ghost_is_counted_beside_and_changes_nothing_else(told: Told, ghosts: set[int]) -> None:
    before = judged(told, "email").row
    told.applied.of.update((key(ghost), 1) for ghost in ghosts)
    after = judged(told, "email").row
    assert after.unexpected == len(ghosts)
    assert msgspec.structs.replace(after, unexpected=0) == before


@given(processes("record"))
def test_applications_of_an_arm_that_promises_per_record_are_all_accounted_for(told: Told) -> None:
    row = judged(told, "record", per_record=True).row
    assert closes(row)
    total = sum(told.applied.of.values())
    assert row.applied_once + row.duplicated + row.extra_applications + row.inherited == total
    assert row.extra_applications == sum(count - 1 for count in told.applied.at.values())


@given(processes("record"))
def test_a_record_that_is_lost_is_never_hidden_by_another_of_its_id_where_each_is_owed(told: Told) -> None:
    row = judged(told, "record", per_record=True, lost_0=True).row
    nowhere = [
        message
        for message in told.truth
        for at in told.published.copies[message]
        if at not in told.applied.at and told.holdings.gone(at, (at,))
    ]
    waits = [m for m in nowhere if m not in told.applied.of and told.truth[m] != "lost"]
    assert closes(row)
    assert row.lost == len(set(nowhere) - set(waits))


@given(processes(), st.randoms(use_true_random=False))
def test_the_order_in_which_records_were_read_does_not_matter(told: Told, random: object) -> None:
    messages = list(told.published.copies.keys())
    random.shuffle(messages)  # type: ignore[attr-defined]
    other = Published()
    for message in messages:
        for at in told.published.copies[message]:
            header = str(UUID(bytes=message)).encode()  # type: ignore[arg-type]
            other.add(at, [("ce_id", header), ("lab-effects", b"record,email")])
    assert judged(msgspec.structs.replace(told, published=other), "email").row == judged(told, "email").row


@given(
    st.dictionaries(
        st.integers(1, 12), st.sampled_from(["pending", "aside", "late", "moved", "gone"]) | st.integers(1, 3)
    )
)
def test_a_publication_is_where_the_model_put_it(fates: dict[int, str | int]) -> None:
    first, second = Published(), Published()
    for offset, (number, fate) in enumerate(fates.items()):
        for copy in range(fate if isinstance(fate, int) else fate == "late"):
            topic = second if fate == "late" else first
            topic.add(Coordinates(TOPIC, copy, offset), [("ce_id", str(UUID(int=number)).encode())])
    pending = {key(number) for number, fate in fates.items() if fate == "pending"}
    moved = {key(number) for number, fate in fates.items() if fate == "moved"}
    aside = {key(number): "too large" for number, fate in fates.items() if fate == "aside"}
    row = AuditRow(hop="publish", arm="outbox", effect="publication")
    looks = (PublishLook(Outbox(pending, aside), first), PublishLook(Outbox(moved, aside), second))
    judge_publish(row, TOPIC, {key(number) for number in fates}, looks, truncated=False)
    many = Counter(fates.values())
    assert closes(row)
    assert (row.lost, row.dead_lettered, row.waiting) == (many["gone"], many["aside"], many["pending"] + many["moved"])
    assert (row.applied_once, row.duplicated) == (many[1] + many["late"], many[2] + many[3])
    assert row.extra_applications == many[2] + 2 * many[3]


Outcomes = st.lists(st.sampled_from(["acknowledged", "refused", "unknown", None]), min_size=1, max_size=4)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(Outcomes, st.integers(0, 3)), max_size=12))
def test_every_key_of_the_ledger_is_accounted_for(calls: dict[str, tuple[list[str | None], int]]) -> None:
    answers, intents, numbers = Answers(), Intents(), iter(range(100))
    for name, (outcomes, made) in calls.items():
        for outcome in outcomes:
            answers.called(name)
            if outcome is not None:
                answers.answered(name, outcome)  # type: ignore[arg-type]
        for _ in range(made):
            intents.add(key(next(numbers)), name)
    judgement = judge_accept(AuditRow(hop="accept", arm="outbox", effect="intent"), answers, intents)
    judgement.settle()
    row, told = judgement.row, calls.values()
    refused = [made for outcomes, made in told if set(outcomes) == {"refused"}]
    assert closes(row)
    assert row.expected == len(calls) - len(refused)
    assert row.unexpected == sum(made > 0 for made in refused)
    assert row.lost == sum("acknowledged" in outcomes and not made for outcomes, made in told)


@given(processes())
def test_every_count_is_a_count(told: Told) -> None:
    assert all(getattr(judged(told, "email").row, count) >= 0 for count in COUNTS)
