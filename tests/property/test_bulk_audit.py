"""The audit on disk against the one in memory: the same rows and the same messages, whatever happened."""

import asyncio
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.auditor import bulk as on_disk
from services.auditor.applications import Known, taken
from services.auditor.bulk import Bulk
from services.auditor.evidence import Case, rows_of
from services.auditor.facts import facts, of_record, promise
from services.auditor.history import (
    Answers,
    Copy,
    Holdings,
    Intents,
    Key,
    Outbox,
    ProcessLook,
    Published,
    PublishLook,
    key_of,
)
from services.auditor.judge import (
    Judgement,
    judge_accept,
    judge_process,
    judge_publish,
    seem_lost,
    without_a_line,
)
from services.auditor.sifting import accept_cases, process_cases, publish_cases
from services.auditor.stores import Application
from services.domain.arms import PUBLISHER_ARMS, ConsumerArm
from services.domain.audit import AuditRow
from services.domain.messages import ORDERS, Coordinates, digest
from tests.property.test_audit import TOPIC, Told, key, processes

OUTBOX = PUBLISHER_ARMS["outbox"]
OTHER_TOPIC = "refunds.v1"
VALUE = msgspec.json.encode({"order_id": "o", "customer_id": "c", "amount_cents": 5, "currency": "EUR"})
ANOTHER = msgspec.json.encode({"order_id": "o", "customer_id": "c", "amount_cents": 6, "currency": "EUR"})
MONEY = {VALUE: facts((5, "EUR", "c")), ANOTHER: facts((6, "EUR", "c")), b"\xff": facts((7, "EUR", "c"))}
LIVES = {"mine": "tried", "theirs": "another"}
few = st.integers(1, 9)


@contextmanager
def opened(run: str | None = None) -> Iterator[Bulk]:
    """Taken apart as ten million messages would be: several parts, and few messages at once."""
    with (
        TemporaryDirectory() as folder,
        patch.multiple(on_disk, _AT_ONCE=2, _BATCH=3, _BATCH_OF_A_PART=2),
        closing(Bulk(Path(folder), run, parts=3)) as bulk,
    ):
        yield bulk


def total(row: AuditRow, judgements: Sequence[Judgement[Any]]) -> tuple[AuditRow, dict[str, set[Any]]]:
    """What several judgements come to together."""
    listed: dict[str, set[Any]] = {}
    for one in judgements:
        one.settle()
        for state, keys in one.listed.items():
            listed.setdefault(state, set()).update(keys)
    (whole,) = rows_of([Case(one, lambda _: {}) for one in judgements]) or [row]
    return whole, {state: keys for state, keys in listed.items() if keys}


def same(cases: Sequence[Case], in_memory: Judgement[Any]) -> None:
    assert total(in_memory.row, [case.judgement for case in cases]) == total(in_memory.row, [in_memory])
    for case in cases:
        for name in case.judgement.applied:
            assert case.describe(name)["at"] is not None


def process_both_ways(
    bulk: Bulk, arm: ConsumerArm, effect: str, published: Published, holdings: Holdings, found: Sequence[Application]
) -> None:  # fmt: skip
    """The second look sees what the first saw."""
    firsts = {(TOPIC, 0): 2}
    bulk.set_committed(holdings.committed, firsts)
    for one in found:
        bulk.take_application(one)

    async def again(messages: Set[Key]) -> tuple[Holdings, Sequence[Application]]:
        return holdings, bulk.applications(messages)

    cases = asyncio.run(process_cases(bulk, arm, effect, [TOPIC, OTHER_TOPIC], holdings, LIVES, again))
    look = ProcessLook(holdings, taken(arm, effect, Known(published, LIVES, firsts), found))
    row = AuditRow(hop="process", arm=arm.name, effect=effect)
    suspects = seem_lost(effect, arm, published, look)
    same(cases, judge_process(row, arm, published, (look, look), suspects))


