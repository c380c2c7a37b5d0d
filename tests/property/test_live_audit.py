"""The live audit against the whole one: whatever order things are taken in, after the grace both say the same."""

import random
from collections import Counter, defaultdict
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.auditor.cursor import Cursor
from services.auditor.history import Answers, Applied, Holdings, Outbox
from services.auditor.live import GRACE_S, Held, Live, When
from services.auditor.stores import Application
from services.auditor.taking import pause_s
from services.broker.reader import Record
from services.domain.arms import PUBLISHER_ARMS, ConsumerArm, Promise
from services.domain.audit import AuditRow
from services.domain.messages import ORDERS, Coordinates, digest
from tests.property.test_audit import Told, closes, judged, key, processes

OUTBOX = PUBLISHER_ARMS["outbox"]


def arm_of(effect: str, promises: frozenset[Promise] = frozenset(), *, per_record: bool = False) -> ConsumerArm:
    return ConsumerArm("tried", "", {effect: promises}, per_record=per_record)


NOTHING = Outbox()


def held(holdings: Holdings, outbox: Outbox = NOTHING, answers: Answers | None = None) -> Held:
    said = defaultdict(Answers)
    if answers is not None:
        said["outbox", "orders"] = answers
    return Held({"outbox": outbox}, {"tried": holdings}, said)


def instant(now: float) -> When:
    """Of a pass that takes no time."""
    return When(now, now)


Events = list[tuple[str, Coordinates]]


def live_row(told: Told, arm: ConsumerArm, effect: str, seed: int) -> AuditRow:
    """Take everything in, in any order and in several passes; the last two are a grace apart."""
    live, _ = taken_in(told, arm, effect, seed)
    live.judge(held(told.holdings), instant(1_000))
    return row_of(live, told, effect, 1_000 + GRACE_S)


def taken_in(told: Told, arm: ConsumerArm, effect: str, seed: int) -> tuple[Live, Events]:
    """A live audit that has read everything, in any order and in several passes."""
    live = Live([OUTBOX], [arm])
    events: Events = []
    places = told.published.places()
    for at in places:
        events += [("record", at), *[("apply", at)] * told.applied.at.get(at, 0)]
    shuffle = random.Random(seed)
    shuffle.shuffle(events)
    for number, (what, at) in enumerate(events):
        if what == "record":
            headers = [("ce_id", str(UUID(bytes=places[at])).encode()), ("lab-effects", b"record,email")]  # type: ignore[arg-type]
            live.take_record("outbox", Record(at, headers), number)
        else:
            live.take_application("tried", effect, Application(places[at], True, at, "", b""), number)
        if shuffle.random() < 0.2:
            look_up(live, told, events[: number + 1])
            now = held(told.holdings)
            if shuffle.random() < 0.5:
                live.settle(now)  # as long as it is not at the end of everything
            else:
                live.judge(now, instant(number))
            live.forget(shuffle.randrange(4), now.answers)
    look_up(live, told, events)
    return live, events


def row_of(live: Live, told: Told, effect: str, now: float) -> AuditRow:
    """What a pass says of the effect."""
    rows = {row.name: row for row in live.judge(held(told.holdings), instant(now)).rows}
    row = rows[f"process/tried/{effect}"]
    said = [one for one in live.standing() if one.row == row.name and one.state == "lost"]
    assert len(said) == row.lost  # what alerts go by is what the row says
    return row


def look_up(live: Live, told: Told, events: Events) -> None:
    """What a store answers that is asked for which records some messages were applied."""
    for (name, effect), keys in live.lacking().items():
        for wanted in keys:
            copies = set(told.published.copies[wanted])
            live.take_records_applied(
                name, effect, wanted, [at for what, at in events if what == "apply" and at in copies]
            )


@settings(deadline=None)  # a machine under load
@given(processes(), st.integers(0, 1_000))
def test_a_live_pass_comes_to_the_row_of_a_whole_audit(told: Told, seed: int) -> None:
    row = live_row(told, arm_of("email"), "email", seed)
    assert closes(row)
    assert row == judged(told, "email").row


@settings(deadline=None)
@given(processes("record"), st.integers(0, 1_000), st.booleans())
def test_so_it_does_for_an_arm_that_promises_per_record(told: Told, seed: int, lost_0: bool) -> None:
    arm = arm_of("record", frozenset({"no_loss"}) if lost_0 else frozenset(), per_record=True)
    row = live_row(told, arm, "record", seed)
    assert closes(row)
    assert row == judged(told, "record", per_record=True, lost_0=lost_0).row


