"""The grammar refuses what it does not know; the registry decides from a seed and survives the process that asks."""

import pytest

from services.failpoints.grammar import Armed, FailpointError, parse
from services.failpoints.names import FAILPOINTS
from services.failpoints.registry import Decision, Registry
from services.stack.parts import PARTS

POINT = "process.after_record_before_commit"
ALO, EO = "arm.at_least_once#0", "arm.effectively_once#0"


@pytest.mark.parametrize(
    ("text", "armed"),
    [
        ("kill", Armed(POINT, "kill")),
        ("kill nth=2 count=1 arm=at_least_once", Armed(POINT, "kill", nth=2, count=1, arm="at_least_once")),
        ("pause:1.5 p=0.02", Armed(POINT, "pause", amount=1.5, p=0.02)),
        ("delay:20", Armed(POINT, "delay", amount=20)),
        ("error:timeout", Armed(POINT, "error", kind="timeout")),
    ],
)
def test_the_grammar_reads_what_the_design_names(text: str, armed: Armed) -> None:
    assert parse(POINT, text) == armed


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "missing"),
        ("explode", "explode"),
        ("kill:9", "kill:9"),
        ("pause", "pause"),
        ("pause:soon", "soon"),
        ("error:bad-luck", "bad-luck"),
        ("kill p=2", "p must lie"),
        ("kill nth=0", "nth"),
        ("kill nth=1 nth=2", "nth=2"),
        ("kill often=yes", "often=yes"),
        ("kill arm=relay", "relay"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(FailpointError, match=named):
        parse(POINT, text)


def test_an_unknown_failpoint_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(FailpointError, match=r"no\.such.*publish\.after_fetch"):
        parse("no.such", "kill")


def test_every_owner_of_a_failpoint_is_a_part() -> None:
    assert {owner for point in FAILPOINTS.values() for owner in point.owners} <= set(PARTS)


def test_nth_and_count_are_kept_over_the_death_of_the_process() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(POINT, "kill nth=2 count=1 arm=at_least_once"))
    seen = [registry.decide(POINT, ALO).action for _ in range(4)]  # the second pass kills; later lives pass freely
    assert seen == ["go", "kill", "go", "go"]


def test_a_pass_of_another_arm_does_not_count() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(POINT, "kill nth=2 arm=at_least_once"))
    assert registry.decide(POINT, EO) == Decision("go")
    assert registry.decide(POINT, ALO) == Decision("go")
    assert registry.decide(POINT, ALO) == Decision("kill")
    assert registry.armed_for(EO) == []
    assert registry.armed_for(ALO) == [POINT]


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices(seed: int) -> list[str]:
        registry = Registry(seed)
        registry.arm(parse(POINT, "kill p=0.3"))
        return [registry.decide(POINT, ALO).action for _ in range(200)]

    assert choices(7) == choices(7)
    assert choices(7) != choices(8)
    assert 30 < choices(7).count("kill") < 90


def test_clearing_disarms_and_changes_the_version_that_processes_wait_for() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(POINT, "kill"))
    before = registry.version
    assert registry.clear() == 1
    assert registry.version > before
    assert registry.armed_for(ALO) == []
    assert registry.decide(POINT, ALO) == Decision("go")
