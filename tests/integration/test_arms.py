"""The consumer arms as real processes under SIGKILL, SIGSTOP, outages and bad records, on a lab of their own.

Every case sends its own records and looks at their ids only. Both arms read the same records: each case tries both.
"""

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from loadtest.nemesis import delete_group
from services.broker.reader import bounds, committed
from services.broker.topics import MAIN_TOPICS, topics_of
from services.domain.arms import CONSUMER_ARMS
from services.domain.messages import EFFECTS_HEADER, ORDERS, REFUNDS, RUN_HEADER, Kind, digest, record_headers
from services.domain.orders import Order, Refund
from services.letters.letters import Name, Selection, parse_name
from services.letters.redrive import LARGEST_BYTES, redrive
from services.relay.__main__ import REDRIVES
from services.relay.records import redelivery_of
from services.stack import client, control
from services.stack.nemesis import read_faults
from services.stack.parts import PARTS
from services.stack.prometheus import targets
from services.stack.provision import SERVICES
from services.storage.postgres import statements
from tests.conftest import free_home, say
from tests.ids import message_id
from tests.lettering import WINDOW_S, desk, park
from tests.waiting import until

ARMS = ("at_least_once", "effectively_once")
SESSION_S = 6.0
# What excuses a second effect, or an email of which nobody knows: the group, the provider or the ledger was too slow.
CHUNKS = ("offset.received", "offset.applied")
TROUBLE = ("offset.revoked", "message.deferred", "email.uncertain", "call.retried")
ALL_EFFECTS = "record,charge,email"
RUN = f"arms-{uuid4().hex[:8]}"

pytestmark = pytest.mark.timeout(900)


class Sent(msgspec.Struct, frozen=True):
    """A record as it lies on its topic."""

    id: UUID
    value: bytes
    at: str

    @property
    def partition(self) -> int:
        return int(self.at.split("/")[1])


