"""Faults on a running lab: allowed or not, armed, acting, spent, cleared, and their windows in the history."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import aiohttp
import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from loadtest.data_faults import MAKERS, header, recent, uuid7
from services.domain.messages import INJECTED_HEADER, ORDERS, record_headers
from services.stack import client, control
from services.stack.home import Home
from services.stack.nemesis import Fault, read_faults
from services.stack.parts import PARTS
from tests.conftest import Lab, free_home, say

CHARGE = {"message_id": "m", "customer_id": "c-1", "amount_cents": 1999, "currency": "EUR"}


def ask(home: Home, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
    """What the supervisor answers; without a token that is given, the lab's own."""
    headers = {"Authorization": f"Bearer {home.secret('token') if token is None else token}"}
    data = None if body is None else msgspec.json.encode(body)
    request = Request(home.supervisor_url + path, data, headers, method=method)  # noqa: S310
    try:
        with urlopen(request) as response:  # noqa: S310
            return response.status, msgspec.json.decode(response.read())
    except HTTPError as error:
        return error.code, msgspec.json.decode(error.read())


pytestmark = pytest.mark.timeout(900)
ARMING = {"failpoint": "publish.after_fetch", "action": "kill"}
DATA = {"kind": "poison", "topic": "orders.v1", "count": 1}
CHANGES = (("POST", "/failpoints", ARMING), ("DELETE", "/failpoints", None), ("POST", "/faults/data", DATA))


