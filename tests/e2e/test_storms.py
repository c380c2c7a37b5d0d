"""The short form of a storm, on the shared lab with every arm: a producer frozen beyond every time-out, under load."""

import sys

import msgspec
import pytest

from loadtest.storms.bench import Bench
from loadtest.storms.table import PROOFS
from services.domain.arms import CONSUMER_ARMS
from tests.conftest import Lab


@pytest.mark.timeout(240)
def test_a_frozen_producer_keeps_no_lock_and_nothing_is_lost_or_stuck(lab: Lab) -> None:
    (proof,) = [proof for proof in PROOFS if proof.name == "freeze.orders"]
    here = msgspec.structs.replace(proof, publishers=("outbox",), consumers=tuple(CONSUMER_ARMS))
    bench = Bench(lab.home, here, 20261124, lambda text: print(text, file=sys.stderr))
    bench.all_ready()
    proof.run(bench)
    broken = [finding for finding in bench.findings if finding.holds is False]
    assert broken == []
    assert bench.acknowledged > 0
    assert bench.faults == 1