@settings(deadline=None, max_examples=25)
@given(processes(), st.booleans())
def test_whatever_became_of_the_records_the_row_is_that_of_the_checkers_in_memory(told: Told, per_record: bool) -> None:
    arm = ConsumerArm("tried", "", {"email": frozenset({"no_loss"})}, per_record=per_record)
    copies, recorded = told.published.copies, told.published.facts
    found = [
        Application(message, True, at, "mine", b"")
        for message in copies.keys()  # noqa: SIM118  # no dict
        for at in copies[message]
        for _ in range(told.applied.at.get(at, 0))
    ]
    with opened() as bulk:
        for message in copies.keys():  # noqa: SIM118  # no dict
            for at, fact in zip(copies[message], recorded[message], strict=True):
                bulk.take_record(Copy(message, at, "", fact, ("email",), False))
        process_both_ways(bulk, arm, "email", told.published, told.holdings, found)


@st.composite
def records(draw: st.DrawFn) -> list[Copy]:
    """Of a few messages, some of which have no id, several records, another payload, or no wish for a charge."""
    copies, offsets = [], {TOPIC: 0, OTHER_TOPIC: 0}
    for _ in range(draw(st.integers(0, 12))):
        topic = draw(st.sampled_from(list(offsets)))
        at = Coordinates(topic, 0, offsets[topic])
        offsets[topic] += 1
        message = at if draw(st.integers(0, 9)) == 0 else key(draw(few))
        wants = () if message is at else draw(st.sampled_from([(), ("charge",), ("charge", "email")]))
        value, run = draw(st.sampled_from([VALUE, VALUE, ANOTHER, b"\xff"])), draw(st.sampled_from(["r", "r", "other"]))
        copies.append(Copy(message, at, run, of_record(value, ORDERS.type, run), wants, draw(st.integers(0, 9)) == 0))
    return copies


@st.composite
def calls(draw: st.DrawFn) -> list[Application]:
    """Charges of a few messages, of strangers, and under what is no id; some of another amount or process."""
    named = st.one_of(few.map(key), st.sampled_from([key_of("no id"), key(77)]))
    found = []
    for _ in range(draw(st.integers(0, 12))):
        at = Coordinates(draw(st.sampled_from([TOPIC, OTHER_TOPIC])), 0, draw(st.integers(0, 12)))
        life = draw(st.sampled_from(["mine", "mine", "theirs", ""]))
        amount = draw(st.sampled_from([VALUE, VALUE, ANOTHER]))
        found.append(Application(draw(named), True, at, life, MONEY[amount]))
    return found


@settings(deadline=None, max_examples=40)
@given(records(), calls(), st.integers(0, 12))
def test_whoever_charged_whatever_the_row_is_that_of_the_checkers_in_memory(
    copies: list[Copy], found: list[Application], passed: int
) -> None:  # fmt: skip
    published = Published()
    with opened() as bulk:
        for copy in copies:
            published.take(copy)
            bulk.take_record(copy)
        holdings = Holdings({(TOPIC, 0): passed, (OTHER_TOPIC, 0): passed})
        process_both_ways(bulk, ConsumerArm("tried", "", {}), "charge", published, holdings, found)


@settings(deadline=None, max_examples=40)
@given(
    records(),
    st.dictionaries(few, st.sampled_from([VALUE, ANOTHER]), max_size=9),
    st.sets(few, max_size=2),
    st.sampled_from([None, "r"]),
    st.booleans(),
)
def test_whatever_was_published_the_row_is_that_of_the_checkers_in_memory(
    copies: list[Copy], promises: dict[int, bytes], pending: set[int], run: str | None, truncated: bool
) -> None:  # fmt: skip
    intents, outbox = Intents(), Outbox({key(number) for number in pending})
    for number, value in promises.items():
        intents.add_promise(key(number), f"k{number}", promise(digest(ORDERS.type, value), "r"))
    published = Published(run, intents.promised)
    second = PublishLook(outbox, Published())
    with opened(run) as bulk:
        bulk.take_intents(TOPIC, intents)
        for copy in copies:
            published.take(copy)
            if copy.key is not copy.at or run in (None, copy.run):
                bulk.take_record(copy)
        bulk.drop_records_of_others([TOPIC, OTHER_TOPIC])
        cases = publish_cases(bulk, "outbox", TOPIC, [TOPIC, OTHER_TOPIC], outbox, second, truncated=truncated)
        row = AuditRow(hop="publish", arm="outbox", effect="publication")
        looks = (PublishLook(outbox, published), second)
        same(cases, judge_publish(row, TOPIC, intents.promised.keys(), looks, truncated=truncated))


