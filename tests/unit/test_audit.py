"""Hand-written histories, each with the row that it must give: every state of every hop, every term of the law."""

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from services.auditor.evidence import Case, causes_of, evidence_of, left_out, rows_of, trace_id
from services.auditor.history import (
    Answers,
    Applied,
    Holdings,
    Intents,
    Key,
    Letter,
    Letters,
    Outbox,
    ProcessLook,
    Published,
    PublishLook,
    coordinates_of,
    key_of,
    origin_of,
)
from services.auditor.judge import (
    LISTED_AT_MOST,
    Judgement,
    judge,
    judge_accept,
    judge_process,
    judge_publish,
    seem_lost,
)
from services.auditor.ledger import ClientLedger
from services.domain.arms import PUBLISHER_ARMS, ConsumerArm
from services.domain.audit import COUNTS, NOT_APPLIED, AuditRow
from services.domain.messages import ORDERS, REFUNDS, Coordinates

ARM = ConsumerArm("tried", "", {})
PER_RECORD = ConsumerArm("tried", "", {}, per_record=True)
OUTBOX = PUBLISHER_ARMS["outbox"]
TOPIC = ORDERS.topic


def at(offset: int, topic: str = TOPIC, partition: int = 0) -> Coordinates:
    return Coordinates(topic, partition, offset)


def id_of(number: int) -> UUID:
    return UUID(int=number)


def key(number: int) -> bytes:
    return id_of(number).bytes


def headers(number: int, *, effects: str = "record,charge,email", run: str = "r") -> list[tuple[str, bytes]]:
    return [("ce_id", str(id_of(number)).encode()), ("lab-effects", effects.encode()), ("lab-run", run.encode())]


def published(*numbers: int, effects: str = "record,charge,email", topic: str = TOPIC, start: int = 0) -> Published:
    """The numbers' records, one after the other on partition 0."""
    found = Published()
    for offset, number in enumerate(numbers, start):
        found.add(at(offset, topic), headers(number, effects=effects))
    return found


def counts(row: AuditRow) -> dict[str, int]:
    """What is not 0."""
    return {name: value for name in COUNTS if (value := getattr(row, name))}


def process_row(
    topic: Published,
    holdings: Holdings,
    applied: Mapping[int, int],
    effect: str = "record",
    arm: ConsumerArm = ARM,
) -> dict[str, int]:
    look = ProcessLook(holdings, Applied({key(number): count for number, count in applied.items()}))
    judgement = process(topic, (look, look), effect, arm)
    judgement.settle()
    return counts(judgement.row)


def process(
    topic: Published, looks: tuple[ProcessLook, ProcessLook], effect: str = "record", arm: ConsumerArm = ARM
) -> Judgement[Key]:
    """The judgement of two looks: what the first saw nowhere, the second judges."""
    row = AuditRow(hop="process", arm=arm.name, effect=effect)
    return judge_process(row, arm, topic, looks, seem_lost(effect, arm, topic, looks[0]))


def past(offset: int) -> dict[tuple[str, int], int]:
    return {(TOPIC, 0): offset}


PARKED = Letter("parked", "undecodable")
REDRIVEN = Letter("redriven", "refused")
DISCARDED = Letter("discarded", "refused")
CONFLICT = Letter("parked", "conflict")
LETTER_AT_0 = Letters({at(0): PARKED})
LETTER_OF_1 = Letters({}, {key(1): PARKED})