@settings(deadline=None)
@given(processes("record"), st.integers(0, 1_000), st.booleans(), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_what_is_taken_back_was_never_there_as_of_the_next_pass(
    told: Told, seed: int, per_record: bool, which: list[int]
) -> None:
    arm = arm_of("record", frozenset({"no_loss"}), per_record=per_record)
    live, events = taken_in(told, arm, "record", seed)
    for now in (1_000, 1_000 + GRACE_S):
        live.judge(held(told.holdings), instant(now))
    live.forget(seed % 4, held(told.holdings).answers)
    of, at, places = Counter(told.applied.of), Counter(told.applied.at), told.published.places()
    for number in which:
        applied = sorted(at.elements())
        if not applied:
            break
        gone = applied[number % len(applied)]
        message = places[gone]
        taken = live.take_back("tried", "record", Application(message, True, gone, "", b""))
        assert taken != (per_record and len(told.published.copies[message]) > 1), "the store was asked about it"
        if not taken:
            return  # all is read again
        of, at = of - Counter([message]), at - Counter([gone])
        events.remove(("apply", gone))
    look_up(live, told, events)
    row = row_of(live, told, "record", 1_001 + GRACE_S)
    without = msgspec.structs.replace(told, applied=Applied(of, at))
    assert row == judged(without, "record", per_record=per_record, lost_0=True).row


def test_one_count_that_stood_still_delays_the_next_no_more_than_the_others() -> None:
    assert pause_s([0.01, 1.5, 0.02]) == pause_s([0.01]) < 5
    assert pause_s([1.5, 1.2, 1.4]) > 50


def test_what_was_none_of_a_message_cannot_be_taken_back() -> None:
    live, at = Live([OUTBOX], [arm_of("record")]), Coordinates(ORDERS.topic, 0, 1)
    ghost = Application(key(1), True, at, "", b"")
    live.take_application("tried", "record", ghost, 0.0)
    assert not live.take_back("tried", "record", ghost)


def record(offset: int, number: int) -> Record:
    headers = [("ce_id", str(UUID(bytes=key(number))).encode()), ("lab-effects", b"record")]
    return Record(Coordinates(ORDERS.topic, 0, offset), headers)


def test_what_is_nowhere_waits_for_the_grace_is_lost_then_and_can_be_taken_back() -> None:
    live, passed = Live([OUTBOX], [arm_of("record")]), Holdings({(ORDERS.topic, 0): 1})
    live.take_record("outbox", record(0, 1), 0.0)
    states = []
    for now in (0.0, GRACE_S / 2, GRACE_S, GRACE_S + 1):
        done = live.judge(held(passed), instant(now))
        row = done.rows[-1]
        states.append((row.waiting, row.lost, [one.many for one in done.found if one.row.startswith("process")]))
        assert closes(row)
    assert states == [(1, 0, []), (1, 0, []), (0, 1, [1]), (0, 1, [])]
    live.take_application("tried", "record", Application(key(1), True, Coordinates(ORDERS.topic, 0, 0), "", b""), 9.0)
    done = live.judge(held(passed), instant(10.0))
    assert (done.rows[-1].lost, done.rows[-1].applied_once) == (0, 1)
    assert [(one.state, one.many) for one in done.found if one.row.startswith("process")] == [("lost", 0)]


def test_an_effect_that_is_seen_before_its_record_is_no_ghost_unless_the_record_never_comes() -> None:
    live = Live([OUTBOX], [arm_of("record")])
    for number in (1, 2):
        at = Coordinates(ORDERS.topic, 0, number)
        live.take_application("tried", "record", Application(key(number), True, at, "", b""), 0.0)
    live.take_record("outbox", record(0, 1), 1.0)
    rows = [live.judge(held(Holdings({(ORDERS.topic, 0): 1})), instant(now)).rows[-1] for now in (1.0, GRACE_S)]
    assert [(row.applied_once, row.unexpected) for row in rows] == [(1, 0), (1, 1)]


def test_where_records_count_a_second_application_may_be_of_a_copy_that_was_not_read_yet() -> None:
    live, passed = Live([OUTBOX], [arm_of("record", per_record=True)]), Holdings({(ORDERS.topic, 0): 9})
    for number in (1, 2):
        live.take_record("outbox", record(number, number), 0.0)
    for number, offset in ((1, 1), (1, 5), (2, 2), (2, 2)):
        at = Coordinates(ORDERS.topic, 0, offset)
        live.take_application("tried", "record", Application(key(number), True, at, "", b""), 0.0)
    said = live.settle(held(passed)) + live.judge(held(passed), instant(0.0)).found
    live.take_record("outbox", record(5, 1), 1.0)
    assert live.lacking() == {("tried", "record"): [key(1)]}
    live.take_records_applied("tried", "record", key(1), [Coordinates(ORDERS.topic, 0, at) for at in (1, 5)])
    said += live.judge(held(passed), instant(1.0)).found
    assert not [one for one in said if one.state == "duplicated" and one.row.startswith("process")]
    done = live.judge(held(passed), instant(GRACE_S))
    assert [(one.key, one.many) for one in done.found if one.row.startswith("process")] == [(key(2), 1)]
    assert (done.rows[-1].applied_once, done.rows[-1].duplicated, done.rows[-1].inherited) == (1, 1, 1)


def test_the_hops_accept_and_publish_are_judged_by_what_was_told_and_what_is_there() -> None:
    live, answers = Live([OUTBOX], []), Answers()
    for name, outcome in (("a", "acknowledged"), ("b", "acknowledged"), ("c", None), ("d", "refused")):
        answers.called(name)
        if outcome:
            answers.answered(name, outcome)  # type: ignore[arg-type]
    live.take_answers("outbox", "orders", {"a", "b", "c", "d"})
    for number, name in ((1, "a"), (2, "a"), (3, "e")):
        live.take_intent("outbox", "orders", key(number), name, digest("", b""), "")
    live.take_record("outbox", record(0, 1), 0.0)
    live.take_record("outbox", record(1, 1), 0.0)
    live.take_record("outbox", record(2, 9), 0.0)
    now = held(Holdings(), Outbox({key(3)}), answers)
    live.judge(now, instant(0.0))
    accept, publish = live.judge(now, instant(GRACE_S)).rows
    assert (accept.expected, accept.duplicated, accept.lost, accept.uncertain) == (3, 1, 1, 1)
    assert (publish.expected, publish.duplicated, publish.waiting, publish.lost) == (3, 1, 1, 1)
    assert publish.unexpected == 1
    assert closes(accept)
    assert closes(publish)
    live.take_record("outbox", record(3, 1), 8.0)
    (again,) = (row for row in live.judge(now, instant(9.0)).rows if row.hop == "publish")
    assert (again.duplicated, again.extra_applications) == (1, 2)


def test_where_the_broker_dropped_records_an_absent_one_is_uncertain() -> None:
    live = Live([OUTBOX], [])
    live.take_intent("outbox", "orders", key(1), "a", b"", "")
    dropped = msgspec.structs.replace(held(Holdings()), truncated={ORDERS.topic})
    rows = [live.judge(dropped, instant(now)).rows[1] for now in (0.0, GRACE_S)]
    assert [(row.uncertain, row.lost) for row in rows] == [(1, 0), (1, 0)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=30), st.integers(0, 1_000))
