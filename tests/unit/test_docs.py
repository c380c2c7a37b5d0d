"""What the docs say of the code is what the code says of itself."""

import re
from pathlib import Path

from lab import numbers, semantics
from lab.main import application
from lab.reference import FILE, reference
from loadtest.proof import proved
from loadtest.scenario import names
from services.domain.failure_policy import ATTEMPTS, FIRST_DELAY_S, GIVE_UP_AFTER_S, TIERS
from services.telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[2]


def test_the_reference_is_what_the_code_would_write() -> None:
    assert FILE.read_text() == reference(), "out of date: run `make docs`"


def test_the_reference_tells_what_waits_in_tiers_from_what_is_tried_in_place() -> None:
    sections = {part.partition("\n")[0]: part for part in reference().split("\n## ")}
    calls, stores = sections["Failed calls to the provider"], sections["Failures of stores and broker"]
    of_calls = [f"`{tier.name}`" for tier in TIERS] + [f"after {ATTEMPTS} attempts", "Retry-After", "no attempt"]
    of_stores = [f"{FIRST_DELAY_S:g} s", f"longer than {GIVE_UP_AFTER_S:g} s", "SQLSTATE"]
    assert all(words in calls and words not in stores for words in of_calls)
    assert all(words in stores and words not in calls for words in of_stores)


def test_the_semantics_are_what_the_code_would_write() -> None:
    assert semantics.FILE.read_text() == semantics.semantics(proved()), "out of date: run `make docs`"


def test_the_page_of_telemetry_is_what_the_code_would_write() -> None:
    assert numbers.FILE.read_text() == numbers.numbers(), "out of date: run `make docs`"


def test_every_metric_that_the_page_of_telemetry_speaks_of_exists() -> None:
    names = {metric.prometheus for metric in METRICS.values()}
    spoken = set(re.findall(r"`((?:delivery|messaging|process)_[a-z_]+)[`{]", numbers.FILE.read_text()))
    assert spoken - {"delivery_consumer_lag_"} <= names


def test_every_answer_names_a_scenario_that_there_is() -> None:
    asked = {question.scenario for question in (*semantics.TRAPS, *semantics.FAILURES)}
    assert asked <= set(names())


def test_every_command_that_the_readme_names_exists() -> None:
    app = application()
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups}
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"`lab ([a-z]+)", readme)) <= known
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)) <= targets
