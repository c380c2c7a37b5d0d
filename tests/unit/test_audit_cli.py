"""`lab audit` as people read it: the answer first, never wider than 100 columns, and an exit code for machines."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab import audit as command
from lab.main import application
from services.auditor.audit import Unreachable
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.audit import COUNTS, AuditDocument, AuditRow, Evidence
from services.stack import running
from services.stack.home import Home

FULL = AuditRow(hop="process", arm="effectively_once", effect="record", **dict.fromkeys(COUNTS, 123_456))
CALM = AuditRow(hop="process", arm="effectively_once", effect="record", expected=7, applied_once=7)
LOST = Evidence(
    hop="process", arm="at_least_once", effect="charge", state="lost", message_id="0192-id", at=["orders.v1/3/17"],
    applications=0, trace_id="a" * 32, reason="[bold]no markup[/]",
)  # fmt: skip


def document(
    *rows: AuditRow, closes: bool = True, evidence: tuple[Evidence, ...] = (), left_out: int = 0
) -> AuditDocument:
    return AuditDocument(
        at=datetime(2026, 1, 2, tzinfo=UTC),
        closes=closes,
        rows=list(rows),
        dead_letter_causes={},
        evidence=list(evidence),
        evidence_left_out={"process/at_least_once/charge/lost": left_out} if left_out else {},
        run=None,
        out_of_scope=0,
        undecodable=0,
        ledger_lines_skipped=0,
        truncated=[],
        took_s=0.1,
    )


def shown(of: AuditDocument, monkeypatch: pytest.MonkeyPatch, *, width: int = 200) -> list[str]:
    console = Console(width=width, record=True, highlight=False)
    monkeypatch.setattr(command, "out", console)
    command.show(of)
    return console.export_text().splitlines()


def test_the_first_line_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(document(CALM), monkeypatch)[0].startswith("the law closes · lost 0 · duplicated 0")
    row = msgspec.structs.replace(CALM, lost=2, unexplained=1)
    answer = shown(document(row, closes=False), monkeypatch)[0]
    assert answer.startswith("the law does not close: 1 unexplained · lost 2")


def test_a_count_that_is_0_everywhere_has_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(shown(document(CALM), monkeypatch)[1:])
    assert "expected" in text
    assert not any(word in text for word in ("lost", "duplicated", "waiting", "uncertain"))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_is_never_wider_than_100_columns_and_cuts_no_number(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = shown(document(FULL, CALM), monkeypatch, width=width)[1:]
    assert max(len(line.rstrip()) for line in lines) <= min(width, 100)
    assert "…" not in "".join(lines)


def test_evidence_is_shown_as_it_is_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(shown(document(CALM, evidence=(LOST,) * 9, left_out=30), monkeypatch))
    assert "lost process/at_least_once/charge 0192-id" in text
    assert "orders.v1/3/17" in text
    assert "[bold]no markup[/]" in text
    assert "34 more" in text


@pytest.mark.parametrize(("closes", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_the_law_closes_whatever_was_lost(
    monkeypatch: pytest.MonkeyPatch, up: Path, closes: bool, code: int
) -> None:
    answer = document(msgspec.structs.replace(CALM, lost=3), closes=closes, evidence=(LOST,))

    async def audited(
        *_: object, arms: tuple[ConsumerArm, ...], publishers: tuple[PublisherArm, ...], **__: object
    ) -> AuditDocument:
        assert ([arm.name for arm in arms], [arm.name for arm in publishers]) == (["at_least_once"], ["outbox", "cdc"])
        return answer

    monkeypatch.setattr(command, "carry_out", audited)
    result = CliRunner().invoke(application(), ["audit", "--json"])
    assert result.exit_code == code
    told = msgspec.json.decode(result.stdout)
    assert (told["closes"], told["rows"][0]["lost"], told["evidence"][0]["message_id"]) == (closes, 3, "0192-id")


def test_a_store_that_is_away_is_exit_code_3_with_a_sentence(monkeypatch: pytest.MonkeyPatch, up: Path) -> None:
    async def away(*_: object, **__: object) -> AuditDocument:
        raise Unreachable("Kafka cannot be read: no answer")

    monkeypatch.setattr(command, "carry_out", away)
    result = CliRunner().invoke(application(), ["audit"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert "Kafka cannot be read" in result.stderr


def test_a_lab_that_is_not_up_is_exit_code_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    result = CliRunner().invoke(application(), ["audit", "--json"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert "lab up" in result.stderr


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A lab that says that it is up."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path))
    Home.from_environment().create()
    monkeypatch.setattr(Home, "read_state", lambda _: {"pid": 1})
    monkeypatch.setattr(running, "status", lambda _: {"parts": ["orders", "orders.cdc", "cdc", "arm.at_least_once"]})
    return tmp_path


def test_explain_asks_for_a_message_id() -> None:
    answer = CliRunner().invoke(application(), ["explain", "nonsense"])
    assert answer.exit_code == 2
    assert "is no message id" in answer.stderr