def test_a_cursor_skips_no_row_that_commits_late_and_takes_none_twice(steps: list[tuple[int, int]], seed: int) -> None:
    """A database of numbered transactions: each begins, draws a number, and commits some steps later."""
    shuffle, cursor, taken = random.Random(seed), Cursor(0), list[int]()
    running: dict[int, int] = {}  # by xid the number
    committed: set[int] = set()
    xid = number = 0
    for now, (commits, begins) in enumerate(steps):
        xmin, xmax = min(running, default=xid + 1), xid + 1
        taken += cursor.take([n for n in committed if n > cursor.floor], now * 10.0, xmin, xmax)
        assert cursor.passed == sum(n <= cursor.floor for n in committed)
        for _ in range(begins):
            xid, number = xid + 1, number + 1
            running[xid] = number
        for done in shuffle.sample(sorted(running), min(commits, len(running))):
            committed.add(running.pop(done))
    committed |= set(running.values())
    taken += cursor.take([n for n in committed if n > cursor.floor], 1e6, xid + 1, xid + 1)
    assert sorted(taken) == list(range(1, number + 1))


@settings(deadline=None)
@given(processes(), st.integers(0, 4))
def test_what_is_settled_and_old_lies_on_the_shelf_and_stays_counted(told: Told, keep: int) -> None:
    live, places = Live([OUTBOX], [arm_of("email")]), told.published.places()
    for at, message in places.items():
        headers = [("ce_id", str(UUID(bytes=message)).encode()), ("lab-effects", b"record,email")]  # type: ignore[arg-type]
        live.take_record("outbox", Record(at, headers), 0.0)
        for _ in range(told.applied.at.get(at, 0)):
            live.take_application("tried", "email", Application(message, True, at, "", b""), 0.0)
    now = held(told.holdings)
    live.judge(now, instant(0.0))
    before = live.judge(now, instant(GRACE_S))
    live.forget(keep, now.answers)
    after = live.judge(now, instant(GRACE_S))
    assert after.rows[-1] == before.rows[-1]
    for at, message in places.items():  # what comes again of an old one makes no ghost, and is counted
        live.take_application("tried", "email", Application(message, True, at, "", b""), 10.0)
    live.judge(now, instant(10.0))
    row = live.judge(now, instant(10.0 + GRACE_S)).rows[-1]
    applications = [row.applied_once + row.duplicated + row.extra_applications for row in (before.rows[-1], row)]
    assert row.unexpected == 0
    assert applications[1] >= applications[0]


