"""Letters' names, what is not redriven without force, and what the command line refuses before it looks at a lab."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from lab import dlq
from lab.main import application
from services.domain.messages import Coordinates
from services.letters.letters import SQL, Name, UnknownLetter, parse_name
from services.letters.parked import Parked
from services.letters.redrive import MOST_ROUNDS, objection, written_at
from services.settings import Settings
from services.stack import client
from services.stack.home import Home

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY_S = 86_400.0


def uuid7(at: datetime) -> UUID:
    return UUID(int=int(at.timestamp() * 1000) << 80 | 0x7 << 76 | 0x8 << 60 | 5)


def letter(rounds: int = 0, written: datetime | None = NOW, failed: datetime = NOW) -> Parked:
    return Parked(
        name=Name("effectively_once", 1), at=Coordinates("t", 0, 0), rounds=rounds, first_failure=failed, key=None,
        message_id=None if written is None else uuid7(written), headers=[], away=False,
    )  # fmt: skip


def test_a_letter_is_named_by_its_arm_and_number() -> None:
    assert parse_name("at_least_once/12") == Name("at_least_once", 12)
    assert str(Name("at_least_once", 12)) == "at_least_once/12"


@pytest.mark.parametrize(
    "text", ["", "12", "at_least_once", "at_least_once/", "at_least_once/0", "at_least_once/-1", "at_least_once/x",
             "nobody/1", "at_least_once/1/2", f"at_least_once/{2**63}"],
)  # fmt: skip
def test_anything_else_is_no_letter_and_what_would_do_is_said(text: str) -> None:
    with pytest.raises(UnknownLetter, match="ARM/NUMBER"):
        parse_name(text)


@pytest.mark.parametrize(
    ("given", "window_s", "why"),
    [
        (letter(), DAY_S, ""),
        (letter(rounds=MOST_ROUNDS - 1), DAY_S, ""),
        (letter(rounds=MOST_ROUNDS), None, "came back 3 times"),
        (letter(written=NOW - timedelta(hours=23)), DAY_S, ""),
        (letter(written=NOW - timedelta(hours=25)), DAY_S, "older than the dedup window"),
        (letter(written=NOW - timedelta(hours=25)), None, ""),  # an arm that forgets nothing, as it knows nothing
        (letter(written=None, failed=NOW - timedelta(hours=25)), DAY_S, "older than the dedup window"),
    ],
)
def test_what_needs_force(given: Parked, window_s: float | None, why: str) -> None:
    said = objection(given, NOW, window_s)
    assert why in said
    assert bool(said) == bool(why)


def test_a_uuid7_says_when_it_was_written_and_no_other_id_does() -> None:
    assert written_at(UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert written_at(uuid4()) is None
    assert written_at(None) is None


def test_every_statement_is_for_one_arms_tables() -> None:
    assert all("{schema}." in statement for statement in SQL.values())


@pytest.mark.parametrize(
    ("data", "text"), [(b"c-1", "c-1"), (b"\xff\x00", "hex:ff00"), (b"a\x00", "hex:6100"), (None, None), (b"", "")]
)
def test_bytes_are_shown_as_text_where_they_are_text(data: bytes | None, text: str | None) -> None:
    assert dlq._readable(data) == text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("redrive no-such-id", "no-such-id"),
        ("discard no-such-id --why x", "no-such-id"),
        ("show no-such-id", "no-such-id"),
        ("redrive --why x", "--all"),
        ("redrive --all", "--why"),
        ("redrive at_least_once/1 --why ''", "--why"),
        ("redrive at_least_once/1 --arm at_least_once --why x", "not both"),
        ("redrive --all --reason refused --why x", "--all"),
        ("redrive --arm nobody --why x", "nobody"),
        ("list --state lost", "lost"),
        ("list --since tomorrow", "tomorrow"),
        ("list --id 5", "'5' is no UUID"),
        ("list --limit 0", "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_named_with_exit_code_2(
    words: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    done = CliRunner().invoke(application(), f"dlq {words}")
    assert done.exit_code == 2
    assert named in done.output.replace("\n", " ")


def test_what_an_arm_remembers_is_the_running_labs_word_and_not_the_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Home(tmp_path, 60_000)
    place.create()
    monkeypatch.setattr(client, "call", lambda *_, **__: {"settings": {"LAB_DEDUP_WINDOW_S": "600"}})
    monkeypatch.setenv("LAB_DEDUP_WINDOW_S", "5")
    monkeypatch.setenv("LAB_CHUNK", "many")
    settings = dlq.settings_of_lab(place)
    assert settings.dedup_window_s == 600
    assert settings.kafka == "127.0.0.1:60002"
    monkeypatch.setattr(client, "call", lambda *_, **__: {"settings": {}})
    assert dlq.settings_of_lab(place).dedup_window_s == Settings().dedup_window_s


def test_without_a_lab_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    done = CliRunner().invoke(application(), "dlq list --json")
    assert done.exit_code == 3
    assert "lab up" in done.output