@pytest.mark.parametrize(
    ("records", "holdings", "applied", "expected"),
    [
        pytest.param([1], Holdings(past(1)), {1: 1}, {"applied_once": 1}, id="applied"),
        pytest.param([1], Holdings(past(1)), {1: 3}, {"duplicated": 1, "extra_applications": 2}, id="three times"),
        pytest.param([1], Holdings(past(1)), {}, {"lost": 1}, id="passed and nowhere"),
        pytest.param([1], Holdings(past(0)), {}, {"waiting": 1}, id="ahead of the group"),
        pytest.param([1], Holdings(), {}, {"waiting": 1}, id="the group never committed"),
        pytest.param([1, 1], Holdings(past(1)), {}, {"waiting": 1}, id="one copy passed, the other ahead"),
        pytest.param([1, 1], Holdings(past(2)), {}, {"lost": 1}, id="both copies passed"),
        pytest.param([1, 1], Holdings(past(2)), {1: 2}, {"duplicated": 1, "extra_applications": 1}, id="two copies"),
        pytest.param(
            [1, 1], Holdings(past(1)), {1: 1}, {"applied_once": 1, "also_held": 1}, id="a copy queued besides"
        ),
        pytest.param([1], Holdings(past(1), LETTER_AT_0), {}, {"dead_lettered": 1}, id="letter of the coordinates"),
        pytest.param([1], Holdings(past(1), LETTER_OF_1), {}, {"dead_lettered": 1}, id="letter of the id"),
        pytest.param([1], Holdings(past(0), LETTER_OF_1), {}, {"waiting": 1}, id="waiting before dead-lettered"),
        pytest.param(
            [1, 1], Holdings(past(2), LETTER_AT_0), {1: 1}, {"applied_once": 1, "also_held": 1}, id="conflict of a copy"
        ),
        pytest.param([1], Holdings(past(1), Letters({at(0): DISCARDED})), {}, {"discarded": 1}, id="discarded"),
        pytest.param(
            [1], Holdings(past(1), Letters({at(0): DISCARDED})), {1: 1}, {"applied_once": 1}, id="applied, discarded"
        ),
        pytest.param(
            [1, 1],
            Holdings(past(2), Letters({at(0): DISCARDED, at(1): PARKED})),
            {},
            {"dead_lettered": 1},
            id="dead-lettered before discarded",
        ),
        pytest.param(
            [1], Holdings(past(1), Letters({at(0): REDRIVEN})), {}, {"lost": 1}, id="redriven, consumed and nowhere"
        ),
        pytest.param(
            [1],
            Holdings(past(1), Letters({at(0): REDRIVEN}), {}, {at(0)}),
            {},
            {"waiting": 1},
            id="redriven",
        ),
        pytest.param(
            [1], Holdings(past(1), Letters({at(0): REDRIVEN})), {1: 1}, {"applied_once": 1}, id="redriven and applied"
        ),
        pytest.param([1], Holdings(past(1), sent_on={at(0)}), {}, {"waiting": 1}, id="in a retry tier"),
        pytest.param(
            [1],
            Holdings(past(1), sent_on={at(0)}),
            {1: 1},
            {"applied_once": 1, "also_held": 1},
            id="applied, and a replay waits",
        ),
        pytest.param([1], Holdings(past(1), sent_on={at(5)}), {}, {"lost": 1}, id="another record in a retry tier"),
        pytest.param(
            [1, 1], Holdings(past(2), sent_on={at(1)}), {}, {"waiting": 1}, id="one copy lost, the other in a tier"
        ),
        pytest.param(
            [1], Holdings(past(1), LETTER_AT_0, {}, {at(0)}), {}, {"waiting": 1}, id="a letter, replayed meanwhile"
        ),
        pytest.param(
            [1, 1],
            Holdings(past(2), Letters({at(1): CONFLICT}, {key(1): CONFLICT})),
            {},
            {"lost": 1},
            id="the letter of another payload hides no loss",
        ),
        pytest.param(
            [1],
            Holdings(past(1), Letters({at(0): CONFLICT}, {key(1): CONFLICT})),
            {},
            {"dead_lettered": 1},
            id="only the other payload is on the topic",
        ),
        pytest.param(
            [1, 1],
            Holdings(past(2), Letters({at(0): PARKED, at(1): CONFLICT})),
            {},
            {"dead_lettered": 1},
            id="dead-lettered, and then a conflict",
        ),
        pytest.param([1], Holdings(past(1)), {1: 1, 9: 2}, {"applied_once": 1, "unexpected": 1}, id="a ghost, twice"),
        pytest.param([], Holdings(), {}, {}, id="nothing"),
    ],
)
def test_a_record_is_in_one_state(
    records: list[int], holdings: Holdings, applied: dict[int, int], expected: dict[str, int]
) -> None:
    many = {"expected": len(set(records))} if records else {}
    assert process_row(published(*records), holdings, applied) == {**many, **expected}


