"""Which scenarios a lab in containers can play as it is, and what is said of the others."""

from typing import Any

import pytest

from loadtest.contained import obstacles
from loadtest.scenario import names, read
from services.stack import compose
from services.stack.parts import of_arms

PLAYED = {
    "ambiguous-timeout", "auditor-frozen", "calm", "crash-storm", "duplicate-storm", "offsets-deleted", "poison",
    "provider-brownout", "provider-killed", "redrive", "relay-frozen", "replay", "same-id-other-payload", "tour",
    "zombie",
}  # fmt: skip


def status(publishers: tuple[str, ...] = compose.PUBLISHERS, **settings: str) -> dict[str, Any]:
    return {"parts": of_arms(publishers), "settings": {"LAB_PUBLISHERS": ",".join(publishers), **settings}}


def test_what_docker_compose_up_starts_can_play_these_scenarios_the_tour_among_them() -> None:
    assert {name for name in names() if not list(obstacles(status(), read(name), {}))} == PLAYED


@pytest.mark.parametrize("scenario", ["dual-write", "id-gap"])
def test_what_needs_another_publisher_names_it_and_the_profile(scenario: str) -> None:
    (said,) = obstacles(status(), read(scenario), {})
    assert f"LAB_PUBLISHERS={','.join(read(scenario).arms.publishers)}" in said
    assert "docker compose --profile publishers up" in said
    assert not list(obstacles(status(read(scenario).arms.publishers), read(scenario), {}))


@pytest.mark.parametrize(("scenario", "server"), [("broker-restart", "kafka"), ("database-restart", "postgres")])
def test_what_strikes_a_broker_or_a_database_says_that_nobody_could(scenario: str, server: str) -> None:
    (said,) = obstacles(status(), read(scenario), {})
    assert said.startswith(f"{server} runs in a container of its own image, without a keeper")


@pytest.mark.parametrize(
    ("scenario", "setting"),
    [("provider-key-expired", "LAB_KEY_LIFETIME_S=8"), ("dedup-window-expired", "LAB_DEDUP_WINDOW_S=60")],
)
def test_what_needs_other_settings_says_how_they_are_given(scenario: str, setting: str) -> None:
    (said,) = obstacles(status(), read(scenario), {})
    assert f"{setting} docker compose up" in said
    name, _, value = setting.partition("=")
    assert not list(obstacles(status(**{name: value}), read(scenario), {name: value}))


def test_a_setting_that_the_lab_has_and_the_scenario_has_not_is_to_be_unset() -> None:
    said = list(obstacles(status(LAB_CHUNK="7"), read("tour"), {}))
    assert said == ["it needs other settings: unset LAB_CHUNK, then docker compose up --wait"]
    assert not list(obstacles(status(LAB_CHUNK="7"), read("tour"), {"LAB_CHUNK": "7"}))