# --- a lab without faults ---


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab, however small, that was started without faults."""
    home = free_home(tmp_path_factory.mktemp("calm"))
    control.up(home, faults=False, seed=1, only=("ledger",), say=say)
    yield Lab(home)
    control.down(home, say)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]} {change[1]}")
def test_without_faults_nothing_can_be_armed_cleared_or_injected(calm: Lab, change: tuple[str, str, Any]) -> None:
    status, answer = ask(calm.home, *change)
    assert status == 403
    assert "started without faults" in answer["error"]
    assert read_faults(calm.home.nemesis_log) == []


@pytest.mark.parametrize(
    "words",
    [
        "fault arm publish.after_fetch kill",
        "fault clear publish.after_fetch",
        "fault inject poison",
        "fault tamper remove effectively_once",
    ],
)
def test_the_command_line_of_a_lab_without_faults_says_so(calm: Lab, words: str) -> None:
    calm.cli(*words.split(), exits=2)
    listed = json.loads(calm.cli("fault", "list", "--json"))
    assert listed["allowed"] is False
    assert not any(point["armed"] for point in listed["failpoints"])


def test_what_the_environment_arms_is_armed_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Lab(free_home(tmp_path))
    monkeypatch.setenv(
        "LAB_FAILPOINTS", "publish.after_fetch=kill nth=3; provider.before_applying=error:http_500 p=0.5"
    )
    small.cli("up", "--only", "ledger", exits=2)  # without --faults
    assert small.home.read_state() is None
    small.cli("up", "--faults", "--only", "ledger")
    try:
        armed = {point["failpoint"]: point["action"] for point in client.failpoints(small.home)["armed"]}
        assert armed == {"publish.after_fetch": "kill nth=3", "provider.before_applying": "error:http_500 p=0.5"}
        assert [(f.fault, f.target, f.by) for f in read_faults(small.home.nemesis_log)] == [
            ("arm", name, "environment") for name in armed
        ]
    finally:
        small.cli("down")


# --- a lab with faults ---


@pytest.fixture
def armed(lab: Lab, swept: None) -> Iterator[Lab]:
    """The lab, everything ready, nothing armed before and after."""
    lab.ready()
    client.clear(lab.home)
    yield lab
    for process in client.status(lab.home)["processes"]:
        if process["state"] == "frozen":
            client.act(lab.home, "thaw", process["name"])
    client.clear(lab.home)


@pytest.fixture
def faults(lab: Lab) -> Callable[[], list[Fault]]:
    """The faults that began after the test did."""
    before = len(read_faults(lab.home.nemesis_log))
    return lambda: read_faults(lab.home.nemesis_log)[before:]


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize(
    "change",
    [*CHANGES, ("GET", "/failpoints", None), ("GET", "/failpoints/armed?process=relay%230&after=-1", None),
     ("POST", "/failpoints/pass", {"failpoint": "publish.after_fetch", "process": "relay#0"}),
     ("POST", "/process/kill", {"names": ["relay#0"]})],
    ids=lambda change: f"{change[0]} {change[1]}",
)  # fmt: skip
def test_with_faults_the_labs_token_is_asked_for(
    lab: Lab, faults: Callable[[], list[Fault]], change: tuple[str, str, Any], token: str
) -> None:
    before = ask(lab.home, "GET", "/failpoints")[1]["armed"]
    assert ask(lab.home, *change, token=token)[0] == 401
    assert faults() == []
    after = ask(lab.home, "GET", "/failpoints")[1]["armed"]
    assert [(point["failpoint"], point["action"]) for point in after] == [
        (point["failpoint"], point["action"]) for point in before
    ]


def test_what_is_armed_is_listed_replaced_and_cleared_with_its_window(
    armed: Lab, faults: Callable[[], list[Fault]]
) -> None:
    name = "process.after_email_claimed_before_sent"
    armed.cli("fault", "arm", name, "delay:5", "p=0.5", "arm=effectively_once")
    armed.cli("fault", "arm", name, "delay:7 nth=2 arm=effectively_once")
    (point,) = [p for p in json.loads(armed.cli("fault", "list", "--json"))["failpoints"] if p["name"] == name]
    (entry,) = point["armed"]
    assert (entry["action"], entry["spent"]) == ("delay:7 nth=2 arm=effectively_once", False)
    first, second = faults()
    assert first.ended is not None
    assert second.ended is None
    armed.cli("fault", "clear", name)
    armed.cli("fault", "clear", name)  # nothing is armed there any more, and that is fine
    first, second = faults()
    assert (first.fault, first.target, first.by) == ("arm", name, "cli")
    assert second.ended is not None
    assert second.details["action"] == "delay:7 nth=2 arm=effectively_once"


async def test_the_provider_fails_for_one_account_until_the_count_is_spent(
    armed: Lab, faults: Callable[[], list[Fault]]
) -> None:
    name = "provider.after_applying_before_answer"
    arm = ("error:http_500", "count=2", "arm=effectively_once")
    await asyncio.to_thread(armed.arm, name, *arm)
    run = f"t-{random.getrandbits(40):x}"
    url = armed.home.http_url(PARTS["provider"]) + "/v1/charges"
    seen = []
    async with aiohttp.ClientSession(headers={"Lab-Record": "orders.v1/0/0"}) as session:
        for account in ("at_least_once", "effectively_once", "effectively_once", "effectively_once"):
            body = {**CHARGE, "account": account, "message_id": run, "customer_id": run}
            for _ in range(4):
                async with session.post(url, json=body) as response:
                    problem = await response.json()
                if response.status != 503 or problem["type"].endswith(":injected"):
                    break  # else its database did not answer: the call ended before it came to the failpoint
            seen.append(response.status)
    assert seen == [201, 500, 500, 201]
    (fault,) = [fault for fault in faults() if fault.fault == "arm"]
    assert fault.ended is not None
    assert fault.details["acted"] == 2


def test_a_kill_at_a_failpoint_is_a_fault_until_the_process_is_ready_again(
    armed: Lab, faults: Callable[[], list[Fault]]
) -> None:
    before = armed.status()["relay#0"]
    armed.cli("fault", "arm", "publish.after_fetch", "kill", "count=1")
    put_order(armed.home)
    armed.until(lambda: len(faults()) == 2 and faults()[1].ended, "the relay to be killed and to be back")
    arm, kill = faults()
    assert (kill.fault, kill.target, kill.by) == ("kill", "relay#0", "failpoint")
    assert kill.details["failpoint"] == "publish.after_fetch"
    assert kill.details["pid"] == before["pid"]
    assert arm.ended is not None
    assert kill.ended is not None
    assert kill.ended - kill.started > 1  # a restart waits two scrapes
    assert armed.status()["relay#0"]["restarts"] == before["restarts"] + 1


def put_order(home: Home) -> None:
    """One order over HTTP."""
    number = f"t-{random.getrandbits(40):x}"
    order = {"order_id": number, "customer_id": number, "amount_cents": 100, "currency": "EUR"}
    headers = {"Idempotency-Key": number, "Content-Type": "application/json"}
    url = home.http_url(PARTS["orders"]) + "/orders"
    with urlopen(Request(url, msgspec.json.encode(order), headers)) as response:  # noqa: S310
        assert response.status == 201


def test_processes_are_struck_at_once_or_not_at_all(armed: Lab, faults: Callable[[], list[Fault]]) -> None:
    names = ("relay#0", "provider", "postgres")
    before = armed.status()
    armed.cli("kill", "relay#0", "nobody", "provider", exits=2)
    armed.cli("kill", "relay#0", "provider", "relay#7", exits=1)
    assert {name: armed.status()[name]["pid"] for name in names} == {name: before[name]["pid"] for name in names}
    assert faults() == []

    armed.cli("kill", *names, "relay")  # `relay` is relay#0 once more: it dies once
    assert sorted(fault.target for fault in faults()) == sorted(names)
    armed.until(lambda: all(fault.ended for fault in faults()), "the killed to be ready again", timeout_s=180)
    assert max(fault.started for fault in faults()) < min(fault.ended or 0 for fault in faults()), "not at once"
    after = armed.status()
    for name in names:
        assert after[name]["restarts"] == before[name]["restarts"] + 1, name


def test_a_freeze_lasts_until_the_thaw_and_a_restart_until_it_is_ready(
    armed: Lab, faults: Callable[[], list[Fault]]
) -> None:
    armed.cli("freeze", "orders", "refunds")
    armed.cli("freeze", "orders", exits=1)
    armed.cli("thaw", "orders", "refunds", "relay", exits=1)
    assert [armed.status()[name]["state"] for name in ("orders", "refunds")] == ["frozen", "frozen"]
    assert [(f.fault, f.ended) for f in faults()] == [("freeze", None), ("freeze", None)]
    armed.cli("thaw", "orders", "refunds")
    armed.until(lambda: all(fault.ended for fault in faults()), "the freezes to be over")
    armed.cli("restart", "refunds")
    armed.until(lambda: len(faults()) == 3 and faults()[2].ended, "refunds to be ready again")
    assert (faults()[2].fault, faults()[2].by) == ("restart", "cli")


# --- bad data ---


def prepare(kafka: str, run: str) -> UUID:
    """An earlier order of a run of the test's own on the topic; returns its message id."""
    message_id = uuid7(int(datetime.now(UTC).timestamp() * 1000), random.Random())
    order = {"order_id": run, "customer_id": run, "amount_cents": 100, "currency": "EUR"}
    headers = record_headers(
        message_id=message_id, kind=ORDERS, time=datetime.now(UTC), extra=[("lab-effects", "record"), ("lab-run", run)]
    )
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce("orders.v1", msgspec.json.encode(order), run, headers=headers)
    assert producer.flush(60) == 0
    return message_id


