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


@pytest.mark.parametrize(
    ("declared", "verdict", "named"),
    [
        ((), "FAIL", "3 dead-lettered without a declared cause (refused, undecodable)"),
        (("undecodable",), "FAIL", "1 dead-lettered without a declared cause (refused)"),
        (("undecodable", "refused"), "PASS", ""),
    ],
)
def test_only_causes_that_the_scenario_declares_may_be_dead_lettered(
    declared: tuple[str, ...], verdict: str, named: str
) -> None:
    judgement = judge(
        row(applied_once=7, dead_lettered=3), CHANCES, causes={"undecodable": 2, "refused": 1}, declared=declared
    )
    assert (judgement.verdict, judgement.why) == (verdict, named)


def test_dead_letters_whose_cause_is_not_known_are_not_declared() -> None:
    judgement = judge(row(applied_once=9, dead_lettered=1), CHANCES, declared=("undecodable",))
    assert judgement.verdict == "FAIL"


def test_an_arm_without_dedup_is_put_to_the_test_by_kills_in_its_gaps() -> None:
    audited = row(arm="at_most_once", applied_once=5, lost=5)
    assert judge(audited, CHANCES).verdict == "INCONCLUSIVE"
    killed = msgspec.structs.replace(CHANCES, kills={"arm.at_most_once": 1})
    assert judge(audited, killed).verdict == "PASS"
    assert judge(row(arm="at_most_once", applied_once=9, duplicated=1), killed).verdict == "FAIL"
    assert judge(audited, msgspec.structs.replace(killed, duplicates_in_control=0)).verdict == "INCONCLUSIVE"


def test_each_publisher_arm_is_put_to_the_test_by_kills_of_its_own_process() -> None:
    audited = row(hop="publish", arm="cdc", effect="publication")
    assert judge(audited, CHANCES).verdict == "INCONCLUSIVE"
    assert judge(audited, msgspec.structs.replace(CHANCES, kills={"cdc": 1})).verdict == "PASS"
    ghosts = row(hop="publish", arm="dual_write_before_commit", effect="publication", unexpected=7)
    assert judge(ghosts, CHANCES).verdict is None
    accepted = row(hop="accept", arm="cdc", effect="intent", applied_once=9, lost=1)
    assert judge(accepted, CHANCES).verdict == "FAIL"


def test_a_kill_of_its_lane_puts_an_arm_to_the_test() -> None:
    lane = msgspec.structs.replace(CHANCES, kills={"retry.at_least_once": 1})
    assert judge(row(arm="at_least_once"), lane).verdict == "PASS"
    assert judge(row(arm="effectively_once"), lane).verdict == "INCONCLUSIVE"


def test_a_row_without_a_promise_has_no_verdict() -> None:
    audited = row(arm="effectively_once", effect="unknown", applied_once=1, lost=9)
    assert judge(audited, CHANCES).verdict is None


def test_the_runs_verdict_is_the_worst_and_none_at_all_proves_nothing() -> None:
    assert worst(["PASS", None, "PASS"]) == "PASS"
    assert worst(["PASS", "INCONCLUSIVE"]) == "INCONCLUSIVE"
    assert worst(["INCONCLUSIVE", "FAIL", "PASS"]) == "FAIL"
    assert worst([None]) == "INCONCLUSIVE"
