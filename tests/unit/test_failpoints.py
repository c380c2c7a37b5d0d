"""The grammar refuses what it does not know; the registry decides from a seed and survives the process that asks."""

import pytest

from services.failpoints import InjectedError
from services.failpoints.grammar import Armed, FailpointError, parse, parse_all
from services.failpoints.names import COMMANDS, ERROR_KINDS, FAILPOINTS, ErrorKind
from services.failpoints.registry import Decision, Registry
from services.stack.parts import PARTS

POINT = "process.after_record_before_commit"
CHARGED = "provider.after_applying_before_answer"
ALO, EO = "arm.at_least_once#0", "arm.effectively_once#0"


@pytest.mark.parametrize(
    ("text", "armed"),
    [
        ("kill", Armed(POINT, "kill")),
        ("kill nth=2 count=1 arm=at_least_once", Armed(POINT, "kill", nth=2, count=1, arm="at_least_once")),
        ("pause:1.5 p=0.02", Armed(POINT, "pause", amount=1.5, p=0.02)),
        ("delay:20", Armed(POINT, "delay", amount=20)),
        ("error:timeout", Armed(POINT, "error", kind="timeout")),
        ("error:http_429 p=0.5 count=3", Armed(POINT, "error", kind="http_429", p=0.5, count=3)),
    ],
)
def test_the_grammar_reads_what_the_design_names_and_says_it_again(text: str, armed: Armed) -> None:
    assert parse(POINT, text) == armed
    assert str(armed) == text


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
        ("kill arm=", "arm="),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(FailpointError, match=named):
        parse(POINT, text)


def test_the_environment_arms_several_with_a_semicolon_between() -> None:
    text = f" {POINT}=kill nth=2 arm=at_least_once;{POINT} = error:timeout p=0.5; {CHARGED}=delay:20 ; "
    assert parse_all(text) == (
        Armed(POINT, "kill", nth=2, arm="at_least_once"),
        Armed(POINT, "error", kind="timeout", p=0.5),
        Armed(CHARGED, "delay", amount=20),
    )
    assert parse_all(" ") == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (POINT, "NAME=ACTION"),
        ("no.such=kill", r"no\.such"),
        (f"{POINT}=", "missing"),
        (f"{POINT}=kill; {POINT}=delay:5", "armed twice"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(text: str, named: str) -> None:
    with pytest.raises(FailpointError, match=named):
        parse_all(text)


def test_an_unknown_failpoint_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(FailpointError, match=r"no\.such.*publish\.after_fetch"):
        parse("no.such", "kill")


def test_the_provider_fails_as_providers_do_and_for_whom_it_is_told_to() -> None:
    assert parse(CHARGED, "error:http_500 arm=at_least_once").arm == "at_least_once"
    with pytest.raises(FailpointError, match=r"timeout.*http_429"):
        parse(CHARGED, "error:timeout")
    with pytest.raises(FailpointError, match=r"arm=provider.*at_least_once"):
        parse(CHARGED, "kill arm=provider")


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_an_injected_error_says_what_it_shall_be_taken_for(kind: ErrorKind) -> None:
    error = InjectedError(POINT, kind)
    assert (error.failpoint, error.kind) == (POINT, kind)
    assert error.http_status == (int(kind[-3:]) if kind.startswith("http_") else None)


def test_every_owner_of_a_failpoint_is_a_part_or_a_command() -> None:
    assert {owner for point in FAILPOINTS.values() for owner in point.owners} <= {*PARTS, *COMMANDS}


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


def test_in_the_provider_the_account_of_a_call_says_whose_pass_it_is() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(CHARGED, "error:http_500 count=1 arm=effectively_once"))
    assert registry.armed_for("provider") == [CHARGED]
    assert registry.decide(CHARGED, "provider", "at_least_once") == Decision("go")
    assert registry.decide(CHARGED, "provider") == Decision("go")
    assert registry.decide(CHARGED, "provider", "effectively_once") == Decision("error", kind="http_500")
    assert registry.decide(CHARGED, "provider", "effectively_once") == Decision("go")
    assert registry.spent() == [(CHARGED, "effectively_once")]
    assert registry.counts((CHARGED, "effectively_once")) == {"passes": 2, "acted": 1}


def test_a_lane_passes_for_its_arm() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(POINT, "kill arm=at_least_once"))
    assert registry.armed_for("retry.at_least_once") == [POINT]


def test_one_process_of_an_arm_can_be_named() -> None:
    registry = Registry(seed=1)
    registry.arm(parse(POINT, "kill arm=retry.at_least_once"))
    assert registry.armed_for("retry.at_least_once#1") == [POINT]
    assert registry.armed_for(ALO) == []
    assert registry.decide(POINT, ALO) == Decision("go")
    assert registry.decide(POINT, "retry.at_least_once#1") == Decision("kill")
    assert registry.decide(POINT, "retry.at_least_once") == Decision("kill")


def test_a_pass_of_an_undeclared_failpoint_is_an_error_and_counts_nowhere() -> None:
    registry = Registry(seed=1)
    with pytest.raises(FailpointError, match="unknown failpoint"):
        registry.decide("no.such", ALO)
    assert registry.passes == {}


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
    assert registry.clear() == {(POINT, ""): {"passes": 0, "acted": 0}}
    assert registry.version > before
    assert registry.armed_for(ALO) == []
    assert registry.decide(POINT, ALO) == Decision("go")
