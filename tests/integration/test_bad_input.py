"""What people get wrong on a lab that is up: the error names it, the exit code is not 0, and nothing is changed."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.broker.reader import bounds
from services.broker.topics import MAIN_TOPICS
from services.domain.arms import CONSUMER_ARMS
from services.stack import client
from services.stack.nemesis import read_faults
from tests.conftest import Lab

pytestmark = pytest.mark.timeout(900)
TOPICS = [topic.name for topic in MAIN_TOPICS]
REDELIVERIES = [arm.redelivery_topic for arm in CONSUMER_ARMS.values() if arm.redelivery_topic]
LONG_AGO = "--from 2020-01-01T00:00:00 --to 2020-01-02T00:00:00"
REPLAY = "replay --arm at_least_once --topic orders.v1"


def refused(lab: Lab, words: str) -> tuple[int, str]:
    """Exit code and stderr of `lab WORDS`, which answers nothing on stdout."""
    command = [str(Path(sys.executable).with_name("lab")), *words.split()]
    environment = {**os.environ, "LAB_HOME": str(lab.home.path), "LAB_PORT_BASE": str(lab.home.port_base)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "", done.stdout
    return done.returncode, " ".join(done.stderr.split())


def state(lab: Lab) -> Any:
    """What nothing of this may change: faults, processes, what is armed, and what was sent again.

    Not whether a process is ready: when the supervisor stalls, its probes time out.
    """
    processes = client.status(lab.home)["processes"]
    told = ("frozen", "held", "failed")
    return (
        [fault.id for fault in read_faults(lab.home.nemesis_log)],
        {p["name"]: (p["pid"], p["state"] if p["state"] in told else "") for p in processes},
        client.failpoints(lab.home)["armed"],
        bounds(lab.home.addresses()["LAB_KAFKA"], REDELIVERIES).ends,
    )


def seen(lab: Lab) -> Any:
    """The state; a part may take its time to tell its share of it."""
    return lab.until(lambda: state(lab), "every part to tell its state", 120)


def ended_by_themselves(lab: Lab, since: str) -> set[str]:
    """Processes that ended without an order, as stock_faust does after a session that it lost."""
    lines = [said for line in lab.home.log_file("supervisor").read_bytes().splitlines() if (said := parsed(line))]
    exits = [line for line in lines if line["event"] == "part.exited" and line["time"] >= since]
    return {line["part"] for line in exits if line["level"] == "warning"}


def parsed(line: bytes) -> dict[str, Any]:
    """An event of the supervisor; empty for a line that is none."""
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return event


def until_as_before(lab: Lab, before: Any, since: str) -> None:
    """Wait until the state is the one before, but for the pids of processes that have ended by themselves."""

    def lasting(state: Any) -> Any:
        faults, processes, *rest = state
        own = ended_by_themselves(lab, since)
        return [faults, {name: (pid if name not in own else 0, how) for name, (pid, how) in processes.items()}, *rest]

    lab.until(
        lambda: lasting(state(lab)) == lasting(before),
        lambda: f"{lasting(before)} to be there again, there is {lasting(state(lab))}", 120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def still(lab: Lab) -> None:
    """Nothing waits that could be sent on later."""
    lab.sweep()


@pytest.fixture
def calm(lab: Lab, still: None) -> Iterator[Lab]:
    """The lab with everything ready; afterwards it is as it was."""
    lab.ready()
    since, before = datetime.now(UTC).isoformat(), seen(lab)
    yield lab
    until_as_before(lab, before, since)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("fault arm no.such.failpoint kill", 2, "unknown failpoint 'no.such.failpoint'"),
        ("fault arm process.after_read kill arm=nobody", 2, "arm=nobody"),
        ("kill arm.nobody#0", 2, "unknown process 'arm.nobody#0'"),
        ("kill retry.at_least_once.1s", 2, "unknown process 'retry.at_least_once.1s'"),
        ("up --arms nobody", 2, "unknown arm 'nobody'"),
        ("kill relay#7", 1, "relay#7 is not running"),
        ("freeze arm.at_least_once#7", 1, "arm.at_least_once#7 is not running"),
        ("thaw relay#0", 1, "relay#0 is not frozen"),
        ("kill provision", 2, "provision is a task"),
        ("dlq redrive at_least_once/999999999 --why x", 2, "at_least_once/999999999"),
        ("dlq discard at_least_once/999999999 --why x", 2, "at_least_once/999999999"),
        ("dlq redrive --arm nobody --why x", 2, "unknown arm 'nobody'"),
        (f"{REPLAY} {LONG_AGO}", 2, "the window is empty: orders.v1 has no record"),
        (f"{REPLAY} --from 1m --to 2m", 2, "the window is reversed"),
        (f"{REPLAY} --offsets 0:0-999999999", 2, "orders.v1/0 does not reach 999999999"),
        (f"{REPLAY} --offsets 99:0-1", 2, "orders.v1 has no partition 99"),
        ("replay --id never-begun", 2, "no replay has the id 'never-begun'"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(calm: Lab, words: str, code: int, named: str) -> None:
    exited, said = refused(calm, words)
    assert exited == code, said
    assert named in said


@contextlib.contextmanager
def token_of(lab: Lab, token: str | None) -> Iterator[None]:
    """The lab's token is this one meanwhile, or there is none."""
    file = lab.home.run / "token.secret"
    right = file.read_text()
    aside = file.rename(file.with_suffix(".aside"))
    try:
        if token:
            file.write_text(token)
        yield
        assert file.exists() == bool(token), "a token was drawn that the running lab does not know"
    finally:
        aside.rename(file)
    assert file.read_text() == right


