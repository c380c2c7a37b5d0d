"""The crash matrix in short: each failpoint once, in some process that has it. The long form is `make crash`."""

import re
from collections.abc import Iterator

import pytest

from loadtest.crash.__main__ import parts
from loadtest.crash.cells import Round, errors_round, short_rounds
from loadtest.crash.strike import carry_out
from loadtest.crash.verdicts import results
from services.stack import client, control
from services.stack.home import Home
from tests.conftest import free_home, say

SEED = 20261124
TRANSACTIONS = "arm.kafka_transactions#0"
# the error that a life ends with, or what is told before the end of one that hangs in librdkafka
FENCED = re.compile(r'^services\.broker\.transactor\.Fenced: |"transaction\.fenced".* did not come back', re.MULTILINE)
ACTION_S = 300.0  # a place that a slow machine passes late is passed


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Every arm of both kinds."""
    home = free_home(tmp_path_factory.mktemp("matrix"))
    try:
        control.up(home, faults=True, seed=SEED, only=parts(), say=say)
        yield home
    finally:
        control.down(home, say)


def check(lab: Home, round_: Round, name: str, kills: int) -> None:
    """Each cell of the round was struck, and every promise held.

    One pass a cell need not break what is not promised: that it does is for the long form to show.
    """
    print(f"seed {SEED}")
    outcome = carry_out(lab, round_, name, SEED, say, action_s=ACTION_S)
    for result in results(round_, outcome, at=0.0, seed=SEED):
        assert result.verdict == "PASS" or result.why.startswith("did not break"), f"{result.cell}: {result.why}"
        assert result.kills == kills, result.cell


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("number", [0, 1], ids=["one-arm", "all-arms"])
def test_every_failpoint_kills_and_every_promise_holds(lab: Home, number: int) -> None:
    check(lab, list(short_rounds())[number], f"matrix-{number}", 1)


def fenced(lab: Home) -> int:
    """How many lives of kafka_transactions have ended because nothing more could come of their producer, by its log."""
    file = lab.log_file(TRANSACTIONS)
    texts = [one.read_text() for one in (file.with_name(f"{file.name}.1"), file) if one.exists()]
    return sum(len(FENCED.findall(text)) for text in texts)


@pytest.mark.timeout(1500)
def test_an_error_at_the_same_places_ends_no_process(lab: Home) -> None:
    def restarts() -> dict[str, int]:
        return {process["name"]: process["restarts"] for process in client.status(lab)["processes"]}

    before, fenced_before = restarts(), fenced(lab)
    check(lab, errors_round(), "errors", 0)
    rises = {name: count - before[name] for name, count in restarts().items()}
    del rises["arm.stock_faust#0"]  # Faust stops by itself
    # as it is meant to when the broker has aborted its transaction: the machine stood still for nine seconds
    assert rises.pop(TRANSACTIONS) <= fenced(lab) - fenced_before
    assert rises == dict.fromkeys(rises, 0)
