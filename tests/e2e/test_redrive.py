"""Redrive and replay on a whole lab: no second effect in `effectively_once`, counted additions in `at_least_once`."""

import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from lab.output import Exit
from services.domain.messages import ORDERS
from tests.conftest import Lab

pytestmark = [pytest.mark.usefixtures("swept"), pytest.mark.timeout(1800)]  # each drain has five minutes
CHARGES_REFUSED = ("provider.before_applying", "error:http_400 arm=effectively_once")


class Effects(msgspec.Struct, frozen=True):
    """What an arm did for a run: applications, and of how many messages."""

    records: tuple[int, int]
    charges: tuple[int, int]
    parked: int


class Bench(msgspec.Struct, frozen=True):
    """A lab and a look into what its arms did."""

    lab: Lab
    payments: Any
    provider: Any

    def load(self, run: str) -> int:
        """Send orders and refunds for a few seconds; how many were acknowledged."""
        words = ("load", "--rate", "40", "--duration", "5s", "--seed", "7", "--run", run, "--json")
        return int(json.loads(self.lab.cli(*words))["acknowledged"])

    async def effects(self, arm: str, run: str) -> Effects:
        ids = [row[0] for row in await self.payments.fetch(f"SELECT message_id FROM {arm}.records WHERE run = $1", run)]  # noqa: S608
        charges = await self.provider.fetch(
            "SELECT message_id FROM applications WHERE account = $1 AND effect = 'charge' AND message_id = ANY ($2)",
            arm, [str(message_id) for message_id in ids],
        )  # fmt: skip
        parked = await self.payments.fetchval(
            f"SELECT count(*) FROM {arm}.dead_letters WHERE run = $1 AND state = 'parked'",  # noqa: S608
            run,
        )
        return Effects((len(ids), len(set(ids))), (len(charges), len({row[0] for row in charges})), parked)


@pytest.fixture
async def bench(lab: Lab) -> AsyncIterator[Bench]:
    addresses = lab.home.addresses()
    payments = await asyncpg.connect(f"{addresses['LAB_POSTGRES']}/payments")
    provider = await asyncpg.connect(f"{addresses['LAB_LEDGER']}/provider")
    yield Bench(lab, payments, provider)
    lab.cli("fault", "clear")
    await payments.close()
    await provider.close()


def replay(lab: Lab, *words: str, exits: int = 0) -> str:
    """`lab replay WORDS`; said again, as it promises to go on, while the broker had no answer: four times at most."""
    for _ in range(4):
        done = lab.run("replay", *words)
        if done.returncode != Exit.NOT_UP:
            break
    assert done.returncode == exits, done.stderr[-2000:]
    return done.stdout


async def test_a_replay_killed_half_way_and_resumed_adds_nothing_in_effectively_once_and_is_counted_in_at_least_once(
    bench: Bench,
) -> None:
    bench.lab.drain()  # what another test left would come into the window
    lab, run, begun = bench.lab, "replayed", datetime.now(UTC)
    assert bench.load(run) > 100
    lab.drain()
    before = {arm: await bench.effects(arm, run) for arm in ("effectively_once", "at_least_once")}
    window = ("--topic", "orders.v1", "--from", begun.isoformat(), "--to", datetime.now(UTC).isoformat())
    counted = json.loads(lab.cli("replay", "--arm", "effectively_once", *window, "--dry-run", "--json"))
    assert (counted["records"], counted["copied"]) == (counted["records"], 0)
    assert counted["records"] > 50
    for arm in before:
        lab.cli("fault", "arm", "replay.half_way", "kill count=1")
        replay(lab, "--arm", arm, *window, "--id", f"t-{arm}", exits=-signal.SIGKILL)
        done = json.loads(replay(lab, "--id", f"t-{arm}", "--json"))
        assert done["copied_before"] + done["copied"] == counted["records"]
    lab.drain()
    assert await bench.effects("effectively_once", run) == before["effectively_once"]
    hits = "SELECT count(DISTINCT message_id) FROM effectively_once.dedup_hits WHERE reason = 'replay' AND at >= $1"
    orders = "SELECT count(*) FROM effectively_once.records WHERE run = $1 AND type = $2"
    wanted = await bench.payments.fetchval(orders, run, ORDERS.type)
    assert 50 < wanted <= counted["records"]  # the relay may have published a row twice
    assert await bench.payments.fetchval(hits, begun) == wanted
    after = await bench.effects("at_least_once", run)
    assert after.records[0] >= before["at_least_once"].records[0] + counted["records"]
    assert after.records[1] == before["at_least_once"].records[1]
    assert after.charges[0] > before["at_least_once"].charges[0]


async def test_letters_redriven_half_way_and_again_are_applied_exactly_once(bench: Bench) -> None:
    lab, run = bench.lab, "redriven"
    lab.arm(*CHARGES_REFUSED)
    assert bench.load(run) > 100
    lab.drain()
    parked = (await bench.effects("effectively_once", run)).parked
    assert parked > 100
    lab.cli("fault", "clear")
    words = ("dlq", "redrive", "--arm", "effectively_once", "--reason", "refused")
    assert json.loads(lab.cli(*words, "--dry-run", "--json"))["redriven"] >= parked
    lab.cli("fault", "arm", "redrive.half_way", "kill count=1")
    lab.cli(*words, "--why", "the provider is mended", exits=-signal.SIGKILL)
    lab.cli(*words, "--why", "the provider is mended")
    lab.drain()
    effects = await bench.effects("effectively_once", run)
    assert effects.parked == 0
    assert effects.records[0] == effects.records[1]
    assert effects.charges[0] == effects.charges[1]
    applied = "SELECT count(*) FROM effectively_once.records WHERE run = $1 AND status <> 'applied'"
    assert await bench.payments.fetchval(applied, run) == 0
    letters = json.loads(lab.cli("dlq", "list", "--arm", "effectively_once", "--limit", "1000", "--json"))["letters"]
    mine = [letter for letter in letters if letter["run"] == run]
    assert {(letter["state"], letter["rounds"]) for letter in mine} == {("redriven", 1)}
    assert json.loads(lab.cli("dlq", "show", mine[0]["letter"], "--json"))["log"][0]["why"] == "the provider is mended"
    lab.cli("dlq", "redrive", mine[0]["letter"], "--why", "again", exits=1)
    lab.cli("dlq", "redrive", "no-such-id", exits=2)
