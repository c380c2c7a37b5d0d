"""Verdicts: a broken promise fails, one that had no chance to break is inconclusive, and the worst one counts."""

import msgspec
import pytest

from services.domain.audit import AuditRow
from services.domain.verdict import Chances, judge, worst

CHANCES = Chances(
    kills={"relay": 1, "arm.at_least_once": 2, "arm.effectively_once": 2},
    met_again={"effectively_once": 9},
    unknown_answers=3,
    replayed=3,
    duplicates_in_control=5,
)


def row(hop: str = "process", arm: str = "effectively_once", effect: str = "charge", **counts: int) -> AuditRow:
    return AuditRow(hop=hop, arm=arm, effect=effect, **{"expected": 10, "applied_once": 10, **counts})


@pytest.mark.parametrize(
    ("audited", "verdict", "named"),
    [
        (row(), "PASS", ""),
        (row(applied_once=9, duplicated=1), "FAIL", "1 duplicated"),
        (row(applied_once=9, lost=1), "FAIL", "1 lost"),
        (row(applied_once=9, waiting=1), "FAIL", "still waiting"),
        (row(applied_once=9, dead_lettered=1), "FAIL", "dead-lettered"),
        (row(unexpected=1), "FAIL", "1 unexpected"),
        (row(applied_once=9, unexplained=1), "FAIL", "unexplained"),
        (row(expected=0, applied_once=0), "INCONCLUSIVE", "nothing was expected"),
        (row(arm="at_least_once", applied_once=9, duplicated=1), "PASS", ""),  # it promises no loss only
        (row(effect="email", applied_once=9, lost=1), "PASS", ""),  # emails promise no duplicate only
        (row(hop="publish", arm="outbox", effect="publication"), "PASS", ""),
        (row(hop="accept", arm="outbox", effect="intent", applied_once=9, duplicated=1), "FAIL", "duplicated"),
    ],
)
def test_a_row_is_judged_by_what_its_arm_promises(audited: AuditRow, verdict: str, named: str) -> None:
    judgement = judge(audited, CHANCES)
    assert judgement.verdict == verdict
    assert named in judgement.why


@pytest.mark.parametrize(
    ("audited", "without"),
    [
        (row(arm="at_least_once"), {"kills": {}}),
        (row(hop="publish", arm="outbox", effect="publication"), {"kills": {"arm.at_least_once": 9}}),
        (row(), {"met_again": {}}),
        (row(), {"duplicates_in_control": 0}),  # the control arm did not break: it was an easy run
        (row(hop="accept", arm="outbox", effect="intent"), {"replayed": 0}),
    ],
)
def test_a_promise_that_had_no_chance_to_break_is_inconclusive(audited: AuditRow, without: dict[str, object]) -> None:
    judgement = judge(audited, msgspec.structs.replace(CHANCES, **without))
    assert judgement.verdict == "INCONCLUSIVE"
    assert "no chance to break" in judgement.why


def test_the_runs_verdict_is_the_worst_and_none_at_all_proves_nothing() -> None:
    assert worst(["PASS", None, "PASS"]) == "PASS"
    assert worst(["PASS", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert worst(["INCONCLUSIVE", "FAIL", "PASS"]) == "FAIL"
    assert worst([None]) == "INCONCLUSIVE"