@pytest.mark.parametrize(
    ("state", "committed", "applied", "expected"),
    [
        ("pending", 1, {}, {"waiting": 1}),
        ("claimed", 1, {}, {"uncertain": 1}),
        ("uncertain", 1, {}, {"uncertain": 1}),
        ("claimed", 0, {}, {"waiting": 1}),
        ("claimed", 1, {1: 1}, {"applied_once": 1}),
        ("uncertain", 1, {1: 2}, {"duplicated": 1, "extra_applications": 1}),
        ("pending", 1, {1: 1}, {"applied_once": 1, "also_held": 1}),
        ("refused", 1, {}, {"dead_lettered": 1}),
        (None, 1, {}, {"lost": 1}),
    ],
)
def test_an_email_row_says_where_its_email_is(
    state: str | None, committed: int, applied: dict[int, int], expected: dict[str, int]
) -> None:
    holdings = Holdings(past(committed), Letters(), {key(1): state} if state else {})
    assert process_row(published(1), holdings, applied, "email") == {"expected": 1, **expected}


def test_an_email_row_says_nothing_about_the_other_effects() -> None:
    holdings = Holdings(past(1), Letters(), {key(1): "pending"})
    assert process_row(published(1), holdings, {}, "charge") == {"expected": 1, "lost": 1}


def test_only_the_effects_that_a_message_wants_are_expected() -> None:
    topic, passed = published(1, effects="record,charge"), Holdings(past(1))
    assert process_row(topic, passed, {1: 1}, "charge") == {"expected": 1, "applied_once": 1}
    assert process_row(topic, passed, {}, "email") == {}
    assert process_row(topic, passed, {1: 1}, "email") == {"unexpected": 1}


@pytest.mark.parametrize("effects", ["record,fly", "", "charge"])
def test_a_message_whose_effects_cannot_be_read_owes_its_record_only(effects: str) -> None:
    topic = published(1, effects=effects)
    assert process_row(topic, Holdings(past(1), LETTER_AT_0), {}) == {"expected": 1, "dead_lettered": 1}
    assert process_row(topic, Holdings(past(1), LETTER_AT_0), {}, "charge") == {}


def test_a_record_without_an_id_is_known_by_its_coordinates() -> None:
    topic = Published()
    topic.add(at(0), [("ce_id", b"\xff"), ("lab-effects", b"record,charge")])
    topic.add(at(1), [])
    assert topic.undecodable == 2
    assert process_row(topic, Holdings(past(2), LETTER_AT_0), {}) == {"expected": 2, "dead_lettered": 1, "lost": 1}
    assert process_row(topic, Holdings(past(2), LETTER_AT_0), {}, "charge") == {}


PER_RECORD_LOST_0 = ConsumerArm("tried", "", {"output": frozenset({"no_loss"})}, per_record=True)
WAITS, LETTER = {"waiting": 1}, {"dead_lettered": 1}


