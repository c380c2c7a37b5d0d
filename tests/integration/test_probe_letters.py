"""What the probe asks about parked letters, on a real Postgres."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
import pytest

from services import payments
from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.probe.databases import _LETTERS, PAYMENTS, Databases, Pending
from services.storage.postgres import connect
from tests.conftest import Infra

TABLES: Final = Path(payments.__file__).parent / "schema" / "common.sql"
HOUR_S: Final = 3600.0


@pytest.fixture
async def connection(infra: Infra) -> AsyncIterator[Any]:
    made = await connect(infra.postgres, PAYMENTS, name="t")
    yield made
    await made.close()


@pytest.fixture
async def arm(connection: Any) -> AsyncIterator[ConsumerArm]:
    """An arm of which the lab's processes know nothing, with tables of its own."""
    made = msgspec.structs.replace(CONSUMER_ARMS["at_least_once"], name=f"t_{uuid4().hex[:12]}")
    await connection.execute(TABLES.read_text().replace("{schema}", made.schema))
    yield made
    await connection.execute(f"DROP SCHEMA {made.schema} CASCADE")


async def set_down(connection: Any, arm: ConsumerArm, count: int, *, ago_s: float, state: str = "parked") -> None:
    await connection.execute(
        f"""
        INSERT INTO {arm.schema}.dead_letters (topic, partition, "offset", reason, detail, state, life, at)
        SELECT $1, 0, n, 'refused', '', $2, $3, clock_timestamp() - $4 * interval '1 second'
          FROM generate_series(1, $5) AS n ORDER BY n
        """,  # noqa: S608
        f"t.{uuid4()}", state, uuid4(), ago_s, count,
    )  # fmt: skip


async def test_the_oldest_letter_is_the_oldest_of_those_that_are_parked(
    infra: Infra, connection: Any, arm: ConsumerArm
) -> None:
    without = msgspec.structs.replace(CONSUMER_ARMS["stock_faust"], name="nowhere")
    assert not without.dead_letters
    probe = Databases(infra.postgres, "t")
    try:
        await set_down(connection, arm, 2, ago_s=9 * HOUR_S, state="discarded")
        assert await probe.letters([arm, without]) == {arm.name: Pending(0, 0.0)}
        await set_down(connection, arm, 2, ago_s=2 * HOUR_S)
        await set_down(connection, arm, 1, ago_s=HOUR_S)
        found = (await probe.letters([arm]))[arm.name]
        assert found.rows == 3
        assert found.oldest_s == pytest.approx(2 * HOUR_S, abs=60)
    finally:
        await probe.close()


async def test_a_large_table_is_not_read_for_it(connection: Any, arm: ConsumerArm) -> None:
    """Neither the letters that are parked no more, nor, but for the first, the contents of those that are."""
    await set_down(connection, arm, 5_000, ago_s=HOUR_S, state="redriven")
    await set_down(connection, arm, 5_000, ago_s=HOUR_S)
    await connection.execute(f"VACUUM ANALYZE {arm.schema}.dead_letters")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {_LETTERS.format(schema=arm.schema)}"))
    assert "Seq Scan" not in plan, plan
    assert plan.count("dead_letters_parked") == 2, plan
