"""The matrix declares every place that can be struck; what a round says of a cell is decided without a lab."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from loadtest.crash import results
from loadtest.crash.__main__ import verdict_of, wanted
from loadtest.crash.cells import AT_ONCE, CELLS, SHORT, Cell, Round, rounds_of, short_rounds
from loadtest.crash.strike import Done, Outcome
from loadtest.crash.verdicts import Result
from loadtest.crash.verdicts import results as results_of
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.domain.audit import AuditDocument, AuditRow
from services.failpoints.grammar import parse
from services.failpoints.names import FAILPOINTS
from services.stack.home import Home

BY_NAME = {cell.name: cell for cell in CELLS}
DOUBLES = BY_NAME["process.after_record_before_commit/arm.at_least_once"]
HOLDS = BY_NAME["process.after_record_before_commit/arm.effectively_once"]


def row(arm: str, effect: str = "record", hop: str = "process", **counts: int) -> AuditRow:
    """Ten messages, those that are not counted otherwise applied once."""
    applied = 10 - sum(counts.get(state, 0) for state in ("duplicated", "lost", "waiting", "dead_lettered"))
    made = AuditRow(hop=hop, arm=arm, effect=effect, expected=10, applied_once=applied)
    for count, many in counts.items():
        setattr(made, count, many)
    return made


def document(rows: list[AuditRow], causes: dict[str, dict[str, int]]) -> AuditDocument:
    values: dict[str, Any] = dict.fromkeys(AuditDocument.__struct_fields__, ())
    told = {"at": datetime.now(UTC), "closes": True, "rows": rows, "run": "r", "dead_letter_causes": causes}
    return AuditDocument(**values | told)


def told(cell: Cell, rows: list[AuditRow], acted: int = 1, passes: int = 9, letters: str = "") -> Result:
    done = [Done(action, passes, acted) for action in cell.actions]
    outcome = Outcome(
        "r", {cell.name: done}, [], document(rows, {row.name: {letters: row.dead_lettered} for row in rows if letters})
    )
    (result,) = results_of(Round((cell,)), outcome, at=0.0, seed=1)
    return result


def test_every_failpoint_has_a_cell_for_every_process_that_passes_it() -> None:
    declared = {(cell.failpoint, cell.process) for cell in CELLS}
    assert declared == {(point.name, owner) for point in FAILPOINTS.values() for owner in point.owners}
    assert len(BY_NAME) == len(CELLS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_what_a_cell_does_can_be_armed_and_what_it_says_must_break_is_not_promised(cell: Cell) -> None:
    for action in cell.actions:
        parse(cell.failpoint, f"{action} arm={cell.selector}" if cell.selector else action)
    for failpoint, action in cell.needs.arms:
        parse(failpoint, action)
    word = {"lost": "no_loss", "duplicated": "no_duplicate"}
    for control in cell.breaks:
        assert control.arm in cell.arms
        assert control.hop in cell.hops
        arm = CONSUMER_ARMS.get(control.arm)
        promised = [arm.promises] if arm else []
        kept = {e: p for effects in promised for e, p in effects.items() if control.effect in ("", e)}
        published = {} if arm else {"publication": PUBLISHER_ARMS[control.arm].promises}
        assert not any(word.get(control.state) in promises for promises in (kept | published).values())


def test_every_arm_without_a_promise_has_a_cell_that_shows_what_it_does_not_promise() -> None:
    shown = {(control.arm, control.effect, control.state) for cell in CELLS for control in cell.breaks}
    assert shown >= {
        ("at_most_once", "", "lost"),
        ("stock_faust", "", "lost"),
        ("at_least_once", "", "duplicated"),
        ("dual_write_after_commit", "", "lost"),
        ("dual_write_before_commit", "", "unexpected"),
        ("id_cursor", "", "lost"),
        ("kafka_transactions", "charge", "duplicated"),
    }


def test_each_cell_is_in_one_round_and_what_must_break_there_nobody_else_can_have_broken() -> None:
    rounds = list(rounds_of(CELLS))
    assert sorted(cell.name for round_ in rounds for cell in round_.cells) == sorted(BY_NAME)
    for round_ in rounds:
        assert len(round_.cells) <= AT_ONCE
        assert len({(cell.process, cell.account) for cell in round_.cells}) == len(round_.cells)
        breaking = [cell for cell in round_.cells if cell.breaks]
        for cell in breaking:
            assert not any(cell.tells & other.tells for other in round_.cells if other is not cell)


def test_the_short_form_strikes_every_failpoint_once() -> None:
    assert SHORT.keys() == FAILPOINTS.keys()
    cells = [cell for round_ in short_rounds() for cell in round_.cells]
    assert sorted(cell.failpoint for cell in cells) == sorted(FAILPOINTS)


def test_a_place_that_was_passed_and_broke_what_must_break_passes() -> None:
    assert told(DOUBLES, [row("at_least_once", duplicated=2)]).verdict == "PASS"
    assert told(HOLDS, [row("effectively_once")]).verdict == "PASS"


@pytest.mark.parametrize(("arm", "counts"), [
    ("effectively_once", {"duplicated": 1}), ("effectively_once", {"lost": 1}), ("effectively_once", {"waiting": 1}),
    ("effectively_once", {"dead_lettered": 1}), ("effectively_once", {"unexpected": 1}),
    ("at_most_once", {"unexplained": 1}), ("at_least_once", {"lost": 1}),
])  # fmt: skip
def test_a_broken_promise_fails_the_cell_whoever_broke_it(arm: str, counts: dict[str, int]) -> None:
    result = told(HOLDS, [row("effectively_once"), row(arm, "charge", **counts)])
    assert result.verdict == "FAIL"
    assert f"process/{arm}/charge" in result.why


def test_dead_letters_are_allowed_for_the_causes_that_the_cell_declares() -> None:
    cell = BY_NAME["process.after_dead_letter_produced_before_commit/arm.effectively_once"]
    rows = [row("effectively_once", dead_lettered=3)]
    assert told(cell, rows, letters="no_message_id").verdict == "PASS"
    assert told(cell, rows, letters="refused").verdict == "FAIL"


def test_an_arm_may_give_up_only_what_the_cell_says_of_that_arm() -> None:
    cell = BY_NAME["process.after_retry_produced_before_commit/arm.at_least_once"]
    broken = row("at_least_once", duplicated=1)
    given_up = row("at_least_once", "charge", dead_lettered=1)
    assert told(cell, [broken, given_up], letters="attempts").verdict == "PASS"
    given_up = row("kafka_transactions", "output", dead_lettered=1)
    assert told(cell, [broken, given_up], letters="attempts").verdict == "FAIL"


def test_what_was_not_struck_or_did_not_break_is_not_done() -> None:
    assert told(HOLDS, [row("effectively_once")], acted=0).verdict == "INCONCLUSIVE"
    assert told(HOLDS, [row("effectively_once")], passes=0).why.startswith("not passed")
    assert "did not break" in told(DOUBLES, [row("at_least_once")]).why


def test_an_action_by_chance_need_not_have_acted() -> None:
    done = [Done(action, 9, int("p=" not in action)) for action in HOLDS.actions]
    outcome = Outcome("r", {HOLDS.name: done}, [], document([row("effectively_once")], {}))
    (result,) = results_of(Round((HOLDS,)), outcome, at=0.0, seed=1)
    assert (result.verdict, result.kills) == ("PASS", 3)


def test_results_are_kept_and_the_newest_of_a_cell_counts(tmp_path: Any) -> None:
    home = Home(tmp_path, 21000)
    results.append(home, [told(HOLDS, [row("effectively_once")], acted=0)])
    results.append(home, [told(HOLDS, [row("effectively_once")])])
    with results.file_of(home).open("ab") as file:
        file.write(b'{"cut')
    known = results.read(home)
    assert known[HOLDS.name].verdict == "PASS"
    assert verdict_of(known) == "INCONCLUSIVE"
    assert HOLDS not in wanted(CELLS, known, failed=False, only="")


def test_a_failed_cell_is_run_again_only_when_that_is_asked_for() -> None:
    known = {HOLDS.name: told(HOLDS, [row("effectively_once", lost=1)])}
    assert HOLDS not in wanted(CELLS, known, failed=False, only="")
    assert wanted(CELLS, known, failed=True, only=HOLDS.name) == [HOLDS]
    assert verdict_of(known) == "FAIL"


def test_with_too_few_kills_what_passed_is_run_again_and_the_kills_add_up(tmp_path: Any) -> None:
    home = Home(tmp_path, 21000)

    def passed(kills: int) -> list[Result]:
        result = told(HOLDS, [row("effectively_once")])
        return [msgspec.structs.replace(result, cell=cell.name, kills=kills) for cell in CELLS]

    results.append(home, passed(3))
    known = results.read(home)
    assert wanted(CELLS, known, failed=False, only="") == list(CELLS)
    assert verdict_of(known) == "INCONCLUSIVE"
    results.append(home, passed(4))
    known = results.read(home)
    assert known[HOLDS.name].kills == 7
    assert wanted(CELLS, known, failed=False, only="") == []
    assert verdict_of(known) == "PASS"


def test_the_table_has_a_row_for_each_declared_cell() -> None:
    lines = results.TABLE.read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.split("|")[1:6]) for line in lines if line.startswith("| `")]
    assert rows == [results.declared(cell) for cell in CELLS], "out of date: run `make crash`"
