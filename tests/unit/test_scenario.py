"""Scenarios: all that are shipped can be played, what cannot be meant is refused by name, a seed is a plan."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from loadtest.kept import fresh_run
from loadtest.plan import Request, requests
from loadtest.play import doubts, fits
from loadtest.scenario import Kill, ScenarioError, names, parse_scenario, read
from loadtest.shapes import Phase, times
from loadtest.totals import Snapshot
from services.broker.reader import Bounds

CALM = """
teaches = "something"
[load]
phases = [{ rate = 10, duration_s = 10 }]
"""


@pytest.mark.parametrize("name", names())
def test_every_scenario_that_is_shipped_can_be_played_and_teaches_something_in_one_line(name: str) -> None:
    scenario = read(name)
    assert 40 < len(scenario.teaches) < 160
    assert "\n" not in scenario.teaches
    assert scenario.teaches.endswith(".")
    assert scenario.parts()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "teaches"),
        (CALM.replace("rate", "rat"), "rat"),
        (CALM + 'colour = "red"', "colour"),
        ('colour = "red"' + CALM, "colour"),
        (CALM.replace("= 10,", "= -1,"), "rate"),
        (CALM.replace("{ rate", '{ shape = "wave", rate'), "shape"),
        (CALM.replace("{ rate", '{ shape = "ramp", rate'), "phase 1: a ramp needs to_rate"),
        (CALM.replace("{ rate", "{ to_rate = 5, rate"), "to_rate"),
        (CALM.replace("{ rate", '{ shape = "burst", every_s = 60, rate'), "every_s"),
        (CALM.replace("= 10,", "= 0,"), "send nothing"),
        (CALM + "timeout_share = 0.9\nreset_share = 0.9", "more than 1"),
        (CALM + '[arms]\nconsumers = ["at_least_twice"]', "at_least_twice"),
        (CALM + '[arms]\npublishers = ["cdc"]', "outbox must be among them"),
        (CALM + '[arms]\nreplicas = { "orders" = 2 }', "'orders' is no part"),
        (CALM + '[promises]\ncdc = ["no_loss"]', "'cdc' does not take part"),
        (CALM + '[promises]\nstock_faust = ["no_loss"]', "stock_faust does not promise no_loss"),
        (CALM + '[[must_break]]\narm = "cdc"\nstate = "lost"', "cdc"),
        (CALM + '[[faults]]\ndo = "explode"\nat_s = 1', "explode"),
        (CALM + '[[faults]]\ndo = "kill"\nprocesses = ["relay"]', "say at_s, or between_s"),
        (CALM + '[[faults]]\ndo = "kill"\nat_s = 1\nprocesses = ["relais"]', "relais"),
        (CALM + '[[faults]]\ndo = "kill"\nat_s = 1\nprocesses = ["cdc"]', "cdc does not take part"),
        (CALM + '[[faults]]\ndo = "kill"\nbetween_s = [9, 3]\nprocesses = ["relay"]', "begin before its end"),
        (CALM + '[[faults]]\ndo = "arm"\nat_s = 1\nfailpoint = "process.never"\naction = "kill"', "process.never"),
        (CALM + '[[faults]]\ndo = "inject"\nat_s = 1\nkind = "venom"', "venom"),
        (CALM + "[settings]\nspeed = 3", "speed"),
        (CALM + '[settings]\nkey_lifetime_s = "long"', "float"),
        (CALM + '[alerts]\nmust = ["Sirens"]', "Sirens"),
        (CALM + '[alerts]\nmust = ["EventsLost"]\nmust_not = ["EventsLost"]', "EventsLost"),
        ("teaches = ", "Invalid value"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ScenarioError, match=r".") as refused:
        parse_scenario(text, "bad")
    assert named in str(refused.value)


def test_an_unknown_scenario_is_refused_with_the_names_of_those_that_there_are() -> None:
    with pytest.raises(ScenarioError, match="crash-storm"):
        read("crash-strom")


def test_a_scenario_can_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CALM)
    assert read(str(tmp_path / "mine.toml")).name == "mine"
    with pytest.raises(ScenarioError, match="No such file"):
        read(str(tmp_path / "none.toml"))


def without_run(request: Request, run: str) -> str:
    return repr(request).replace(run, "")


def test_two_runs_of_one_seed_have_the_same_requests_keys_and_faults_and_another_seed_has_others() -> None:
    scenario = read("crash-storm")
    first, second, other = (
        [without_run(request, run) for request in requests(scenario.plan(run, seed))]
        for run, seed in (("crash-storm-5", 5), ("crash-storm-5.2", 5), ("crash-storm-6", 6))
    )
    assert first == second
    assert first != other
    assert scenario.fault_plan(5) == scenario.fault_plan(5)
    assert scenario.fault_plan(5) != scenario.fault_plan(6)


def test_random_faults_come_one_in_each_slice_of_their_window() -> None:
    text = CALM + '[[faults]]\ndo = "kill"\nbetween_s = [2, 8]\ntimes = 3\nprocesses = ["relay"]'
    for seed in range(50):
        planned = parse_scenario(text, "s").fault_plan(seed)
        assert all(isinstance(one.step, Kill) for one in planned)
        assert [int((one.at_s - 2) // 2) for one in planned] == [0, 1, 2]


def test_the_shapes_send_what_they_name_when_they_name_it() -> None:
    phases = (
        Phase(rate=10, duration_s=2),
        Phase(shape="ramp", rate=0, to_rate=20, duration_s=2),
        Phase(rate=0, duration_s=5),
        Phase(shape="spike", rate=10, to_rate=30, duration_s=2),
        Phase(shape="burst", rate=5, every_s=1, duration_s=2),
    )
    found = list(times(phases))
    assert found == sorted(found)
    begins = [0, 2, 4, 9, 11, 13]
    counts = [sum(low <= at < high for at in found) for low, high in pairwise(begins)]
    assert counts == [20, 20, 0, 40, 10] == [phase.planned for phase in phases]
    ramp = [at - 2 for at in found if 2 <= at < 4]
    assert sum(at < 1 for at in ramp) == 5, "a quarter of a ramp from 0 comes in its first half"
    assert [at for at in found if at >= 11] == [11.0] * 5 + [12.0] * 5


def test_a_run_is_named_by_scenario_and_seed_and_a_repeat_is_numbered(tmp_path: Path) -> None:
    assert fresh_run(tmp_path, "calm", 7) == "calm-7"
    (tmp_path / "runs" / "calm-7").mkdir(parents=True)
    assert fresh_run(tmp_path, "calm", 7) == "calm-7.2"
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "calm-7.2.jsonl").touch()
    assert fresh_run(tmp_path, "calm", 7) == "calm-7.3"


def test_a_lab_with_other_arms_settings_or_without_faults_does_not_fit() -> None:
    scenario = parse_scenario(CALM + "[settings]\nkey_lifetime_s = 5", "s")
    up = {"faults": True, "parts": list(scenario.parts()), "settings": {"LAB_PUBLISHERS": "outbox"}}
    arms = {"LAB_PUBLISHERS": "outbox,cdc", "LAB_CONSUMERS": "at_least_once"}
    given = {**up, "settings": {"LAB_KEY_LIFETIME_S": "5", **arms}}
    assert fits(given, scenario, {}) == ""
    assert "other settings" in fits(up, scenario, {})
    assert "other settings" in fits(given, scenario, {"LAB_CHUNK": "7"})
    assert "without faults" in fits({**given, "faults": False}, scenario, {})
    assert "arm.stock_faust" in fits({**given, "parts": ["relay"]}, scenario, {})


TOTALS = Snapshot(run="r", seed=1, rate=1, duration_s=1, planned=1, sent=1, acknowledged=1, carried_out=True)


def test_records_of_the_run_that_the_broker_has_dropped_are_no_loss_but_a_doubt() -> None:
    partition = ("orders.v1", 0)
    before = Bounds({partition: 0}, {partition: 10})
    older = Bounds({partition: 10}, {partition: 30})
    assert doubts(TOTALS, before, older, interrupted=False) == []
    own = Bounds({partition: 11}, {partition: 30})
    assert "dropped records of this run from orders.v1/0" in doubts(TOTALS, before, own, interrupted=False)[0]


def test_a_run_that_was_cut_short_or_reached_nobody_is_in_doubt() -> None:
    nothing = Bounds({}, {})
    assert doubts(TOTALS, nothing, nothing, interrupted=True) == ["the run was interrupted"]
    cut = msgspec.structs.replace(TOTALS, carried_out=False)
    assert "not carried out" in doubts(cut, nothing, nothing, interrupted=False)[0]
    assert (
        "no request" in doubts(msgspec.structs.replace(TOTALS, acknowledged=0), nothing, nothing, interrupted=False)[0]
    )