@pytest.mark.parametrize(
    ("applied", "holdings", "at_most_once", "lost_0"),
    [
        pytest.param((1, 1), Holdings(past(2)), {"applied_once": 1, "inherited": 1}, None, id="each once"),
        pytest.param((2, 0), Holdings(past(2)), {"duplicated": 1, "extra_applications": 1},
                     {"lost": 1, "extra_applications": 1}, id="one twice and one never hide each other"),
        pytest.param((1, 0), Holdings(past(2)), {"applied_once": 1}, {"lost": 1}, id="one once and one never"),
        pytest.param((0, 0), Holdings(past(2)), {"lost": 1}, None, id="none"),
        pytest.param((3, 1), Holdings(past(2)),
                     {"duplicated": 1, "extra_applications": 2, "inherited": 1}, None, id="one three times"),
        pytest.param((1, 0), Holdings(past(1)), {"applied_once": 1, "also_held": 1}, None, id="one not reached yet"),
        pytest.param((0, 1), Holdings(past(2), LETTER_AT_0), {"applied_once": 1, "also_held": 1}, None, id="a letter"),
        pytest.param((1, 0), Holdings(past(2), sent_on={at(1)}), {"applied_once": 1, "also_held": 1}, None,
                     id="one sent on"),
        pytest.param((0, 1), Holdings(past(2), Letters({at(0): REDRIVEN})), {"applied_once": 1}, {"lost": 1},
                     id="one redriven and lost"),
        pytest.param((0, 0), Holdings(past(1)), WAITS, None, id="none, and one not reached yet"),
        pytest.param((0, 0), Holdings(past(2), LETTER_AT_0), LETTER, None, id="none, and one a letter"),
    ],
)  # fmt: skip
def test_an_arm_that_promises_per_record_owes_each_record_its_own(
    applied: tuple[int, int], holdings: Holdings, at_most_once: dict[str, int], lost_0: dict[str, int] | None
) -> None:
    by_record = {at(offset): count for offset, count in enumerate(applied) if count}
    done = Applied({key(1): sum(applied)} if any(applied) else {}, by_record)
    look = ProcessLook(holdings, done)
    for arm, expected in ((PER_RECORD, at_most_once), (PER_RECORD_LOST_0, lost_0 or at_most_once)):
        judgement = process(published(1, 1), (look, look), "output", arm)
        assert counts(judgement.row) == {"expected": 1, **expected}


def test_the_second_look_judges_what_the_first_saw_nowhere_and_nothing_else() -> None:
    nowhere = Holdings(past(3))
    first = ProcessLook(nowhere, Applied({key(3): 1}))
    second = ProcessLook(msgspec.structs.replace(nowhere, sent_on={at(0)}), Applied({key(2): 1, key(3): 9}))
    row = process(published(1, 2, 3, start=0), (first, second)).row
    assert counts(row) == {"expected": 3, "waiting": 1, "applied_once": 2}


def test_the_causes_of_dead_letters_are_counted() -> None:
    letters = Letters({at(0): PARKED, at(1): PARKED, at(2): Letter("parked", "attempts"), at(3): DISCARDED})
    look = ProcessLook(Holdings(past(4), letters), Applied({key(2): 1}))
    judgement = process(published(1, 2, 3, 4), (look, look))
    assert judgement.causes == {"undecodable": 1, "attempts": 1}
    judgement.row.arm = "one"
    assert causes_of([Case(judgement, lambda _: {})]) == {"process/one/record": {"undecodable": 1, "attempts": 1}}


def test_an_injected_record_is_left_out_of_the_publish_hop_and_taken_in_on_the_process_hop() -> None:
    topic = published(1)
    for offset, number in ((1, 1), (2, 7)):  # a copy, and a message that nobody promised
        topic.add(at(offset), [*headers(number), ("lab-injected", b"copy")])
    topic.add(at(3), [("lab-injected", b"poison")])
    looks = (PublishLook(GONE, topic), PublishLook(GONE, Published()))
    assert publish_row(looks) == {"expected": 1, "applied_once": 1}
    assert process_row(topic, Holdings(past(4)), {1: 2}) == {
        "expected": 3, "duplicated": 1, "extra_applications": 1, "lost": 2,
    }  # fmt: skip


