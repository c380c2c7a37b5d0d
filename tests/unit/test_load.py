"""What an answer says of an intent, what a ledger says of a key, and what the plan may be."""

import socket
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.faults import send_and_give_up
from loadtest.ledger import Answer, Ledger, Line, Outcome, outcome_of, outcomes, read, sum_up, together
from loadtest.plan import ClientFault, Plan, checked, default_effects_share, default_run
from loadtest.run import plan_for
from loadtest.totals import Totals, quantile, read_snapshot, write_snapshot
from services.broker.reader import Bounds
from services.stack.drain import Waiting, behind
from services.stack.home import Home


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(201), "acknowledged"),
        (Answer(201, replayed=True), "acknowledged"),
        (Answer(200), "acknowledged"),
        (Answer(None), "unknown"),
        (Answer(500), "unknown"),
        (Answer(503, come_again=True), "unknown"),
        (Answer(429), "unknown"),
        (Answer(408), "unknown"),
        (Answer(409, come_again=True), "unknown"),
        (Answer(409), "refused"),
        (Answer(400), "refused"),
        (Answer(404), "refused"),
        (Answer(422), "refused"),
        (Answer(302), "refused"),
    ],
)
def test_only_an_answer_that_decides_is_more_than_unknown(answer: Answer, outcome: Outcome) -> None:
    assert outcome_of(answer) == outcome


