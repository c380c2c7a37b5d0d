"""Verdicts: a broken promise fails, one that had no chance to break is inconclusive, and the worst one counts."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from services.domain.audit import AuditDocument, AuditRow
from services.domain.verdict import Chances, Control, Judgement, Terms, judge_run, worst
from services.domain.verdict import judge as judge_among

CHANCES = Chances(
    kills={"relay": 1, "arm.at_least_once": 2, "arm.effectively_once": 2},
    met_again={"effectively_once": 9},
    unknown_answers=3,
    replayed=3,
)
# The controls of both promises, broken: without them a promise that holds shows nothing.
LOSES = AuditRow(hop="process", arm="at_most_once", effect="record", expected=10, applied_once=5, lost=5)
DOUBLES = AuditRow(hop="process", arm="at_least_once", effect="record", expected=10, applied_once=5, duplicated=5)
CONTROLS = (LOSES, DOUBLES)


def judge(audited: AuditRow, chances: Chances, rows: tuple[AuditRow, ...] = CONTROLS, **words: Any) -> Judgement:
    return judge_among(audited, chances, rows, **words)


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
        row(applied_once=7, dead_lettered=3),
        CHANCES,
        causes={"undecodable": 2, "refused": 1},
        terms=Terms(declared=frozenset(declared)),
    )
    assert (judgement.verdict, judgement.why) == (verdict, named)


def test_dead_letters_whose_cause_is_not_known_are_not_declared() -> None:
    judgement = judge(row(applied_once=9, dead_lettered=1), CHANCES, terms=Terms(declared=frozenset({"undecodable"})))
    assert judgement.verdict == "FAIL"


def test_an_arm_without_dedup_is_put_to_the_test_by_kills_in_its_gaps() -> None:
    audited = row(arm="at_most_once", applied_once=5, lost=5)
    assert judge(audited, CHANCES).verdict == "INCONCLUSIVE"
    killed = msgspec.structs.replace(CHANCES, kills={"arm.at_most_once": 1})
    assert judge(audited, killed).verdict == "PASS"
    assert judge(row(arm="at_most_once", applied_once=9, duplicated=1), killed).verdict == "FAIL"
    assert judge(audited, killed, (LOSES,)).verdict == "INCONCLUSIVE"


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


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((LOSES,), "its control at_least_once has nothing duplicated"),
        ((DOUBLES,), "its control at_most_once has nothing lost"),
        ((), "its control at_least_once has nothing duplicated"),
    ],
)
def test_a_promise_whose_control_did_not_break_is_inconclusive(rows: tuple[AuditRow, ...], why: str) -> None:
    judgement = judge(row(), CHANCES, rows)
    assert judgement.verdict == "INCONCLUSIVE"
    assert why in judgement.why
    assert judge(row(), CHANCES, rows, terms=Terms(without_control="a restart breaks no arm")).verdict == "PASS"


def test_a_pass_names_what_was_exercised_and_how_often() -> None:
    judgement = judge(row(), msgspec.structs.replace(CHANCES, due_again={"effectively_once": 7}))
    assert judgement.exercised == (
        "applied ids met again: 9; kills in its gaps: 2; applied effects whose record was due again: 7"
    )


def test_only_what_the_scenario_puts_to_the_test_is_judged_but_a_broken_promise_always_fails() -> None:
    terms = Terms(promises={"effectively_once": frozenset({"no_duplicate"})})
    assert judge(row(), CHANCES, terms=terms).promise == ("no_duplicate",)
    quiet = judge(row(arm="at_least_once"), CHANCES, terms=terms)
    assert (quiet.promise, quiet.verdict) == ((), None)
    assert judge(row(arm="at_least_once", applied_once=9, lost=1), CHANCES, terms=terms).verdict == "FAIL"


def document(*rows: AuditRow, closes: bool = True) -> AuditDocument:
    return AuditDocument(
        at=datetime.now(UTC), closes=closes, rows=list(rows), dead_letter_causes={}, evidence=[], evidence_left_out={},
        run="r", out_of_scope=0, undecodable=0, ledger_lines_skipped=0, truncated=[], took_s=0.1,
    )  # fmt: skip


def test_a_run_in_which_what_must_break_did_not_is_inconclusive() -> None:
    terms = Terms(controls=(Control(arm="at_most_once", state="lost", at_least=6),))
    judged = judge_run(document(row(), *CONTROLS), CHANCES, terms)
    assert judged.verdict == "INCONCLUSIVE"
    assert judged.reasons == ["at_most_once lost: 5, at least 6 had to be: the run was too easy"]
    assert judged.controls == {"at_most_once lost": 5}


def test_a_run_that_exercised_too_little_or_was_cut_short_is_inconclusive() -> None:
    asked = Terms(exercise={"retries": 3})
    seen = msgspec.structs.replace(CHANCES, seen={"retries": 2})
    seen = msgspec.structs.replace(seen, kills={**CHANCES.kills, "arm.at_most_once": 1})
    rows = document(row(), *CONTROLS)
    assert judge_run(rows, seen, asked).reasons == ["retries: 2 seen, at least 3 had to be"]
    assert judge_run(rows, seen, Terms(exercise={"retries": 2})).verdict == "PASS"
    assert judge_run(rows, seen, Terms(), doubts=["interrupted"]).verdict == "INCONCLUSIVE"


def test_a_law_that_does_not_close_fails_the_run_whatever_is_promised() -> None:
    judged = judge_run(document(closes=False), CHANCES, Terms())
    assert (judged.verdict, judged.reasons) == ("FAIL", ["the law does not close"])


def test_a_hole_that_a_scenario_shows_is_no_broken_promise_but_must_be_there() -> None:
    hole = Terms(promises={}, controls=(Control(arm="effectively_once", effect="charge", state="duplicated"),))
    doubled = row(applied_once=9, duplicated=1)
    assert judge_run(document(doubled), CHANCES, hole).verdict == "PASS"
    assert judge_run(document(row()), CHANCES, hole).verdict == "INCONCLUSIVE"
    assert judge_run(document(row(effect="record", applied_once=9, duplicated=1)), CHANCES, hole).verdict == "FAIL"
