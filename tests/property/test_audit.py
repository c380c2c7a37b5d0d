"""Histories from a little model that knows what became of each message: the audit must find exactly that."""

from collections import Counter
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.auditor.history import Answers, Holdings, Intents, Key, Letters, Outbox, Published, PublishLook
from services.auditor.judge import Judgement, judge_accept, judge_process, judge_publish
from services.domain.arms import ConsumerArm
from services.domain.audit import COUNTS, AuditRow
from services.domain.messages import Coordinates

TOPIC = "orders.v1"
PARTITIONS = 3


class Told(msgspec.Struct, frozen=True):
    """A history, and the truth about it by message."""

    published: Published
    holdings: Holdings
    applied: Counter[Key]
    truth: dict[Key, str]  # state
    ahead: set[Key]  # messages with a copy that the group has not passed


def key(number: int) -> bytes:
    return UUID(int=number).bytes


@st.composite
def processes(draw: st.DrawFn, effect: str = "email") -> Told:
    """Logs first, then how far the group is, then for each message a fate that its place allows."""
    logs = draw(st.lists(st.lists(st.integers(1, 8), max_size=6), min_size=PARTITIONS, max_size=PARTITIONS))
    published, ahead = Published(), set[Key]()
    committed: dict[tuple[str, int], int] = {}
    copies: dict[int, list[Coordinates]] = {}
    for partition, log in enumerate(logs):
        passed = draw(st.integers(0, len(log)))
        if passed or draw(st.booleans()):
            committed[TOPIC, partition] = passed
        for offset, number in enumerate(log):
            at = Coordinates(TOPIC, partition, offset)
            published.add(at, [("ce_id", str(UUID(int=number)).encode()), ("lab-effects", b"record,email")])
            copies.setdefault(number, []).append(at)
            if offset >= passed:
                ahead.add(key(number))
    applied: Counter[Key] = Counter()
    letters_at: dict[Coordinates, str] = {}
    letters_of: dict[Key, str] = {}
    emails: dict[Key, str] = {}
    truth: dict[Key, str] = {}
    for number, places in copies.items():
        message = key(number)
        fate = draw(st.sampled_from(["applied_once", "duplicated", "held"]))
        lettered, by_id = draw(st.booleans()), draw(st.booleans())
        if lettered and by_id:
            letters_of[message] = "refused"
        elif lettered:
            letters_at[draw(st.sampled_from(places))] = "undecodable"
        row = draw(st.sampled_from(["none", "pending", "claimed", "uncertain"])) if effect == "email" else "none"
        if row != "none":
            emails[message] = row
        if fate != "held":
            applied[message] = 1 if fate == "applied_once" else draw(st.integers(2, 5))
            truth[message] = fate
        elif message in ahead or row == "pending":
            truth[message] = "waiting"
        elif lettered:
            truth[message] = "dead_lettered"
        else:
            truth[message] = "lost" if row == "none" else "uncertain"
    return Told(published, Holdings(committed, Letters(letters_at, letters_of), emails), applied, truth, ahead)


def judged(told: Told, effect: str, *, per_record: bool = False) -> Judgement[Key]:
    arm = ConsumerArm("tried", "", {}, per_record=per_record)
    row = AuditRow(hop="process", arm=arm.name, effect=effect)
    judgement = judge_process(row, arm, told.published, told.holdings, told.applied)
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
    for state in ("applied_once", "duplicated", "waiting", "dead_lettered", "uncertain", "lost"):
        assert getattr(row, state) == truth[state]
    assert row.extra_applications == sum(count - 1 for count in told.applied.values())


@given(processes("record"))
def test_a_message_with_a_copy_ahead_of_the_group_is_never_lost(told: Told) -> None:
    assert told.ahead.isdisjoint(judged(told, "record").listed["lost"])


@given(processes(), st.sets(st.integers(20, 30)))
def test_a_ghost_is_counted_beside_and_changes_nothing_else(told: Told, ghosts: set[int]) -> None:
    before = judged(told, "email").row
    told.applied.update(key(ghost) for ghost in ghosts)
    after = judged(told, "email").row
    assert after.unexpected == len(ghosts)
    assert msgspec.structs.replace(after, unexpected=0) == before


@given(processes("record"))
def test_applications_of_an_arm_that_promises_per_record_are_all_accounted_for(told: Told) -> None:
    row = judged(told, "record", per_record=True).row
    assert closes(row)
    assert row.applied_once + row.duplicated + row.extra_applications + row.inherited == told.applied.total()


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