def letters(lab: Lab) -> dict[str, Any]:
    """The letters of at_least_once, by their names."""
    listed = json.loads(lab.cli("dlq", "list", "--arm", "at_least_once", "--limit", "100000", "--json"))
    return {letter["letter"]: letter for letter in listed["letters"]}


def poisoned(lab: Lab) -> str:
    """The name of the letter of a record that is put onto the topic now, when no other is under way."""
    if not any(bounds(lab.home.addresses()["LAB_KAFKA"], TOPICS).ends.values()):
        lab.cli("load", "--rate", "5", "--duration", "1s")  # a bad record is made from an earlier one
    lab.drain()
    (record,) = json.loads(lab.cli("fault", "inject", "poison", "--topic", "orders.v1", "--json"))["injected"]
    origin = f"{record['topic']}/{record['partition']}/{record['offset']}"

    def named() -> list[str]:
        return [name for name, letter in letters(lab).items() if letter["origin"] == origin]

    lab.until(named, "the poison to be a letter")
    lab.drain()
    (name,) = named()
    return name


@pytest.mark.parametrize("token", ["wrong", None])
def test_a_token_that_is_wrong_or_missing_is_named_and_changes_nothing(calm: Lab, token: str | None) -> None:
    with token_of(calm, token):
        for words in ("kill relay#0", "fault arm publish.after_fetch kill", "fault clear", "scale relay 2"):
            assert_refused(calm, words)


def assert_refused(lab: Lab, words: str) -> None:
    """The lab names the token as what is wrong with `lab WORDS`."""
    exited, said = refused(lab, words)
    assert exited == 1, said
    assert "the lab's token is missing or wrong" in said


def test_without_the_token_letters_and_windows_are_looked_at_and_not_sent_again(lab: Lab) -> None:
    name = poisoned(lab)
    ends = bounds(lab.home.addresses()["LAB_KAFKA"], ["orders.v1"]).ends
    partition = next(partition for (_, partition), end in ends.items() if end)
    window = f"{REPLAY} --offsets {partition}:0-0"
    since, before = datetime.now(UTC).isoformat(), (seen(lab), letters(lab))
    orders = (window, f"dlq redrive {name} --why x", "dlq redrive --all --why x", f"dlq discard {name} --why x")
    for token in ("wrong", None):
        with token_of(lab, token):
            for words in orders:
                assert_refused(lab, words)
            assert json.loads(lab.cli("dlq", "show", name, "--json"))["log"] == []
            lab.cli("dlq", "redrive", name, "--dry-run")
            lab.cli(*window.split(), "--dry-run")
            assert letters(lab) == before[1]
    until_as_before(lab, before[0], since)
    assert letters(lab) == before[1]


def test_a_letter_that_is_settled_is_not_redriven_or_discarded_again(lab: Lab) -> None:
    name = poisoned(lab)
    lab.cli("dlq", "discard", name, "--why", "it is poison")
    for words in (f"dlq redrive {name} --why again", f"dlq discard {name} --why again"):
        exited, said = refused(lab, words)
        assert exited == 1
        assert f"{name} is already discarded" in said
    letter = letters(lab)[name]
    assert (letter["state"], letter["rounds"]) == ("discarded", 0)
    assert len(json.loads(lab.cli("dlq", "show", name, "--json"))["log"]) == 1
