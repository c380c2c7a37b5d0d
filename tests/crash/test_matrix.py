"""The crash matrix in short: each failpoint once, in some process that has it. The long form is `make crash`."""

from collections.abc import Iterator

import pytest

from loadtest.crash.__main__ import parts
from loadtest.crash.cells import short_rounds
from loadtest.crash.strike import carry_out
from loadtest.crash.verdicts import results
from services.stack import control
from services.stack.home import Home
from tests.conftest import free_home, say

SEED = 20261124


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Every arm of both kinds."""
    home = free_home(tmp_path_factory.mktemp("matrix"))
    try:
        control.up(home, faults=True, seed=SEED, only=parts(), say=say)
        yield home
    finally:
        control.down(home, say)


@pytest.mark.timeout(400)
def test_every_failpoint_kills_and_every_promise_holds(lab: Home) -> None:
    print(f"seed {SEED}")
    for number, round_ in enumerate(short_rounds()):
        outcome = carry_out(lab, round_, f"matrix-{number}", SEED, say)
        for result in results(round_, outcome, at=0.0, seed=SEED):
            assert (result.verdict, result.kills) == ("PASS", 1), f"{result.cell}: {result.why}"