def test_an_injected_copy_publishes_nothing() -> None:
    topic = Published()
    topic.add(at(0), [*headers(1), ("lab-injected", b"copy")])
    looks = (PublishLook(GONE, topic), PublishLook(GONE, Published()))
    assert publish_row(looks) == {"expected": 1, "lost": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("orders.v1/3/17", at(17, partition=3)),
        ("a/b/0/1", Coordinates("a/b", 0, 1)),
        ("orders.v1/x/1", None),
        ("", None),
    ],
)
def test_the_origin_of_a_record_that_was_sent_on_is_in_its_headers(text: str, found: Coordinates | None) -> None:
    assert coordinates_of(text) == found
    assert origin_of([("ce_id", b"1"), ("lab-origin", text.encode())]) == found
    assert origin_of([("ce_id", b"1")]) is None


def test_one_run_is_read_without_the_others() -> None:
    topic = Published("mine")
    topic.add(at(0), headers(1, run="mine"))
    topic.add(at(1), headers(2, run="other"))
    topic.add(at(2), [])
    assert (set(topic.copies.keys()), topic.undecodable) == ({key(1)}, 0)


PENDING_1 = Outbox({key(1)}, {})
ASIDE_1 = Outbox(set(), {key(1): "too large"})
GONE = Outbox()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param((GONE, [1]), (GONE, []), {"applied_once": 1}, id="readable"),
        pytest.param((GONE, [1, 1, 1]), (GONE, []), {"duplicated": 1, "extra_applications": 2}, id="three copies"),
        pytest.param((PENDING_1, []), (GONE, []), {"waiting": 1}, id="in the outbox"),
        pytest.param((PENDING_1, []), (GONE, [1]), {"waiting": 1}, id="what the first look saw is not looked up again"),
        pytest.param((ASIDE_1, []), (ASIDE_1, []), {"dead_lettered": 1}, id="set aside"),
        pytest.param((PENDING_1, [1]), (GONE, []), {"applied_once": 1, "also_held": 1}, id="not yet deleted"),
        pytest.param((GONE, []), (GONE, []), {"lost": 1}, id="in neither place, twice"),
        pytest.param((GONE, []), (GONE, [1]), {"applied_once": 1}, id="the second look finds it on the topic"),
        pytest.param((GONE, []), (PENDING_1, []), {"waiting": 1}, id="the second look finds it in the outbox"),
        pytest.param((GONE, []), (ASIDE_1, []), {"dead_lettered": 1}, id="the second look finds it set aside"),
        pytest.param((GONE, [1, 9]), (GONE, []), {"applied_once": 1, "unexpected": 1}, id="a ghost"),
    ],
)
def test_a_publication_is_in_one_state(
    first: tuple[Outbox, list[int]], second: tuple[Outbox, list[int]], expected: dict[str, int]
) -> None:
    looks = [PublishLook(outbox, published(*numbers)) for outbox, numbers in (first, second)]
    assert publish_row((looks[0], looks[1])) == {"expected": 1, **expected}


def publish_row(looks: tuple[PublishLook, PublishLook], *, truncated: bool = False) -> dict[str, int]:
    row = AuditRow(hop="publish", arm="outbox", effect="publication")
    judgement = judge_publish(row, TOPIC, {key(1)}, looks, truncated=truncated)
    judgement.settle()
    return counts(judgement.row)


def test_a_copy_on_the_wrong_topic_publishes_nothing() -> None:
    looks = (PublishLook(GONE, published(1, topic="refunds.v1")), PublishLook(GONE, Published()))
    assert publish_row(looks) == {"expected": 1, "lost": 1}


def test_where_the_broker_dropped_records_an_absent_one_is_not_called_lost() -> None:
    looks = (PublishLook(GONE, Published()), PublishLook(GONE, Published()))
    assert publish_row(looks, truncated=True) == {"expected": 1, "uncertain": 1}