def test_while_not_all_is_read_only_what_is_applied_is_let_go_of_and_nothing_is_lost() -> None:
    live, answers = Live([OUTBOX], [arm_of("record")]), Answers()
    for name, number in (("a", 1), ("b", 2)):
        answers.called(name)
        answers.answered(name, "acknowledged")
        live.take_intent("outbox", "orders", key(number), name, record_digest(), "")
    live.take_answers("outbox", "orders", {"a", "b", "not read yet"})
    answers.called("not read yet")
    answers.answered("not read yet", "acknowledged")
    for offset in (0, 1):
        live.take_record("outbox", record(offset, 1), 0.0)
    at = Coordinates(ORDERS.topic, 0, 0)
    live.take_application("tried", "record", Application(key(1), True, at, "", b""), 0.0)
    now = held(Holdings({(ORDERS.topic, 0): 2}), answers=answers)
    assert [(one.row, one.state, one.many) for one in live.settle(now)] == [
        ("publish/outbox/publication", "duplicated", 1)
    ]
    assert live.settle(now) == []
    live.forget(0, now.answers)
    assert len(live) == 0
    accept, publish, process = live.judge(now, instant(1_000.0)).rows
    assert (accept.expected, accept.applied_once, accept.lost) == (3, 2, 0)
    assert (publish.expected, publish.duplicated, publish.lost) == (2, 1, 0)
    assert (process.expected, process.applied_once) == (1, 1)


def test_a_message_on_the_shelf_is_duplicated_when_it_is_published_or_applied_again() -> None:
    live, answers = Live([OUTBOX], [arm_of("record")]), Answers()
    passed, at = Holdings({(ORDERS.topic, 0): 2}), Coordinates(ORDERS.topic, 0, 0)
    answers.called("a")
    answers.answered("a", "acknowledged")
    live.take_answers("outbox", "orders", {"a"})
    live.take_intent("outbox", "orders", key(1), "a", record_digest(), "")
    live.take_record("outbox", record(0, 1), 0.0)
    live.take_application("tried", "record", Application(key(1), True, at, "", b""), 0.0)
    now = held(passed, answers=answers)
    live.judge(now, instant(0.0))
    live.forget(0, now.answers)
    assert len(live) == 0
    assert list(answers.keys()) == []

    live.take_intent("outbox", "orders", key(2), "a", record_digest(), "")
    live.take_record("outbox", record(1, 1), 1.0)
    live.take_application("tried", "record", Application(key(1), True, at, "", b""), 1.0)
    rows = {row.name: row for row in live.judge(now, instant(1.0)).rows}
    assert rows["accept/outbox/intent"].duplicated == 1
    assert rows["publish/outbox/publication"].duplicated == 1
    assert rows["process/tried/record"].duplicated == 1
    assert live.places_of("outbox", key(1)) == [at, Coordinates(ORDERS.topic, 0, 1)]


def test_an_answer_that_comes_late_to_a_key_on_the_shelf_changes_nothing() -> None:
    live, answers = Live([OUTBOX], []), Answers()
    now = held(Holdings(), answers=answers)
    live.take_intent("outbox", "orders", key(1), "a", record_digest(), "")
    live.take_record("outbox", record(0, 1), 0.0)
    for _ in range(2):
        answers.called("a")
        answers.answered("a", "acknowledged")
        live.take_answers("outbox", "orders", {"a"})
        rows = live.judge(now, instant(0.0)).rows
        assert [(row.expected, row.applied_once) for row in rows] == [(1, 1), (1, 1)]
        live.forget(0, now.answers)


def record_digest() -> bytes:
    """Of the records that `record` makes."""
    return digest("", b"")


def test_a_pass_that_takes_longer_than_the_grace_calls_nothing_lost_or_unexpected_by_itself() -> None:
    live, place = Live([OUTBOX], [arm_of("record")]), Coordinates(ORDERS.topic, 0, 0)
    headers = [("ce_id", str(UUID(bytes=key(1))).encode()), ("lab-effects", b"record")]
    long_s, passed = 3 * GRACE_S, held(Holdings({(ORDERS.topic, 0): 1}))

    def found(began: float, over: float) -> list[tuple[str, str]]:
        return [(one.row, one.state) for one in live.judge(passed, When(began, over)).found]

    # its intent committed after this pass had read those
    live.take_record("outbox", Record(place, headers), long_s - 1)
    live.take_application("tried", "record", Application(key(2), True, place, "", b""), long_s - 1)
    assert found(0.0, long_s) == []
    began = long_s + 0.1  # the next one begins right after it, and takes as long
    assert found(began, began + long_s) == []
    assert found(2 * began, 2 * began + 0.1) == [
        ("publish/outbox/publication", "unexpected"),
        ("process/tried/record", "lost"),
        ("process/tried/record", "unexpected"),
    ]
