"""The auditor while the lab runs, on real stores: what is new is taken in, late commits too, and findings outlive it.

The stores are shared and hold other tests' messages: every case looks at its own ones.
"""

import asyncio
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from services.auditor import __main__ as root
from services.auditor import cursor, taking
from services.auditor.findings import Findings
from services.auditor.live import GRACE_S, Found, When
from services.auditor.taking import Taking
from services.domain.arms import PUBLISHER_ARMS
from services.domain.audit import AuditDocument, Evidence
from services.domain.messages import ORDERS
from services.settings import Settings
from services.storage.postgres import connect
from services.telemetry.logs import Log
from services.telemetry.metrics import Metrics
from tests.integration.test_auditor import World, opened
from tests.waiting import answered, until

OUTBOX = PUBLISHER_ARMS["outbox"]


class Watch:
    """Passes of a live audit over a world; time is made to pass by saying so."""

    def __init__(self, world: World, home: Path) -> None:
        self.world, self.ahead_s = world, 0.0
        settings = msgspec.structs.replace(world.settings, home=str(home))
        self.taking = Taking(settings, [OUTBOX], [world.arm])
        self.bad: dict[tuple[str, str, UUID], int] = {}  # effect, state, message

    async def look(self) -> None:
        """Take in all there is, and judge it now and a grace later."""
        held = await answered(self.taking.look)
        while self.taking.behind:
            for found in self.taking.live.settle(held):
                self._note(found)
            self.taking.live.forget(0, held.answers)
            held = await answered(self.taking.look)
        for _ in range(2):
            now = time.time() + self.ahead_s
            done = self.taking.live.judge(held, When(now, now))
            assert all(row.unexplained == 0 and row.expected == row.accounted() for row in done.rows)
            for found in done.found:
                self._note(found)
            self.ahead_s += GRACE_S

    def _note(self, found: Found) -> None:
        hop, arm, effect = found.row.split("/")
        if (hop, arm) == ("process", self.world.arm.name) and isinstance(found.key, bytes):
            self.bad[effect, found.state, UUID(bytes=found.key)] = found.many

    def about(self, message_id: UUID) -> dict[tuple[str, str], int]:
        """What is bad about a message by now."""
        return {place[:2]: many for place, many in self.bad.items() if place[2] == message_id and many}


@pytest.fixture(params=[20_000, 10], ids=["at-once", "bit-by-bit"])
async def watch(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watch]:
    """`bit-by-bit`: as an old lab is read, so much of each place in a look, and what is settled is put away."""
    (tmp_path / "ledger").mkdir()
    for bound in ("_ROWS", "_RECORDS"):
        monkeypatch.setattr(taking, bound, request.param)
    async with opened(World(settings, tmp_path / "ledger")) as world:
        watching = Watch(world, tmp_path)
        await watching.look()
        yield watching
        await watching.taking.close()


async def test_what_is_lost_doubled_and_made_up_is_found_and_a_loss_can_be_taken_back(watch: Watch) -> None:
    world = watch.world
    assert not any(watch.about(message.id) for message in world.messages)
    late, ghost = await world.seed(ORDERS, apply=False), uuid4()
    await world.apply(world.messages[0], "charge")
    await world.apply(msgspec.structs.replace(world.messages[1], id=ghost), "record")
    await world.commit()
    await watch.look()
    assert watch.about(late.id) == {(effect, "lost"): 1 for effect in world.arm.effects}
    assert watch.about(world.messages[0].id) == {("charge", "duplicated"): 1}
    assert watch.about(ghost) == {("record", "unexpected"): 1}
    await world.apply(late, "record")
    await watch.look()
    assert watch.about(late.id) == {("charge", "lost"): 1, ("email", "lost"): 1}