@pytest.mark.parametrize(
    ("attempts", "intents", "expected"),
    [
        (["acknowledged"], 1, {"expected": 1, "applied_once": 1}),
        (["acknowledged"], 2, {"expected": 1, "duplicated": 1, "extra_applications": 1}),
        (["acknowledged"], 0, {"expected": 1, "lost": 1}),
        (["unknown"], 0, {"expected": 1, "uncertain": 1}),
        (["unknown"], 1, {"expected": 1, "applied_once": 1}),
        ([None], 0, {"expected": 1, "uncertain": 1}),
        (["unknown", "acknowledged"], 0, {"expected": 1, "lost": 1}),
        (["acknowledged", None], 0, {"expected": 1, "lost": 1}),
        (["refused", None], 0, {"expected": 1, "uncertain": 1}),
        (["unknown", "refused"], 0, {"expected": 1, "uncertain": 1}),
        (["refused"], 0, {}),
        (["refused"], 1, {"unexpected": 1}),
        (["refused", "refused"], 0, {}),
    ],
)
def test_an_idempotency_key_is_in_one_state(attempts: list[str | None], intents: int, expected: dict[str, int]) -> None:
    answers, made = Answers(), Intents()
    for outcome in attempts:
        answers.called("k")
        if outcome:
            answers.answered("k", outcome)  # type: ignore[arg-type]
    for number in range(intents):
        made.add(key(number), "k")
    judgement = judge_accept(AuditRow(hop="accept", arm="outbox", effect="intent"), answers, made)
    judgement.settle()
    assert counts(judgement.row) == expected


def test_what_no_query_knows_is_unexplained_and_not_lost() -> None:
    row = AuditRow(hop="process", arm="tried", effect="record")
    judgement = judge(row, {"a", "b"}, lambda key: key == "a", {"waiting": lambda _: False, "lost": lambda _: False})
    assert counts(judgement.row) == {"expected": 2, "applied_once": 1, "unexplained": 1}
    assert judgement.listed["unexplained"] == ["b"]


@pytest.mark.parametrize("first", range(len(NOT_APPLIED)))
def test_of_several_places_the_first_in_the_order_of_the_law_counts(first: int) -> None:
    queries = {state: (lambda _: True) for state in reversed(NOT_APPLIED[first:])}
    judgement = judge(AuditRow(hop="", arm="", effect=""), {"a"}, lambda _: 0, queries)
    assert counts(judgement.row) == {"expected": 1, NOT_APPLIED[first]: 1}


def test_a_ghost_that_a_later_look_explains_is_taken_back() -> None:
    look = ProcessLook(Holdings(), Applied({key(7): 1, key(8): 1}))
    judgement = process(published(), (look, look))
    judgement.excuse(published(7).wanting("record"))
    judgement.settle()
    assert (judgement.row.unexpected, judgement.listed["unexpected"]) == (1, [key(8)])


def test_evidence_names_the_message_its_copies_and_its_applications() -> None:
    topic = published(1, 1)
    look = ProcessLook(Holdings(past(2)), Applied({key(1): 2}))
    judgement = process(topic, (look, look))
    judgement.settle()
    (item,) = evidence_of(
        [Case(judgement, lambda k: {"message_id": str(UUID(bytes=k)), "at": [str(c) for c in topic.copies[k]]})]
    )
    assert (item.state, item.message_id, item.applications) == ("duplicated", str(id_of(1)), 2)
    assert item.at == ["orders.v1/0/0", "orders.v1/0/1"]


def test_rows_of_both_kinds_are_one_and_evidence_is_bounded_with_the_rest_counted() -> None:
    cases = []
    for _ in range(2):
        row = AuditRow(hop="publish", arm="outbox", effect="publication")
        judgement = judge(row, range(LISTED_AT_MOST), lambda _: 0, {"lost": lambda _: True})
        judgement.settle()
        cases.append(Case(judgement, lambda _: {"message_id": None, "at": []}))
    (total,), evidence = rows_of(cases), list(evidence_of(cases))
    assert (total.expected, total.lost, len(evidence)) == (2 * LISTED_AT_MOST, 2 * LISTED_AT_MOST, LISTED_AT_MOST)
    assert left_out([total], evidence) == {"publish/outbox/publication/lost": LISTED_AT_MOST}


