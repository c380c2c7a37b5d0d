"""Why a message is bad, in one line: what was written down, when, and nothing that was not."""

from typing import Any

import msgspec
import pytest

from services.auditor.journal import Journal, Said, said
from services.auditor.stores import Seen
from services.auditor.why import Case, why
from services.domain.messages import Coordinates
from services.stack.nemesis import Fault

ARM, RELAY, FIRST, SECOND = "arm.at_least_once#0", "relay#0", "life-1", "life-2"
AT, COPY = Coordinates("orders.v1", 0, 7), Coordinates("orders.v1", 0, 9)
MESSAGE = "01a20ce5-478a-7dfd-8c70-65b71a2fad76"


def started(process: str, life: str, at: float) -> Said:
    return Said(at, "process.started", process, life, {})


def kill(process: str, at: float, failpoint: str = "") -> Fault:
    details: dict[str, Any] = {"failpoint": failpoint} if failpoint else {}
    return Fault(f"f{at}", "kill", process, at, "failpoint", 1, details, at + 1)


def about(event: str, at: float, **fields: Any) -> Said:
    return Said(at, event, ARM, FIRST, {"message.id": MESSAGE, **fields})


LIVES = [started(ARM, FIRST, 1.0), started(RELAY, "r", 1.0), started(ARM, SECOND, 21.0)]


def case(state: str, **fields: Any) -> Case:
    known = {
        "effect": "charge",
        "message_id": MESSAGE,
        "parts": ("arm.at_least_once", "retry.at_least_once"),
        "made": 9.0,
    }
    return Case(state=state, **{**known, "copies": [AT], **fields})


@pytest.mark.parametrize(
    ("hop", "one", "faults", "lines", "words"),
    [
        pytest.param(
            "process", case("duplicated", seen=[Seen(10.0, AT, FIRST), Seen(22.0, AT, SECOND)]),
            [kill(ARM, 10.5, "process.after_record_before_commit")], [],
            "applied at 00:00:10.000, arm.at_least_once#0 killed at process.after_record_before_commit at t+0.50 s "
            "before the offset's commit, again at 00:00:22.000",
            id="killed between effect and commit",
        ),
        pytest.param(
            "process", case("duplicated", seen=[Seen(10.0, AT, FIRST), Seen(12.0, COPY, FIRST)]), [], [],
            "applied for orders.v1/0/7 at 00:00:10.000, again at 00:00:12.000 for orders.v1/0/9: two records of one id",
            id="two records",
        ),
        pytest.param(
            "process", case("duplicated", seen=[Seen(10.0, AT, FIRST), Seen(12.0, AT, FIRST)]), [],
            [about("message.deferred", 10.5, reason="timeout", detail="email")],
            "then tried again as a whole (timeout: email), again at 00:00:12.000",
            id="a later effect failed",
        ),
        pytest.param(
            "process", case("duplicated", seen=[Seen(10.0, AT, FIRST), Seen(12.0, AT, FIRST)]),
            [Fault("f", "freeze", "kafka", 10.2, "cli", 1, {}, 11.0)], [],
            "its offset not committed (freeze of kafka at 00:00:10.200)",
            id="the broker was frozen",
        ),
        pytest.param(
            "process", case("lost"), [],
            [about("effect.dropped", 10.0, effect="charge", detail="no answer in time")],
            "charge failed at 00:00:10.000, its offset was committed before, nothing tries again: no answer in time",
            id="dropped",
        ),
        pytest.param(
            "process", case("lost"), [kill(ARM, 12.0)], [],
            "its group's offset is above it, arm.at_least_once#0 killed at 00:00:12.000 +3.0 s after it was accepted",
            id="no commit was written down",
        ),
        pytest.param("process", case("lost"), [], [], "", id="nothing was written down"),
        pytest.param(
            "process", case("uncertain", claimed=(10.0, FIRST)), [kill(ARM, 10.2)], [],
            "claimed at 00:00:10.000, arm.at_least_once#0 killed at t+0.20 s: nobody knows whether it was sent",
            id="an email whose sender died",
        ),
        pytest.param(
            "publish", case("duplicated", parts=("relay",), seen=[Seen(10.0, AT), Seen(13.0, COPY)]),
            [kill(RELAY, 10.1, "publish.after_produce_before_delete")], [],
            "relay#0 killed at publish.after_produce_before_delete at t+0.10 s before its row was removed",
            id="the relay died with the batch published",
        ),
        pytest.param(
            "publish", case("lost", parts=("relay",), copies=[]), [kill(RELAY, 9.2)], [],
            "committed at 00:00:09.000, relay#0 killed at t+0.20 s before it was published",
            id="published by nobody",
        ),
        pytest.param(
            "publish", case("unexpected", parts=("relay",), seen=[Seen(10.0, AT)]), [kill(RELAY, 10.1)], [],
            "published at 00:00:10.000, relay#0 killed at t+0.10 s before its commit: there is no intent",
            id="published and rolled back",
        ),
    ],
)  # fmt: skip
def test_the_line_says_what_was_seen(hop: str, one: Case, faults: list[Fault], lines: list[Said], words: str) -> None:
    line = why(hop, one, Journal(faults, [*LIVES, *lines]))
    assert words in line
    assert bool(line) == bool(words)


def test_a_kill_of_a_later_life_explains_nothing_of_an_earlier_one() -> None:
    committed = Said(10.0, "offset.committed", ARM, FIRST, {"positions": {"orders.v1/0": 8}})
    line = why("process", case("lost"), Journal([kill(ARM, 30.0)], [*LIVES, committed]))
    assert line == "offset 7 committed at 00:00:10.000, no effect"


def test_a_line_that_is_cut_or_no_event_says_nothing() -> None:
    whole = msgspec.json.encode({"time": "2026-01-02T00:00:00+00:00", "event": "x", "service.name": "a", "life": "l"})
    assert said(whole) is not None
    assert [said(line) for line in (whole[:-5], b"", b"[]", b'{"event": 1}', b"\xff")] == [None] * 5