@pytest.mark.parametrize("effect", ["record", "charge"])
@pytest.mark.parametrize("known", [True, False], ids=["young", "old"])
async def test_a_row_that_was_taken_away_is_missed_whatever_comes_meanwhile(
    watch: Watch, effect: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, victim = watch.world, watch.world.messages[2]
    monkeypatch.setattr(cursor, "_SETTLES_S", 0.2)  # no number is drawn here long before its row is there
    if not known:
        monkeypatch.setattr(taking, "_LATELY", 0)
        await watch.taking.read_anew()
        await watch.look()
    await world.seed(ORDERS)  # a row above the victim's, so that the cursor can pass that

    async def passed() -> bool:
        await watch.look()
        table = watch.taking._records[world.arm.name] if effect == "record" else watch.taking._calls
        return await world.number_of(victim, effect) <= table.cursor.floor

    await until(passed, "the cursor to pass the row")
    if effect == "record":
        await world.payments("DELETE FROM {schema}.records WHERE message_id = $1", victim.id)
    else:
        await world.databases["provider"].execute(
            "DELETE FROM applications WHERE effect = 'charge' AND message_id = $1", str(victim.id)
        )
    for _ in range(3):  # there are more rows than before
        await world.seed(ORDERS)
    before = watch.taking.live
    await watch.taking.count_rows()
    assert (watch.taking.live is before) == known, "what is known is taken back, else all is read again"
    await watch.look()
    assert watch.about(victim.id) == {(effect, "lost"): 1}
    read = watch.taking.live
    await watch.taking.count_rows()
    assert watch.taking.live is read, "it is missed once"


async def test_what_is_made_while_a_look_lasts_longer_than_the_grace_is_not_called_unexpected(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, taken, made = watch.world, watch.taking, list[UUID]()
    records = taken._new_records

    async def after_the_intents() -> None:
        made.append((await world.seed(ORDERS)).id)
        await records()

    with monkeypatch.context() as slow:
        slow.setattr(taken, "_new_records", after_the_intents)
        began = time.time()
        held = await answered(taken.look)
    ids = {id_.bytes for id_ in made}
    assert ids
    found = taken.live.judge(held, When(began, began + 2 * GRACE_S)).found
    assert not [one for one in found if one.key in ids]
    later = time.time() + GRACE_S  # begun then, and the intents are still not there
    found = taken.live.judge(held, When(later, later)).found
    assert {one.key for one in found if one.state == "unexpected"} >= ids
    await world.commit()
    await watch.look()
    assert [watch.about(id_) for id_ in made] == [{}] * len(made)


async def test_an_effect_that_commits_late_is_not_skipped(watch: Watch) -> None:
    world = watch.world
    late = await world.seed(ORDERS, apply=False)
    other = await connect(world.settings.postgres, "payments", name="test")
    transaction = other.transaction()
    await transaction.start()
    first, world.databases["payments"] = world.databases["payments"], other
    await world.apply(late, "record")  # it draws its number now and commits after the rows below
    world.databases["payments"] = first
    early = await world.seed(ORDERS)
    await world.commit()
    await watch.look()
    assert watch.about(early.id) == {}
    assert ("record", "lost") in watch.about(late.id)
    await transaction.commit()
    await other.close()
    await watch.look()
    assert ("record", "lost") not in watch.about(late.id)


@contextmanager
def auditor(settings: Settings, home: Path) -> Iterator[Callable[[str], str]]:
    """The process, ready; the block asks it by path."""
    (home / "logs").mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {
        **os.environ, "LAB_PROCESS": "auditor", "LAB_HOME": str(home), "LAB_ADMIN_PORT": str(port),
        "LAB_POSTGRES": settings.postgres, "LAB_LEDGER": settings.ledger, "LAB_KAFKA": settings.kafka,
        "LAB_CONSUMERS": "at_least_once", "LAB_LOG_FILE": str(home / "logs" / "auditor.log"),
    }  # fmt: skip

    def ask(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    process = Popen([sys.executable, "-m", "services.auditor"], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not _answers(ask, "/readyz"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield ask
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _answers(ask: Callable[[str], str], path: str) -> bool:
    try:
        return bool(ask(path))
    except (OSError, urllib.error.HTTPError):
        return False


def counted(metrics: str) -> float:
    """Ghosts among the records of at_least_once that were ever found."""
    labels = ('arm="at_least_once"', 'effect="record"', 'hop="process"')
    lines = (line for line in metrics.splitlines() if line.startswith("delivery_audit_unexpected_total{"))
    (line,) = (line for line in lines if all(label in line for label in labels))
    return float(line.split()[-1])


async def test_the_process_finds_a_ghost_and_its_counters_outlive_it(settings: Settings, tmp_path: Path) -> None:
    payments = await connect(settings.postgres, "payments", name="test")
    ghost = uuid4()
    ask: Callable[[str], str]
    try:
        with auditor(settings, tmp_path) as ask:
            before = counted(ask("/metrics"))
            await payments.execute(
                """INSERT INTO at_least_once.records (message_id, run, type, business_id, customer_id, amount_cents,
                                                      currency, topic, partition, "offset", life)
                   VALUES ($1, 'r', 't', 'b', 'c', 1, 'EUR', 'orders.v1', 0, 0, gen_random_uuid())""",
                ghost,
            )  # fmt: skip
            deadline = time.monotonic() + 60
            while counted(ask("/metrics")) <= before:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.5)
            live = msgspec.json.decode(ask("/live"), type=AuditDocument)
            assert str(ghost) in {item.message_id for item in live.evidence if item.state == "unexpected"}
            assert live.closes
            stands = counted(ask("/metrics"))
            await the_verdict_says_so(settings)
        with auditor(settings, tmp_path) as ask:
            assert counted(ask("/metrics")) >= stands
    finally:
        await payments.execute("DELETE FROM at_least_once.records WHERE message_id = $1", ghost)
        await payments.close()


async def test_stories_are_told_once_all_is_read_and_no_pass_waits_for_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "_TELL_EVERY_S", 0.01)
    (tmp_path / "ledger").mkdir()
    life = str(uuid4())
    log = Log("auditor", life, str(tmp_path / "auditor.log"))
    told = msgspec.structs.replace(settings, home=str(tmp_path), consumers="at_least_once")
    auditor, asked = root.Auditor(told, Metrics("auditor", life), log), asyncio.Event()

    judged_before: list[bool] = []

    async def endless() -> list[Evidence]:
        judged_before.append(bool(auditor.rows))
        asked.set()
        return await asyncio.Future()

    monkeypatch.setattr(Findings, "untold", lambda _: endless())
    loops = [asyncio.create_task(auditor.tell()), asyncio.create_task(auditor.run())]
    try:
        await asyncio.wait_for(asked.wait(), 30)
        assert judged_before == [True]
        before = auditor.at

        async def passed() -> bool:
            assert not any(loop.done() for loop in loops)
            return auditor.at > before

        await until(passed, "another pass")
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await auditor.close()


async def test_what_was_found_of_an_arm_that_is_not_audited_now_stands_untouched(settings: Settings) -> None:
    findings, lost = Findings(settings, ["mine"]), {arm: uuid4() for arm in ("mine", "other")}
    database = await connect(settings.ledger, "auditor", name="test")
    try:
        await findings.write([Found(f"process/{arm}/record", "lost", key.bytes, 1) for arm, key in lost.items()])
        assert {item.arm for item in await findings.untold()} == {"mine"}
        await findings.reconcile([])
        query = "SELECT arm FROM findings WHERE gone_at IS NULL AND arm = ANY ($1)"
        assert [arm for (arm,) in await database.fetch(query, list(lost))] == ["other"]
    finally:
        await database.execute("DELETE FROM findings WHERE arm = ANY ($1)", list(lost))
        await database.close()
        await findings.close()


async def the_verdict_says_so(settings: Settings) -> None:
    """The view of verdicts says what is promised: the row of a ghost is broken."""
    found = await connect(settings.ledger, "auditor", name="test")
    try:
        query = "SELECT verdict FROM verdicts WHERE arm = 'at_least_once' AND effect = 'record'"
        assert await found.fetchval(query) == "broken"
    finally:
        await found.close()


async def test_the_reader_may_look_at_what_was_found_and_touch_nothing(settings: Settings) -> None:
    address = settings.ledger.replace("//lab:", "//reader:")
    reader = await asyncpg.connect(f"{address}/auditor")
    try:
        await reader.fetch("SELECT * FROM verdicts")
        await reader.fetch("SELECT * FROM findings LIMIT 1")
        with pytest.raises(asyncpg.PostgresError):
            await reader.execute("DELETE FROM findings")
    finally:
        await reader.close()