@pytest.mark.parametrize("kind", MAKERS)
def test_a_bad_record_lies_marked_on_the_topic_and_in_the_log(
    armed: Lab, faults: Callable[[], list[Fault]], kind: str
) -> None:
    kafka, run = armed.home.addresses()["LAB_KAFKA"], f"t-{random.getrandbits(40):x}"
    message_id = prepare(kafka, run)
    words = ("fault", "inject", kind, "--run", run, "--count", "2", "--seed", "7", "--json")
    answer = json.loads(armed.cli(*words))
    assert (answer["kind"], answer["topic"], answer["seed"]) == (kind, "orders.v1", 7)
    assert len(answer["injected"]) == 2
    for record in answer["injected"]:
        assert record["run"] == run
        if kind == "poison":
            assert record["message_id"] is None
        else:
            assert (record["message_id"] == str(message_id)) == (kind in ("conflict", "duplicate"))
        headers = headers_at(kafka, record["partition"], record["offset"])
        assert header(headers, INJECTED_HEADER) == kind
    logged = [json.loads(line) for line in armed.home.injected_log.read_text().splitlines()]
    assert logged[-2:] == answer["injected"]
    (fault,) = faults()
    assert (fault.fault, fault.target) == ("data", "orders.v1")
    assert fault.details == {"kind": kind, "count": 2}
    assert len(recent(kafka, "orders.v1", run)) == 1  # what was injected is nobody's earlier record


def headers_at(kafka: str, partition: int, offset: int) -> Any:
    """The headers of one record."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition("orders.v1", partition, offset)])
    (message,) = consumer.consume(1, 60)
    consumer.close()
    assert message.offset() == offset
    return message.headers()


def test_without_an_earlier_record_nothing_is_injected(armed: Lab, faults: Callable[[], list[Fault]]) -> None:
    armed.cli("fault", "inject", "duplicate", "--run", "no-such-run", exits=1)
    assert faults() == []