class Bench:
    """A lab with both arms, and eyes on what they did."""

    def __init__(self, home: Any, payments: Any, provider: Any) -> None:
        self.home = home
        self.payments = payments
        self.provider = provider
        self.kafka = home.addresses()["LAB_KAFKA"]
        self._producer = Producer({"bootstrap.servers": self.kafka, "linger.ms": 5})

    async def reconnect(self) -> None:
        """New connections to both servers, after one of them died."""
        self.payments, self.provider = await databases(self.home)

    # -- records ------------------------------------------------------------------------------------------------------

    async def send(self, records: Iterable[tuple[Any, ...]]) -> list[str]:
        """Produce (topic, key, value, headers[, partition]) and return their coordinates, in order."""
        return await asyncio.to_thread(self._send, list(records))

    def _send(self, records: list[tuple[Any, ...]]) -> list[str]:
        done: dict[int, str] = {}

        def delivered(number: int, error: Any, message: Any) -> None:
            assert error is None, error
            done[number] = f"{message.topic()}/{message.partition()}/{message.offset()}"

        for number, (topic, key, value, headers, *place) in enumerate(records):
            where = {"partition": place[0]} if place else {}
            report = partial(delivered, number)
            self._producer.produce(topic, value, key, headers=headers, on_delivery=report, **where)
            self._producer.poll(0)
        assert self._producer.flush(60) == 0
        return [done[number] for number in range(len(records))]

    async def send_messages(self, count: int, effects: str, *, customers: int = 40) -> list[Sent]:
        """Produce `count` new messages, every fifth of them a refund, over all partitions."""
        records = [message(message_id(), number, effects, f"customer-{number % customers}") for number in range(count)]
        places = await self.send(records)
        return [Sent(id_of(record), record[2], at) for record, at in zip(records, places, strict=True)]

    # -- what the arms did --------------------------------------------------------------------------------------------

    async def applied(self, arm: str, effect: str, sent: Sequence[Sent]) -> Counter[UUID]:
        """How often each of these messages was applied; those that never were are missing."""
        ids = [s.id for s in sent]
        if effect == "record":
            rows = await self.payments.fetch(
                f"SELECT message_id, count(*) AS n FROM {arm}.records"  # noqa: S608  # the arms' own names
                " WHERE message_id = ANY ($1) AND status = 'applied' GROUP BY 1",
                ids,
            )
        else:
            rows = await self.provider.fetch(
                "SELECT message_id::uuid, count(*) AS n FROM applications"
                " WHERE account = $1 AND effect = $2 AND message_id = ANY ($3) GROUP BY 1",
                arm, effect, [str(i) for i in ids],
            )  # fmt: skip
        return Counter({row["message_id"]: row["n"] for row in rows})

    def exposed(self, process: str) -> str:
        """What Prometheus is told by a process now."""
        with urllib.request.urlopen(f"http://{targets(self.home, PARTS)[process]}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    async def letters(self, arm: str, places: Sequence[str]) -> dict[str, Any]:
        """Dead letters of these coordinates."""
        rows = await self.payments.fetch(f"SELECT * FROM {arm}.dead_letters")  # noqa: S608
        found = {f"{r['topic']}/{r['partition']}/{r['offset']}": r for r in rows}
        return {at: found[at] for at in places if at in found}

    async def email_states(self, sent: Sequence[Sent]) -> dict[UUID, str]:
        rows = await self.payments.fetch(
            "SELECT message_id, state FROM effectively_once.emails WHERE message_id = ANY ($1)", [s.id for s in sent]
        )
        return {row["message_id"]: row["state"] for row in rows}

    async def uncertain_emails(self, sent: Sequence[Sent]) -> set[UUID]:
        """Those of which nobody knows: only a call without an answer, or a sender's death, makes one."""
        return {id_ for id_, state in (await self.email_states(sent)).items() if state == "uncertain"}

    async def drained(self, *arms: str, within_s: float = 120) -> None:
        """Wait until the groups' committed positions are the topics' ends, and no email waits."""
        for arm in arms or ARMS:
            await until(partial(self._at_the_end, arm), f"{arm} to have read everything", within_s)
        await until(self._no_email_waits, "the emails to be settled", within_s)

    async def _at_the_end(self, arm: str) -> bool:
        """What was deferred is sent on before the arm's own offset: so the arm first, then its lane."""
        groups = {CONSUMER_ARMS[arm].group: MAIN_TOPICS, CONSUMER_ARMS[arm].lane_group: topics_of(CONSUMER_ARMS[arm])}
        for group, topics in groups.items():
            names = [topic.name for topic in topics if not topic.name.endswith(".dlq")]
            ends = (await asyncio.to_thread(bounds, self.kafka, names)).ends
            positions = await asyncio.to_thread(committed, self.kafka, group)
            if any(positions.get(partition, 0) < end for partition, end in ends.items()):
                return False
        return True

    async def _no_email_waits(self) -> bool:
        return not await self.payments.fetchval(
            "SELECT count(*) FROM effectively_once.emails WHERE state IN ('pending', 'claimed')"
        )

    # -- dead letters -------------------------------------------------------------------------------------------------

    async def redrive(self, sent: Sent) -> None:
        """Redrive the letter of this record in `effectively_once`; what the outbox then holds is sent as by a relay."""
        number = await self.payments.fetchval(
            "SELECT letter FROM effectively_once.dead_letters WHERE message_id = $1", sent.id
        )
        selection = Selection(arms=["effectively_once"], names=[Name("effectively_once", number)])
        outcome = await redrive(desk(self.payments, self.kafka), selection, lambda _: None, window_s=WINDOW_S)
        assert (outcome.changed, outcome.left_out) == (1, {})
        await self.send([await self.as_redriven(sent)])

    async def as_redriven(self, sent: Sent) -> tuple[Any, ...]:
        """The record that the relay makes of a redriven letter's row; this lab has no relay."""
        row = await self.payments.fetchrow(
            "SELECT position, message_id, shard, key, type, payload, headers::text, created_at FROM outbox"
            " WHERE message_id = $1", sent.id
        )  # fmt: skip
        return redelivery_of(tuple(row), REDRIVES.topics)

    # -- processes ----------------------------------------------------------------------------------------------------

    async def processes(self) -> dict[str, Any]:
        status = await asyncio.to_thread(client.status, self.home)
        return {process["name"]: process for process in status["processes"]}

    async def restarts(self, *names: str) -> dict[str, int]:
        now = await self.processes()
        return {name: now[name]["restarts"] for name in names}

    async def ready(self, within_s: float = 120) -> None:
        async def all_ready() -> bool:
            return all(process["ready"] for process in (await self.processes()).values())

        await until(all_ready, "every process to be ready", within_s)

    async def scale(self, replicas: int) -> None:
        for arm in ARMS:
            body = {"name": f"arm.{arm}", "replicas": replicas}
            await asyncio.to_thread(client.call, self.home, "POST", "/scale", body)
        await self.ready()

    async def act(self, action: str, name: str, *, hold: bool = False) -> None:
        await asyncio.to_thread(client.act, self.home, action, name, hold=hold)

    async def hold_down(self, name: str) -> None:
        """SIGKILL a process and keep it down."""
        await self.act("kill", name, hold=True)

        async def held() -> bool:
            return bool((await self.processes())[name]["state"] == "held")

        await until(held, f"{name} to be held down")

    async def arm(self, failpoint: str, action: str) -> None:
        await asyncio.to_thread(client.arm, self.home, failpoint, action)

    def events(self, process: str, name: str) -> list[dict[str, Any]]:
        """Log events of a process, all lives."""
        lines = self.home.log_file(process).read_text().splitlines()
        return [event for line in lines if f'"{name}"' in line and (event := json.loads(line))["event"] == name]

    def trouble(self) -> Counter[str]:
        """How often the arms and their lanes have said so far that something was too slow or failed."""
        processes = [f"{kind}.{arm}#0" for kind in ("arm", "retry") for arm in ARMS]
        return Counter({name: sum(len(self.events(process, name)) for process in processes) for name in TROUBLE})


def message(id_: UUID, number: int, effects: str, customer: str, *, amount: int = 100) -> tuple[Any, ...]:
    """A record as the relay makes it."""
    kind: Kind = REFUNDS if number % 5 == 4 else ORDERS
    order = f"{RUN}-{number}"
    payload = Order(order, customer, amount, "EUR") if kind is ORDERS else Refund(order, customer, amount, "EUR", "no")
    extra = [(EFFECTS_HEADER, effects), (RUN_HEADER, RUN)]
    headers = record_headers(message_id=id_, kind=kind, time=datetime.now(UTC), extra=extra)
    return kind.topic, customer.encode(), msgspec.json.encode(payload), headers


def id_of(record: tuple[Any, ...]) -> UUID:
    return UUID(dict(record[3])["ce_id"].decode())


def with_header(record: tuple[Any, ...], name: str, value: bytes | None) -> tuple[Any, ...]:
    """The record with a header changed."""
    return (*record[:3], [*without_header(record, name)[3], (name, value)])


def without_header(record: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """The record with a header left out."""
    return (*record[:3], [(n, v) for n, v in record[3] if n != name])


def lost(applied: Counter[UUID], sent: Sequence[Sent]) -> list[UUID]:
    return [s.id for s in sent if not applied[s.id]]


def duplicated(applied: Counter[UUID]) -> list[UUID]:
    return [id_ for id_, times in applied.items() if times > 1]


async def databases(home: Any) -> tuple[Any, Any]:
    addresses = home.addresses()
    return (
        await asyncpg.connect(f"{addresses['LAB_POSTGRES']}/payments"),
        await asyncpg.connect(f"{addresses['LAB_LEDGER']}/provider"),
    )


@pytest.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One lab for all cases: the servers, the provider and both arms, with faults allowed."""
    home = free_home(tmp_path_factory.mktemp("arms"))
    only = tuple(f"{kind}.{arm}" for kind in ("arm", "retry") for arm in ARMS)
    await asyncio.to_thread(partial(control.up, home, faults=True, seed=1, only=only, say=say))
    try:
        yield Bench(home, *await databases(home))
    finally:
        await asyncio.to_thread(control.down, home, say)


async def check(bench: Bench, sent: Sequence[Sent], effects: Sequence[str]) -> int:
    """What both arms promise. Returns how many effects `at_least_once` doubled: it may, when something failed."""
    doubled = 0
    for effect in effects:
        once = await bench.applied("effectively_once", effect, sent)
        missing = set(lost(once, sent)) - (await bench.uncertain_emails(sent) if effect == "email" else set())
        assert (missing, duplicated(once)) == (set(), []), f"effectively_once/{effect}"
        applied = await bench.applied("at_least_once", effect, sent)
        assert lost(applied, sent) == [], f"at_least_once/{effect}"
        doubled += len(duplicated(applied))
    return doubled


async def calmly(bench: Bench, case: Callable[[Bench], Awaitable[list[str]]]) -> None:
    """A case returns what was not exact: none while nothing fails. One that met trouble is tried again with new ids."""
    for _ in range(4):
        before = bench.trouble()
        if not (inexact := await case(bench)):
            return
        assert bench.trouble() != before, inexact
    pytest.fail(f"four times something was too slow or failed: {inexact}, {bench.trouble()}")


async def test_every_effect_of_every_message_happens_once(bench: Bench) -> None:
    await calmly(bench, _every_effect_once)


async def _every_effect_once(bench: Bench) -> list[str]:
    told = {arm: [len(bench.events(f"arm.{arm}#0", name)) for name in CHUNKS] for arm in ARMS}
    sent = await bench.send_messages(300, ALL_EFFECTS)
    plain = await bench.send_messages(2000, "record")
    await bench.drained()
    doubled = await check(bench, sent, ("record", "charge", "email")) + await check(bench, plain, ("record",))
    inexact = [f"{doubled} effects of at_least_once are doubled"] if doubled else []
    for arm in ARMS:
        assert not await bench.applied(arm, "charge", plain)
        assert set(bench.events(f"arm.{arm}#0", "offset.received")[0]) >= {
            "topic", "partition", "first_offset", "last_offset", "count", "life",
        }  # fmt: skip
        chunks = [bench.events(f"arm.{arm}#0", name)[n:] for name, n in zip(CHUNKS, told[arm], strict=True)]
        received, applied = (sum(event["count"] for event in events) for events in chunks)
        inexact += [f"{arm} received {received} and applied {applied}"] if received != applied else []
        assert bench.events(f"arm.{arm}#0", "offset.committed")[-1]["positions"]
    states = set((await bench.email_states(sent)).values())
    return inexact + ([f"emails are {states}"] if states != {"sent"} else [])


async def test_a_message_that_dies_in_every_gap_in_turn_is_applied_all_the_same(bench: Bench) -> None:
    gaps = {
        "process.after_read": ARMS,
        "process.after_reserve_before_charge": ("effectively_once",),
        "process.after_charge_before_record": ARMS,
        "process.after_record_before_commit": ARMS,
    }
    names = [f"arm.{arm}#0" for arm in ARMS]
    before, told = await bench.restarts(*names), len(read_faults(bench.home.nemesis_log))
    missing = {(failpoint, f"arm.{arm}#0") for failpoint, arms in gaps.items() for arm in arms}
    sent: list[Sent] = []
    for _ in range(4):  # a process that has no answer within 5 s does not die
        for failpoint, name in missing:
            await bench.arm(failpoint, f"kill count=1 arm={name.removesuffix('#0')}")
        sent += await bench.send_messages(60, ALL_EFFECTS)
        await bench.drained(within_s=300)
        assert await _spent(bench) >= {(failpoint, name.removesuffix("#0")) for failpoint, name in missing}
        deaths = await _deaths(bench, names, told)
        if not (missing := missing - set(deaths)):
            break
    assert not missing, "they were struck and lived on"
    after = await bench.restarts(*names)
    assert {name: after[name] - before[name] for name in names} == Counter(name for _, name in deaths)
    for effect in ("record", "charge"):
        applied = {arm: await bench.applied(arm, effect, sent) for arm in ARMS}
        assert (lost(applied["effectively_once"], sent), duplicated(applied["effectively_once"])) == ([], []), effect
        assert lost(applied["at_least_once"], sent) == [], effect
        assert duplicated(applied["at_least_once"]), effect
    emails, states = await bench.applied("effectively_once", "email", sent), await bench.email_states(sent)
    assert not duplicated(emails)
    assert states == {s.id: "sent" if states[s.id] == "sent" else "uncertain" for s in sent}
    assert all(emails[id_] for id_, state in states.items() if state == "sent")

    ids = {str(s.id) for s in sent}
    decisions = [e for e in bench.events(names[1], "dedup.decision") if e["message.id"] in ids]
    assert {(e["decision"], e["reason"]) for e in decisions} >= {("resumed", "redelivery"), ("duplicate", "redelivery")}
    for event in decisions:
        assert set(event) >= {"dedup.key", "message.id", "at", "first_seen", "first_seen_time"}
        assert event["at"] == event["first_seen"]
    hits = await bench.payments.fetchval(
        "SELECT count(*) FROM effectively_once.dedup_hits WHERE message_id = ANY ($1)", [s.id for s in sent]
    )
    assert hits >= len(decisions) > 0  # a kill may come between a row and its line in the log


async def _spent(bench: Bench) -> set[tuple[str, str]]:
    """Failpoint and owner of what has struck as often as it was to."""
    armed = (await asyncio.to_thread(client.failpoints, bench.home))["armed"]
    return {(one["failpoint"], one["arm"]) for one in armed if one["spent"]}


async def _deaths(bench: Bench, names: Sequence[str], told: int) -> list[tuple[str, str]]:
    """Failpoint and process of each death, after `told` faults of the past: one death a pid, of what struck it last."""
    kills = [fault for fault in read_faults(bench.home.nemesis_log)[told:] if fault.fault == "kill"]
    last = {(kill.target, kill.details["pid"]): kill.details["failpoint"] for kill in kills if kill.by == "failpoint"}
    now = await bench.processes()
    return [(at, name) for (name, pid), at in last.items() if name in names and pid != now[name]["pid"]]


async def test_an_email_whose_sender_died_is_uncertain_and_never_sent_again(bench: Bench) -> None:
    await bench.arm("process.after_email_claimed_before_sent", "kill count=1 arm=effectively_once")
    sent = await bench.send_messages(10, ALL_EFFECTS)
    await bench.drained()
    states = await bench.email_states(sent)
    uncertain = await bench.uncertain_emails(sent)
    assert len(states) == len(sent)
    assert uncertain

    def told() -> dict[UUID, dict[str, Any]]:
        processes = ("arm.effectively_once#0", "retry.effectively_once#0")  # whichever looks first
        return {UUID(e["message.id"]): e for name in processes for e in bench.events(name, "email.uncertain")}

    async def logged() -> bool:  # the row is written first, then the line
        return uncertain <= told().keys()

    await until(logged, "each uncertain email to be in the log")
    unanswered = {id_ for id_, event in told().items() if event["claimed_by"] == event["life"]}  # it may be sent
    emails = await bench.applied("effectively_once", "email", sent)
    assert set(emails) - unanswered == set(states) - uncertain
    assert not duplicated(emails)
    await check(bench, sent, ("record", "charge"))


async def test_a_redrive_has_a_refused_email_sent_and_never_an_uncertain_one(bench: Bench) -> None:
    async def ended_as(state: str, action: str) -> Sent:
        await bench.arm("process.after_email_claimed_before_sent", f"{action} count=1 arm=effectively_once")
        (sent,) = await bench.send_messages(1, ALL_EFFECTS)
        await bench.drained()
        assert await bench.email_states([sent]) == {sent.id: state}
        return sent

    refused = await ended_as("refused", "error:http_400")
    assert set(await bench.letters("effectively_once", [refused.at])) == {refused.at}
    await bench.redrive(refused)
    await bench.drained()
    assert await bench.email_states([refused]) == {refused.id: "sent"}

    # a letter about an email of which nobody knows: its sender died between the letter and the settling
    uncertain = await ended_as("uncertain", "error:timeout")
    topic, partition, offset = uncertain.at.split("/")
    await bench.payments.execute(
        """INSERT INTO effectively_once.dead_letters (topic, partition, "offset", message_id, reason, detail, life)
           VALUES ($1, $2, $3, $4, 'refused', 'email', gen_random_uuid())""",
        topic, int(partition), int(offset), uncertain.id,
    )  # fmt: skip
    await bench.redrive(uncertain)
    await bench.drained()
    assert await bench.email_states([uncertain]) == {uncertain.id: "uncertain"}

    for copy_of in (refused, uncertain):  # the relay may publish a row twice
        await bench.send([await bench.as_redriven(copy_of)])
    await bench.drained()
    emails = await bench.applied("effectively_once", "email", [refused, uncertain])
    assert emails == {refused.id: 1}
    await check(bench, [refused, uncertain], ("record", "charge"))
    letters = await bench.letters("effectively_once", [refused.at, uncertain.at])
    assert [letter["state"] for letter in letters.values()] == ["redriven", "redriven"]

    # its sender was only slow: it was refused after all, and its letter was redriven before that was settled
    claimant = await bench.payments.fetchval(
        "SELECT claimed_by FROM effectively_once.emails WHERE message_id = $1", uncertain.id
    )
    settle = statements(SERVICES / "payments/statements.sql")["settle_emails"].replace("{schema}", "effectively_once")
    await bench.payments.execute(settle, [uncertain.id], ["refused"], claimant)
    await bench.drained()
    assert await bench.applied("effectively_once", "email", [uncertain]) == {uncertain.id: 1}


async def test_a_letter_that_has_become_too_large_to_send_stays_parked(bench: Bench) -> None:
    """What the table keeps is weighed as well: its size comes from the database."""
    name = await park(bench.payments, 1, "at_least_once", topic="too.large", value=b"x" * LARGEST_BYTES)
    selection = Selection(arms=["at_least_once"], names=[parse_name(name)])
    outcome = await redrive(desk(bench.payments, bench.kafka), selection, lambda _: None, window_s=WINDOW_S)
    assert (outcome.changed, list(outcome.left_out)) == (0, [name])
    assert (await bench.letters("at_least_once", ["too.large/0/1"]))["too.large/0/1"]["state"] == "parked"
    await bench.payments.execute("DELETE FROM at_least_once.dead_letters WHERE topic = 'too.large'")


async def test_copies_conflicts_and_undecodable_records_among_good_ones(bench: Bench) -> None:
    await calmly(bench, _copies_among_good_ones)


async def _copies_among_good_ones(bench: Bench) -> list[str]:
    def new(number: int) -> tuple[Any, ...]:
        return message(message_id(), number, ALL_EFFECTS, "one-customer")  # one partition, in order

    good = [new(5 * n) for n in range(12)]
    copied, told_otherwise = good[3], good[7]
    other_value = message(id_of(told_otherwise), 35, ALL_EFFECTS, "one-customer", amount=999)
    bad = {
        "no_message_id": without_header(new(0), "ce_id"),
        "no_message_id: null id": with_header(new(0), "ce_id", None),
        "unknown_type": with_header(new(0), "ce_type", b"lab.order.placed.v9"),
        "undecodable": (*new(0)[:2], b'{"order_id": "cut', new(0)[3]),
        "undecodable: null value": (*new(0)[:2], None, new(0)[3]),
        "undecodable: NUL in run": with_header(new(0), RUN_HEADER, b"a\0b"),
        "invalid": (*new(0)[:2], b'{"order_id": "a"}', new(0)[3]),
    }
    chunk = [*good[:4], copied, *list(bad.values())[:3], *good[4:8], other_value, *list(bad.values())[3:], *good[8:]]
    places = dict(zip(map(id, chunk), await bench.send(chunk), strict=False))
    (copy_at, late_conflict_at) = await bench.send([copied, other_value])  # later, at other offsets
    await bench.drained()

    sent = [Sent(id_of(record), record[2], "") for record in good]
    effects, inexact = ("record", "charge", "email"), list[str]()
    await check(bench, sent, effects)
    if uncertain := await bench.uncertain_emails(sent):
        inexact.append(f"{len(uncertain)} emails are uncertain")
    for effect in effects:  # no dedup: copies are effects
        doubled = set(duplicated(await bench.applied("at_least_once", effect, sent)))
        assert doubled >= {id_of(copied), id_of(told_otherwise)}, effect
        if len(doubled) > 2:
            inexact.append(f"at_least_once/{effect}: {len(doubled)} are doubled")

    for reason, record in bad.items():
        for arm in ARMS:
            (letter,) = (await bench.letters(arm, [places[id(record)]])).values()
            assert letter["reason"] == reason.partition(":")[0], arm
            assert (letter["message_id"] is None) is reason.startswith("no_message_id")
    conflicts = await bench.letters("effectively_once", [places[id(other_value)], late_conflict_at])
    assert len(conflicts) == 2
    for letter in conflicts.values():
        assert letter["reason"] == "conflict"
        assert digest(ORDERS.type, other_value[2]).hex() in letter["detail"]
        assert digest(ORDERS.type, told_otherwise[2]).hex() in letter["detail"]
    assert not await bench.letters("effectively_once", [copy_at])
    return inexact


async def test_an_absent_a_silent_and_a_failing_provider_cost_nothing(bench: Bench) -> None:
    before = await bench.restarts("arm.at_least_once#0", "arm.effectively_once#0")

    def in_vain(reason: str) -> dict[str, int]:
        """How often each arm has called in vain so far, for this reason."""
        events = {arm: bench.events(f"arm.{arm}#0", "message.deferred") for arm in ARMS}
        return {arm: sum(event["reason"] == reason for event in found) for arm, found in events.items()}

    async def sent_in_vain(reason: str) -> list[Sent]:
        """Send messages, and wait until each arm has called for some of them in vain."""
        before = in_vain(reason)
        sent = await bench.send_messages(40, "record,charge")

        async def deferred() -> bool:
            return all(count >= before[arm] + 5 for arm, count in in_vain(reason).items())

        await until(deferred, f"calls to fail for {reason}")
        return sent

    def circuits(opened: int) -> bool:
        """Whether each arm's own process says so of its circuit."""
        return all(f'delivery_circuit_open{{arm="{arm}"}} {opened}.0' in bench.exposed(f"arm.{arm}#0") for arm in ARMS)

    await bench.hold_down("provider")
    absent = await sent_in_vain("connection")
    await until(lambda: circuits(1), "the circuits to open")
    await bench.act("restart", "provider")
    await bench.ready()
    await bench.drained()
    await until(lambda: circuits(0), "the circuits to close")

    await bench.act("freeze", "provider")
    silent = await sent_in_vain("timeout")
    await bench.act("thaw", "provider")
    await bench.drained()

    await bench.hold_down("ledger")  # the provider's own database: it answers 503
    failing = await sent_in_vain("provider_error")
    await bench.act("restart", "ledger")
    await bench.ready()
    await bench.reconnect()
    await bench.drained()
    await check(bench, [*absent, *silent, *failing], ("record", "charge"))
    assert await bench.restarts("arm.at_least_once#0", "arm.effectively_once#0") == before
    letters = await bench.payments.fetchval("SELECT count(*) FROM at_least_once.dead_letters WHERE reason = 'attempts'")
    assert letters == 0, "an outage ends no message in the dead letters"


async def test_two_replicas_one_killed_then_one_frozen_beyond_its_session(bench: Bench) -> None:
    await bench.scale(2)
    first = await bench.send_messages(400, "record,charge")
    for arm in ARMS:
        await bench.hold_down(f"arm.{arm}#1")
    second = await bench.send_messages(400, "record,charge")
    await bench.drained()  # by the survivor: what it took over is held down
    await check(bench, [*first, *second], ("record", "charge"))

    for arm in ARMS:
        await bench.act("restart", f"arm.{arm}#1")
    await bench.ready()
    third = await bench.send_messages(600, "record,charge")
    for arm in ARMS:
        await bench.act("freeze", f"arm.{arm}#0")  # a zombie, with charges in the air
    fourth = await bench.send_messages(200, "record,charge")
    await bench.drained()  # by the other replica: the frozen one was put out of the group
    for arm in ARMS:
        await bench.act("thaw", f"arm.{arm}#0")
    fifth = await bench.send_messages(200, "record,charge")
    await bench.ready()
    await bench.drained()
    await check(bench, [*third, *fourth, *fifth], ("record", "charge"))


async def test_a_replica_that_is_asked_to_end_leaves_at_once_with_everything_finished_committed(bench: Bench) -> None:
    before = await bench.restarts("arm.at_least_once#0", "arm.effectively_once#0")
    for _ in range(4):  # one that meets a pause of seconds shows nothing
        if not (unclean := await _leave(bench)):
            break
    assert not unclean
    assert await bench.restarts("arm.at_least_once#0", "arm.effectively_once#0") == before


async def _leave(bench: Bench) -> list[str]:
    """A second replica of each arm joins, works and is asked to end. Returns what was not as in a clean end."""
    await bench.scale(2)
    unclean: list[str] = []
    sending = asyncio.create_task(bench.send_messages(20_000, "record", customers=500))
    replicas = [f"arm.{arm}#1" for arm in ARMS]
    received = {name: len(bench.events(name, "offset.received")) for name in replicas}
    await until(lambda: _more(bench, received), "both to be in the middle of it")
    for arm in ARMS:
        body = {"name": f"arm.{arm}", "replicas": 1}
        await asyncio.to_thread(client.call, bench.home, "POST", "/scale", body)
        members = len(await asyncio.to_thread(_members, bench.kafka, CONSUMER_ARMS[arm].group))
        now = datetime.now(UTC)
        ended = [e for e in bench.events("supervisor", "part.exited") if e["part"] == f"arm.{arm}#1"][-1]
        later_s = (now - datetime.fromisoformat(ended["time"])).total_seconds()
        if (ended["code"], members) != (0, 1) or later_s > SESSION_S / 2:  # else the group had waited it out
            unclean.append(f"{arm}: code {ended['code']}, {members} members {later_s:.1f} s later")
    sent = await sending
    await bench.drained()
    if doubled := await check(bench, sent, ("record",)):
        unclean.append(f"at_least_once doubled {doubled}")
    return unclean


async def _more(bench: Bench, received: dict[str, int]) -> bool:
    return all(len(bench.events(name, "offset.received")) > count for name, count in received.items())


def _members(bootstrap: str, group: str) -> Sequence[Any]:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (future,) = admin.describe_consumer_groups([group], request_timeout=10).values()
    members: Sequence[Any] = future.result(timeout=15).members
    return members


@pytest.mark.parametrize("server", ["postgres", "kafka"])
async def test_arms_outlive_the_death_of_a_server(bench: Bench, server: str) -> None:
    names = [f"arm.{arm}#0" for arm in ARMS]
    before = await bench.restarts(*names)
    first = await bench.send_messages(3000, "record", customers=500)
    charged = await bench.send_messages(100, "record,charge")
    deaths = (await bench.restarts(server))[server]
    await bench.act("kill", server)

    async def back() -> bool:
        process = (await bench.processes())[server]
        return bool(process["restarts"] > deaths and process["ready"])

    await until(back, f"{server} to be back")
    await bench.reconnect()
    second = await bench.send_messages(300, "record,charge")
    await bench.drained()
    await check(bench, [*first, *charged, *second], ("record",))
    await check(bench, [*charged, *second], ("charge",))
    assert await bench.restarts(*names) == before, "an arm was restarted"


async def test_a_group_whose_offsets_somebody_deleted_reads_the_log_from_its_begin(bench: Bench) -> None:
    sent = await bench.send_messages(60, "record,charge")
    await bench.drained()
    for arm in ARMS:
        await bench.hold_down(f"arm.{arm}#0")
        await asyncio.to_thread(delete_group, bench.kafka, CONSUMER_ARMS[arm].group)
        await bench.act("restart", f"arm.{arm}#0")
    await bench.ready()
    later = await bench.send_messages(20, "record,charge")
    await bench.drained()
    await check(bench, [*sent, *later], ("record", "charge"))
    for effect in ("record", "charge"):
        again = await bench.applied("at_least_once", effect, sent)
        assert set(duplicated(again)) == {message.id for message in sent}, "it has no memory"