Outcomes = st.lists(st.sampled_from(["acknowledged", "refused", "unknown", "", "call"]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.text(min_size=1, max_size=3), Outcomes, max_size=9),
    st.lists(st.tuples(st.text(min_size=1, max_size=3), st.sampled_from(["r", "other"])), max_size=9),
    st.booleans(),
)
def test_whatever_clients_were_told_the_row_is_that_of_the_checkers_in_memory(
    told: dict[str, list[str]], made: list[tuple[str, str]], whole: bool
) -> None:  # fmt: skip
    answers, intents, runs = Answers(), Intents(), {facts(("r",))} if whole else set[bytes]()
    names = list(told) + [name for name, _ in made[:4]]
    for number, (name, run) in enumerate([*made, *((name, "r") for name in names[::2])]):
        intents.add(key(number), name, digest(ORDERS.type, VALUE), run)
    with opened() as bulk:
        for name, outcomes in told.items():
            for outcome in outcomes:
                if outcome in ("", "call"):
                    answers.called(name)
                    bulk.take_call(TOPIC, name)
                else:
                    answers.answered(name, outcome)  # type: ignore[arg-type]
                    bulk.take_answer(TOPIC, name, outcome)  # type: ignore[arg-type]
        bulk.take_call(OTHER_TOPIC, "of another topic")
        bulk.take_intents(TOPIC, intents)
        cases = accept_cases(bulk, OUTBOX, TOPIC, runs)
        row = AuditRow(hop="accept", arm="outbox", effect="intent")
        same(cases, judge_accept(row, answers, intents, without_a_line(answers, intents, runs)))
        uncalled = [name for name in intents.by_key.keys() if name not in answers.keys()]  # noqa: SIM118  # no dict
        assert bulk.uncalled(TOPIC) == sum(len(intents.by_key[name]) for name in uncalled)
        again = bulk.answers(TOPIC, list(told))
        assert {name: again.outcome(name) for name in again.keys()} == {n: answers.outcome(n) for n in told}  # noqa: SIM118


@settings(deadline=None, max_examples=25)
@given(records(), st.lists(st.tuples(st.sampled_from([TOPIC, "out"]), st.integers(0, 12)), max_size=12))
def test_an_output_is_of_the_record_that_it_came_from(copies: list[Copy], origins: list[tuple[str, int]]) -> None:
    published, places = Published(), [Coordinates(topic, 0, offset) for topic, offset in origins]
    arm = ConsumerArm("tried", "", {"output": frozenset({"no_loss"})}, per_record=True)
    with opened() as bulk:
        for copy in copies:
            published.take(copy)
            bulk.take_record(copy)
        of = published.places()
        for at in places:
            bulk.take_output(at)
        bulk.trace_outputs([TOPIC, OTHER_TOPIC])
        holdings = Holdings({(TOPIC, 0): 6, (OTHER_TOPIC, 0): 6})
        bulk.set_committed(holdings.committed, {})

        async def again(messages: Set[Key]) -> tuple[Holdings, Sequence[Application]]:
            return holdings, bulk.applications(messages)

        cases = asyncio.run(
            process_cases(bulk, arm, "output", [TOPIC, OTHER_TOPIC], holdings, {}, again)
        )  # fmt: skip
        found = [Application(of.get(at, at), True, at, "", b"") for at in places]
        look = ProcessLook(holdings, taken(arm, "output", Known(published, {}), found))
        row = AuditRow(hop="process", arm="tried", effect="output")
        same(cases, judge_process(row, arm, published, (look, look), seem_lost("output", arm, published, look)))


@pytest.mark.parametrize("run", [None, "r"])
def test_of_one_run_only_what_it_knows_is_kept(run: str | None) -> None:
    mine, strange, promised = key(1), key(2), key(3)
    with opened(run) as bulk:
        intents = Intents()
        intents.add(promised, "k", b"", "r")
        bulk.take_intents(TOPIC, intents)
        for offset, (message, of) in enumerate([(mine, "r"), (strange, "other"), (promised, "other")]):
            bulk.take_record(Copy(message, Coordinates(TOPIC, 0, offset), of, b"", (), False))
        bulk.drop_records_of_others([TOPIC])
        for message in (mine, strange, promised):
            bulk.take_application(Application(message, run is None, Coordinates(TOPIC, 0, 0), "", b""))
        bulk.drop_applications_of_others([TOPIC])
        left = {one.key for one in bulk.applications([mine, strange, promised])}
        assert bulk.promised([mine, strange, promised], [TOPIC]).keys() == {promised}
    assert left == ({mine, strange, promised} if run is None else {mine, promised})