def test_a_provider_may_be_told_anything_as_a_message_id() -> None:
    assert key_of(str(id_of(5))) == key(5)
    assert key_of("no id") == "no id"


def test_a_trace_id_is_taken_from_a_traceparent_only() -> None:
    assert trace_id(f"00-{'a' * 32}-{'b' * 16}-01") == "a" * 32
    assert trace_id("") is None


def line(key: str, phase: str, run: str = "r", kind: str = "orders", **fields: object) -> bytes:
    return (
        msgspec.json.encode({"at": 1.5, "run": run, "key": key, "kind": kind, "attempt": 1, "phase": phase, **fields})
        + b"\n"
    )


def test_a_ledger_is_read_line_by_line_and_what_a_kill_cut_is_counted(tmp_path: Path) -> None:
    answer = line("a", "answer", outcome="acknowledged", status=201, replayed=False)
    (tmp_path / "one.jsonl").write_bytes(
        line("a", "call") + answer + line("b", "call") + b"no json\n" + line("c", "call")[:20]
    )
    (tmp_path / "two.jsonl").write_bytes(line("d", "call", kind="refunds") + line("e", "not_sent", why="late"))
    client = ClientLedger(tmp_path)
    client.read()
    orders = client.answers(OUTBOX, ORDERS)
    keys = orders.keys()
    assert {key: orders.outcome(key) for key in keys} == {"a": "acknowledged", "b": "unknown"}
    assert set(client.answers(OUTBOX, REFUNDS).keys()) == {"d"}
    assert client.skipped == 2


def test_a_second_read_of_a_ledger_takes_in_what_was_written_since(tmp_path: Path) -> None:
    file, client = tmp_path / "one.jsonl", ClientLedger(tmp_path, "r")
    whole = line("a", "answer", outcome="refused", status=422, replayed=False)
    file.write_bytes(line("a", "call") + line("x", "call", run="other") + whole[:30])
    client.read()
    assert (client.answers(OUTBOX, ORDERS).outcome("a"), client.skipped) == ("unknown", 1)
    with file.open("ab") as stream:
        stream.write(whole[30:])
    client.read()
    assert (client.answers(OUTBOX, ORDERS).outcome("a"), client.skipped) == ("refused", 0)
    assert set(client.answers(OUTBOX, ORDERS).keys()) == {"a"}


def test_each_publisher_arm_has_its_own_answers(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_bytes(
        line("a", "call") + line("a", "call", arm="cdc") + line("b", "call", arm="cdc")
    )
    client = ClientLedger(tmp_path)
    client.read()
    assert set(client.answers(OUTBOX, ORDERS).keys()) == {"a"}
    assert set(client.answers(PUBLISHER_ARMS["cdc"], ORDERS).keys()) == {"a", "b"}
    assert not client.answers(PUBLISHER_ARMS["cdc"], REFUNDS).keys()


def test_without_a_ledger_nobody_called(tmp_path: Path) -> None:
    client = ClientLedger(tmp_path / "none")
    client.read()
    assert not client.answers(OUTBOX, ORDERS).keys()


def test_an_answer_whose_call_was_cut_off_the_ledger_counts_as_an_attempt() -> None:
    answers = Answers()
    answers.answered("k", "refused")
    assert answers.outcome("k") == "refused"
    answers.called("k")
    assert answers.outcome("k") == "unknown"


def test_a_group_has_passed_a_message_only_when_it_has_passed_every_copy() -> None:
    holdings, both = Holdings(past(1)), [at(0), at(1)]
    assert [holdings.gone(key(1), copies) for copies in (both, both[:1], both[1:])] == [False, True, False]
    assert not holdings.gone(key(1), [at(0, partition=1)])
