"""Where the promise of `effectively_once` ends: an old copy that inbox and provider have forgotten is applied again."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from tests.conftest import Lab, free_home
from tests.waiting import until

WINDOW_S = 15.0  # longer than a message takes on a busy machine
LIFETIME_S = 10.0


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose inbox and whose provider remember for seconds, and whose arm applies what they may have forgotten.

    Only `lab up` is told so, as by a person whose next shell knows nothing of it.
    """
    started = Lab(free_home(tmp_path_factory.mktemp("forgetful")))
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("LAB_DEDUP_WINDOW_S", str(WINDOW_S))
        shell.setenv("LAB_KEY_LIFETIME_S", str(LIFETIME_S))
        shell.setenv("LAB_APPLY_OLDER_THAN_WINDOW", "1")
        shell.setenv("LAB_CHARGE_AFTER_KEY_LIFETIME", "1")
        started.cli("up", "--faults", "--arms", "effectively_once", timeout_s=400)
    try:
        yield started
    finally:
        started.cli("down")


def rows(lab: Lab) -> dict[str, dict[str, Any]]:
    """The audit's rows of the arm, by effect."""
    audit = json.loads(lab.cli("audit", "--json"))
    assert audit["closes"]
    return {row["effect"]: row for row in audit["rows"] if row["arm"] == "effectively_once"}


async def forgotten(lab: Lab, since: float) -> None:
    """Wait until the inbox knows no id any more, and the provider no key that it was told before `since`."""

    async def neither_remembers() -> bool:
        return time.monotonic() > since + LIFETIME_S and not await remembered(lab)

    await until(neither_remembers, "inbox and provider to forget")


async def remembered(lab: Lab) -> int:
    query = "SELECT count(*) FROM effectively_once.inbox"
    ((count,),) = await fetched(f"{lab.home.addresses()['LAB_POSTGRES']}/payments", query)
    return int(count)


async def test_an_old_copy_is_charged_again_when_it_is_forced_and_only_then(forgetful: Lab) -> None:
    lab = forgetful
    now = datetime.now(UTC)
    began = now.isoformat()
    lab.cli("load", "--rate", "10", "--duration", "3s")
    lab.drain()
    drained = time.monotonic()
    before = rows(lab)
    assert before["charge"]["applied_once"] > 0
    assert before["charge"]["duplicated"] <= len(unanswered(lab, now)), "only what was called in vain may have waited"
    await forgotten(lab, drained)
    window = ["--arm", "effectively_once", "--topic", "orders.v1", "--from", began, "--to", "now"]
    lab.cli("replay", *window, exits=2)  # older than the window, which this shell does not know
    assert rows(lab) == before
    replayed = json.loads(lab.cli("replay", *window, "--force", "--json"))["copied"]
    lab.drain()
    after = rows(lab)
    assert replayed >= after["charge"]["duplicated"] == await accepted(lab, now) > 0  # the relay may publish twice
    assert after["charge"]["lost"] == after["record"]["duplicated"] == 0  # a record's id is unique for ever


async def test_a_charge_that_is_repeated_after_its_keys_lifetime_is_made_twice(forgetful: Lab) -> None:
    lab, now = forgetful, datetime.now(UTC)
    before, doubled_before = rows(lab), await charged_twice(lab)
    failing = "provider.after_applying_before_answer", "error:http_500", "count=1", "arm=effectively_once"
    lab.cli("fault", "arm", *failing)
    lab.cli("freeze", "retry.effectively_once#0")
    lab.cli("load", "--rate", "10", "--duration", "3s")
    lab.until(lambda: hits(lab) == 1, "a charge to be made and not answered")
    charged = time.monotonic()
    lab.until(lambda: time.monotonic() > charged + LIFETIME_S, "the provider to forget")
    lab.cli("thaw", "retry.effectively_once#0")
    lab.drain()
    after = rows(lab)
    doubled = await charged_twice(lab) - doubled_before
    in_vain = unanswered(lab, now)  # one, and on a slow machine others that waited as long
    assert {id_ for id_, detail in in_vain.items() if failing[0] in detail} <= doubled <= in_vain.keys()
    assert after["charge"]["duplicated"] - before["charge"]["duplicated"] == len(doubled) >= 1
    assert after["charge"]["lost"] == after["charge"]["dead_lettered"] == 0


def unanswered(lab: Lab, since: datetime) -> dict[str, str]:
    """The messages whose charge the arm did not hear of, and why: they may be charged when their keys are forgotten."""
    lines = lab.home.log_file("arm.effectively_once#0").read_text().splitlines()
    events = [event for line in lines if (event := json.loads(line))["event"] == "message.deferred"]
    reasons = ("provider_error", "timeout", "connection_lost")
    late = [e for e in events if e["reason"] in reasons and datetime.fromisoformat(e["time"]) >= since]
    return {event["message.id"]: event["detail"] for event in late}


async def charged_twice(lab: Lab) -> set[str]:
    query = (
        "SELECT message_id FROM applications WHERE account = 'effectively_once' AND effect = 'charge'"
        " GROUP BY 1 HAVING count(*) > 1"
    )
    return {row["message_id"] for row in await fetched(f"{lab.home.addresses()['LAB_LEDGER']}/provider", query)}


async def accepted(lab: Lab, since: datetime) -> int:
    """How many orders were made."""
    query = "SELECT count(*) FROM intents WHERE created_at >= $1"
    ((count,),) = await fetched(f"{lab.home.addresses()['LAB_POSTGRES']}/orders", query, since)
    return int(count)


async def fetched(dsn: str, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


def hits(lab: Lab) -> int:
    """How often the armed failpoint struck."""
    points = json.loads(lab.cli("fault", "list", "--json"))["failpoints"]
    return sum(armed["acted"] for point in points for armed in point["armed"])