@pytest.mark.parametrize(
    ("attempts", "outcome"),
    [
        (["acknowledged"], "acknowledged"),
        (["unknown", "acknowledged"], "acknowledged"),
        (["refused"], "refused"),
        (["unknown", "refused"], "unknown"),
        (["unknown", "unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_refusal_after_an_unknown_attempt_proves_nothing(attempts: list[Outcome], outcome: Outcome) -> None:
    assert sum_up(attempts) == outcome


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        (["acknowledged", "acknowledged"], "acknowledged"),
        (["acknowledged", "refused"], "refused"),
        (["refused", "unknown", "acknowledged"], "unknown"),
    ],
)
def test_a_request_to_several_arms_is_as_well_off_as_the_worst_of_them(ends: list[Outcome], outcome: Outcome) -> None:
    assert together(ends) == outcome


def test_a_ledger_keeps_the_arms_apart_and_leaves_the_default_one_unnamed(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    ledger = Ledger(file, "r")
    ledger.call("r-0", "orders", 1)
    ledger.call("r-0", "orders", 1, "cdc")
    ledger.answer("r-0", "orders", 1, Answer(201), "cdc")
    ledger.close()
    assert outcomes(read(file)) == {"r-0": "unknown"}
    assert outcomes(read(file), "cdc") == {"r-0": "acknowledged"}
    assert ["arm" in text for text in file.read_text().splitlines()] == [False, True, True]


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "ledger" / "r.jsonl"
    ledger = Ledger(file, "r")
    ledger.call("r-0", "orders", 1)
    ledger.answer("r-0", "orders", 1, Answer())
    ledger.call("r-0", "orders", 2)
    ledger.answer("r-0", "orders", 2, Answer(201, replayed=True))
    ledger.not_sent("r-1", "refunds", "too many")
    ledger.call("r-2", "orders", 1)
    ledger.close()
    assert outcomes(read(file)) == {"r-0": "acknowledged", "r-2": "unknown"}
    texts = file.read_text().splitlines()
    assert '"outcome":"unknown","status":null,"replayed":false' in texts[1]
    assert '"outcome":"acknowledged","status":201,"replayed":true' in texts[3]
    assert "status" not in texts[0]
    assert texts[4].endswith('"kind":"refunds","phase":"not_sent","why":"too many"}')


def test_a_line_that_was_cut_at_the_end_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    ledger = Ledger(file, "r")
    ledger.call("r-0", "orders", 1)
    ledger.close()
    with file.open("ab") as stream:
        stream.write(b'{"at":1.0,"run":"r","ke')
    assert [line.key for line in read(file)] == ["r-0"]


def test_a_call_without_an_answer_is_unknown() -> None:
    call = Line(at=0, run="r", key="r-0", kind="orders", phase="call", attempt=1)
    assert outcomes([call]) == {"r-0": "unknown"}


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (Plan(run="r", rate=0), "rate"),
        (Plan(run="r", duration_s=-1), "duration_s"),
        (Plan(run="a/b"), "run"),
        (Plan(run="r" * 49), "run"),
        (Plan(run=""), "run"),
        (Plan(run="r", effects_share=1.5), "effects_share"),
        (Plan(run="r", timeout_share=0.6, reset_share=0.6), "together"),
        (Plan(run="r", rate=1000, duration_s=1e6), "lower"),
    ],
)
def test_a_load_that_cannot_be_is_refused_and_named(plan: Plan, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        checked(plan)


def test_a_run_that_has_a_ledger_is_not_written_again(tmp_path: Path) -> None:
    home = Home(tmp_path, 21000)
    plan = plan_for(home, rate=1, duration_s=1, run="mine")
    Ledger(home.ledger / f"{plan.run}.jsonl", plan.run).close()
    with pytest.raises(ValueError, match="mine has a ledger"):
        plan_for(home, rate=1, duration_s=1, run="mine")


def test_a_run_that_nobody_named_carries_its_time_and_seed() -> None:
    run = default_run(42, datetime(2026, 11, 24, 5, 6, 7, tzinfo=UTC))
    assert run == "run-20261124-050607-42"
    assert checked(Plan(run=run)).run == run


def test_all_messages_want_all_effects_only_up_to_fifty_a_second() -> None:
    assert [default_effects_share(rate) for rate in (1, 50, 51, 2000)] == [1.0, 1.0, 0.1, 0.1]


def test_totals_add_up_and_are_replaced_in_one_step(tmp_path: Path) -> None:
    totals = Totals(Plan(run="r", rate=4, duration_s=1))
    for _ in range(3):
        totals.sent()
    totals.not_sent()
    totals.ended("acknowledged", replayed=True, retried=True)
    totals.acknowledged_after(0.0123)
    totals.ended("unknown")
    file = tmp_path / "runs" / "r" / "load.json"
    assert read_snapshot(file) is None
    write_snapshot(file, totals.snapshot())
    snapshot = read_snapshot(file)
    assert snapshot is not None
    assert (snapshot.planned, snapshot.sent, snapshot.not_sent, snapshot.in_flight) == (4, 3, 1, 1)
    assert (snapshot.acknowledged, snapshot.unknown, snapshot.replayed, snapshot.retried) == (1, 1, 1, 1)
    assert snapshot.latency_ms.p50 == 12.0
    assert not snapshot.carried_out
    assert [child.name for child in file.parent.iterdir()] == ["load.json"]


def test_a_quantile_is_the_value_that_this_share_does_not_exceed() -> None:
    values = Counter({1.0: 94, 2.0: 1, 7.0: 4, 90.0: 1})
    assert [quantile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [1.0, 2.0, 7.0, 90.0]
    assert quantile(Counter(), 0.5) == 0.0


@pytest.mark.parametrize("fault", ["timeout", "reset"])
def test_a_client_that_gives_up_has_sent_its_request_whole(fault: ClientFault) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/orders"
        sender = threading.Thread(target=send_and_give_up, args=(fault, url, {"lab-run": "r"}, b"{}"))
        sender.start()
        connection, _ = server.accept()
        sender.join()
        with connection:
            received = connection.recv(4096)
            assert received.startswith(b"POST /orders HTTP/1.1\r\n")
            assert received.endswith(b"Content-Length: 2\r\nlab-run: r\r\n\r\n{}")
            if fault == "reset":
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)
            else:
                assert connection.recv(1) == b""


def test_a_group_is_behind_by_what_it_has_not_committed() -> None:
    orders = {("orders.v1", 0): 100, ("orders.v1", 1): 50}
    topics = Bounds(firsts={("orders.v1", 0): 10, ("orders.v1", 1): 0}, ends=orders)
    waiting = list(behind("arm.at_least_once", topics, {("orders.v1", 1): 20}))
    assert waiting == [Waiting("arm.at_least_once on orders.v1", 120)]
    assert str(waiting[0]) == "arm.at_least_once: 120 messages on orders.v1"
    assert list(behind("arm.at_least_once", topics, orders)) == []


def test_a_place_that_does_not_answer_is_named_with_the_reason() -> None:
    assert str(Waiting("kafka", why="timed out")) == "kafka (timed out)"
    assert str(Waiting("the outbox of orders", 1)) == "the outbox of orders: 1 message"
