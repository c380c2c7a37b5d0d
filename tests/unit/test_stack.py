"""The table of parts, the settings and what is said before a start."""

import socket
from pathlib import Path

import pytest

from services.settings import Settings, SettingsError, read_settings
from services.stack import checks, jars
from services.stack.home import Home
from services.stack.launch import launch, order_of_start
from services.stack.parts import PARTS, UnknownPart, find, names


def test_every_dependency_is_a_part_and_starts_before_what_needs_it() -> None:
    order = order_of_start()
    assert sorted(order) == sorted(PARTS)
    for part in PARTS.values():
        assert all(order.index(dependency) < order.index(part.name) for dependency in part.after)


def test_starting_only_some_parts_takes_in_what_they_need() -> None:
    assert set(order_of_start(["provision"])) == {"postgres", "ledger", "kafka", "provision"}


def test_no_two_parts_share_a_port(tmp_path: Path) -> None:
    wanted = [
        offset + replica
        for part in PARTS.values()
        for offset, many in ((part.port, 1), (part.second_port, 1), (part.admin_port, 8 if part.replicable else 1))
        if offset
        for replica in range(many)
    ]
    assert len(wanted) == len(set(wanted))
    assert max(wanted) < 200


@pytest.mark.parametrize("name", ["no-such-process", "relay#x", "orders#1", "relay#", ""])
def test_an_unknown_process_is_named_and_the_known_ones_listed(name: str) -> None:
    with pytest.raises(UnknownPart, match=r"relay#0"):
        find(name)


def test_the_process_names_are_those_of_the_design() -> None:
    assert {"postgres", "ledger", "kafka", "orders", "relay#0", "arm.effectively_once#0", "provider"} <= set(names())


def test_a_service_gets_every_address_and_nothing_of_the_callers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    monkeypatch.setenv("LAB_CHUNK", "50")
    home = Home(tmp_path, 30_000)
    home.create()
    environment = launch(PARTS["relay"], 1, home, faults=True).environment
    settings = read_settings(environment)
    assert "SECRET_OF_THE_SHELL" not in environment
    assert settings.process == "relay#1"
    assert settings.chunk == 50
    assert settings.admin_port == home.port(PARTS["relay"].admin_port + 1)
    assert settings.faults is True
    assert settings.kafka == "127.0.0.1:30002"


@pytest.mark.parametrize(
    ("environment", "named"), [({"LAB_CHUNK": "many"}, "chunk"), ({"LAB_FAULTS": "maybe"}, "LAB_FAULTS")]
)
def test_a_setting_that_does_not_fit_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(environment)


def test_settings_that_nobody_gave_have_the_designs_defaults() -> None:
    assert read_settings({}) == Settings()
    assert (Settings().session_timeout_s, Settings().chunk, Settings().provider_timeout_s) == (6.0, 500, 2.0)


def test_a_port_in_use_is_said_with_its_purpose_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        base = taken.getsockname()[1] - PARTS["orders"].port
        found = checks.problems(Home(tmp_path, base))
    assert any(f"port {base + 20} (orders) is in use" in text and "LAB_PORT_BASE" in text for text in found)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "FREE_DISK_MB", 10**9)
    assert any("make room" in text for text in checks.problems(Home(tmp_path, 30_000)))


def test_the_lock_of_the_jars_holds_one_version_of_each_and_the_clients_of_the_broker() -> None:
    locked = jars.locked()
    assert len({(jar.group, jar.artifact) for jar in locked}) == len(locked)
    versions = {jar.artifact: jar.version for jar in locked}
    assert versions["kafka-clients"] == versions["kafka_2.13"] == "4.3.1"
    assert all(len(jar.sha256) == 64 for jar in locked)