HEALTHY, CHARGE = 7, MONEY[VALUE]
FACTS = {value: of_record(value, ORDERS.type, "r") for value in (VALUE, ANOTHER)}


class Spoiled(NamedTuple):
    """What is changed of the first of the healthy messages, and on which hops it is then no longer plain."""

    name: str
    hops: set[str]
    change: Callable[[Bulk, Copy, Application], None] = lambda *_: None
    record: Callable[[Copy], Copy] = lambda copy: copy
    call: Callable[[Application], Application] = lambda call: call
    held: bool = False
    passed: int = HEALTHY


def _again(bulk: Bulk, copy: Copy, _: Application) -> None:
    bulk.take_record(copy._replace(at=Coordinates(TOPIC, 0, HEALTHY)))


SPOILED = (
    Spoiled("nothing", set()),
    Spoiled("a second intent", {"accept"}, lambda bulk, *_: bulk.take_intents(TOPIC, _intent(99, "k0"))),
    Spoiled("a second record", {"publish", "process"}, _again, passed=HEALTHY + 1),
    Spoiled("an injected record", {"publish"}, record=lambda copy: copy._replace(injected=True)),
    Spoiled("another payload", {"publish", "process"}, record=lambda c: c._replace(facts=FACTS[ANOTHER])),
    Spoiled("another run", {"publish"}, record=lambda c: c._replace(facts=of_record(VALUE, ORDERS.type, "other"))),
    Spoiled("a second charge", {"process"}, lambda bulk, _, call: bulk.take_application(call)),
    Spoiled("another amount", {"process"}, call=lambda call: call._replace(facts=MONEY[ANOTHER])),
    Spoiled("another arm's process", {"process"}, call=lambda call: call._replace(life="theirs")),
    Spoiled("a charge for another message", {"process"}, call=lambda call: call._replace(key=key(77))),
    Spoiled("a record that wants none", {"process"}, record=lambda copy: copy._replace(wants=())),
    Spoiled("a record that waits", {"process"}, passed=HEALTHY - 1),
    Spoiled("a message that is held", {"publish", "process"}, held=True),
)  # fmt: skip


@pytest.mark.parametrize("spoiled", SPOILED, ids=lambda spoiled: spoiled.name)
def test_of_healthy_messages_every_one_is_plain_and_of_a_spoiled_one_nothing_is(spoiled: Spoiled) -> None:
    with opened() as bulk:
        for number in range(HEALTHY):
            bulk.take_call(TOPIC, f"k{number}")
            bulk.take_answer(TOPIC, f"k{number}", "acknowledged")
            bulk.take_intents(TOPIC, _intent(number, f"k{number}"))
            at = Coordinates(TOPIC, 0, HEALTHY - 1 - number)  # the first is the last on its partition
            copy = Copy(key(number), at, "r", FACTS[VALUE], ("charge",), False)
            call = Application(key(number), True, at, "mine", CHARGE)
            first = number == 0
            bulk.take_record(spoiled.record(copy) if first else copy)
            bulk.take_application(spoiled.call(call) if first else call)
            if first:
                spoiled.change(bulk, copy, call)
        bulk.set_committed({(TOPIC, 0): spoiled.passed}, {})
        bulk.hold([key(0)] if spoiled.held else [])
        plain = {
            "accept": sum(some.plain for some in bulk.accepted(TOPIC, set())),
            "publish": sum(some.plain for some in bulk.publications(TOPIC, [TOPIC])),
            "process": sum(some.plain for some in bulk.processed("charge", [TOPIC], ["theirs"])),
        }
    assert {hop: HEALTHY - many for hop, many in plain.items()} == {hop: int(hop in spoiled.hops) for hop in plain}


def _intent(number: int, name: str) -> Intents:
    one = Intents()
    one.add(key(number), name, digest(ORDERS.type, VALUE), "r")
    return one
